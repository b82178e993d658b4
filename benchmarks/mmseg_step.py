"""The other side of training.py: training steps of mmsegmentation 1.2.2's DANet-ResNet50, one for each line of input.

    python benchmarks/mmseg_step.py --size 768 768 [--batch 1] [--precision bfloat16] [--classes 19]

It needs no danet, but an environment with torch, torchvision, matplotlib, rich, scipy and packaging, and in it, by
`pip install --no-deps`, mmsegmentation 1.2.2, mmengine, mmcv-lite 2.1.0, opencv-python-headless, addict, ftfy,
prettytable, regex, termcolor, wcwidth and yapf. Compiled operators, which mmcv-lite lacks, have stand-ins.

The network is that of their configs/_base_/models/danet_r50-d8.py with BatchNorm for SyncBN and random weights; the
losses, and the accuracy that they report beside them, are their own. It says what it is in one line of JSON; then, for
each line "go", it does one step (forward, losses, backward, SGD) and prints its seconds, and for a line "peak" the most
bytes that the process had since its first step began.
"""

import argparse
import importlib
import importlib.machinery
import json
import sys
import time
import types
import warnings
from importlib.metadata import version
from pathlib import Path

import torch


def stand_in(name: str) -> types.ModuleType:
    """A module that has whatever is asked of it, for compiled operators that DANet never calls."""

    class Missing(types.ModuleType):
        def __getattr__(self, attribute: str) -> type:
            if attribute.startswith("__"):
                raise AttributeError(attribute)
            return type(attribute, (), {})

    module = Missing(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    return module


def build(classes: int) -> torch.nn.Module:
    """Their network; imports come after the stand-ins."""
    for name in ("mmcv.ops", "mmcv._ext"):
        sys.modules[name] = stand_in(name)
    importlib.import_module("mmseg.models")  # registers the parts
    from mmseg.registry import MODELS

    norm = {"type": "BN", "requires_grad": True}
    head = {
        "dropout_ratio": 0.1,
        "num_classes": classes,
        "norm_cfg": norm,
        "align_corners": False,
    }
    return MODELS.build(
        {
            "type": "EncoderDecoder",
            "backbone": {
                "type": "ResNetV1c",
                "depth": 50,
                "num_stages": 4,
                "out_indices": (0, 1, 2, 3),
                "dilations": (1, 1, 2, 4),
                "strides": (1, 2, 1, 1),
                "norm_cfg": norm,
                "norm_eval": False,
                "style": "pytorch",
                "contract_dilation": True,
            },
            "decode_head": {
                "type": "DAHead",
                "in_channels": 2048,
                "in_index": 3,
                "channels": 512,
                "pam_channels": 64,
                "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
                **head,
            },
            "auxiliary_head": {
                "type": "FCNHead",
                "in_channels": 1024,
                "in_index": 2,
                "channels": 256,
                "num_convs": 1,
                "concat_input": False,
                "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 0.4},
                **head,
            },
            "train_cfg": {},
            "test_cfg": {"mode": "whole"},
        }
    )


def peak_memory() -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, required=True)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of what is deprecated in theirs
    torch.manual_seed(0)
    model = build(options.classes).train()
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(options.batch, 3, *options.size)
    masks = torch.randint(options.classes, (options.batch, *options.size))
    masks[:, :8] = 255  # some pixels are never labelled
    samples = [SegDataSample(gt_sem_seg=PixelData(data=mask[None])) for mask in masks]

    def step() -> None:
        # As mmengine's AmpOptimWrapper, which also has the losses under autocast.
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.precision == "bfloat16"):
            loss, _ = model.parse_losses(model.loss(images, samples))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    name = f"mmsegmentation {version('mmsegmentation')}, torch {torch.__version__.partition('+')[0]}"
    print(json.dumps({"name": name, "parameters": sum(p.numel() for p in model.parameters())}), flush=True)
    Path("/proc/self/clear_refs").write_text("5")
    for line in sys.stdin:
        if line.strip() == "go":
            start = time.perf_counter()
            step()
            print(time.perf_counter() - start, flush=True)
        else:
            print(peak_memory(), flush=True)


if __name__ == "__main__":
    main()
