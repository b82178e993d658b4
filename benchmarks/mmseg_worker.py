"""The other side of training.py and inference.py: mmsegmentation 1.2.2's DANet-ResNet50, once for each line of input.

    python benchmarks/mmseg_worker.py --size 768 768 [--batch 1] [--precision bfloat16] [--classes 19]
    python benchmarks/mmseg_worker.py --image FILE.npy --weights FILE.pth --labels OUT.npy [--precision bfloat16]

It needs no danet, but an environment with torch, torchvision, matplotlib, rich, scipy and packaging, and in it, by
`pip install --no-deps`, mmsegmentation 1.2.2, mmengine, mmcv-lite 2.1.0, opencv-python-headless, addict, ftfy,
prettytable, regex, termcolor, wcwidth and yapf. Compiled operators, which mmcv-lite lacks, have stand-ins.

The network is that of their configs/_base_/models/danet_r50-d8.py with BatchNorm for SyncBN. For each line it does its
work once (worker.py): a training step from random weights (forward, losses and the accuracy that they report beside
them, backward, SGD), or with --image their whole-image inference: normalised, predicted, resized to the image's size,
argmax, by their own `test_step`; the labels are written.
"""

import argparse
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from worker import serve


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
    from mmengine.config import ConfigDict
    from mmseg.models import SegDataPreProcessor  # which registers the parts
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
            "data_preprocessor": SegDataPreProcessor(
                mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], test_cfg={"size_divisor": 1}
            ),
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
            "test_cfg": ConfigDict(mode="whole"),
        }
    )


def training_step(options: argparse.Namespace) -> tuple[torch.nn.Module, Callable[[], object]]:
    """Their network, and one step of its training on noise."""
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

    return model, step


def whole_image(options: argparse.Namespace) -> tuple[torch.nn.Module, Callable[[], object]]:
    """Their network with the weights of a file, and its prediction of an image, RGB as height × width × 3."""
    model = build(options.classes).eval()
    model.load_state_dict(torch.load(options.weights, weights_only=True)["state_dict"], strict=True)
    from mmseg.structures import SegDataSample

    image = torch.from_numpy(np.load(options.image)).permute(2, 0, 1).contiguous()
    size = tuple(image.shape[1:])
    sample = SegDataSample(metainfo={"ori_shape": size, "img_shape": size, "pad_shape": size, "flip": False})

    def predict() -> None:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.precision == "bfloat16"):
            found = model.test_step({"inputs": [image], "data_samples": [sample]})[0]
        np.save(options.labels, found.pred_sem_seg.data[0].byte().numpy())

    return model, predict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--image", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--labels", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of what is deprecated in theirs
    torch.manual_seed(0)
    model, work = whole_image(options) if options.image else training_step(options)
    name = f"mmsegmentation {version('mmsegmentation')}, torch {torch.__version__.partition('+')[0]}"
    serve({"name": name, "parameters": sum(p.numel() for p in model.parameters())}, work)


if __name__ == "__main__":
    main()
