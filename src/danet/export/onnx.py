"""A model as a folder that runs without this package: model.onnx, labels.json, and run.py, which segments an image.

The graph takes file values and normalises them itself; batch, height and width are free. The folder is there only if
the exported model says what the original says.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from danet.config import SMALLEST_SIDE, Channels, Preprocess
from danet.data.parallel import Progress
from danet.data.scenes import scene
from danet.data.transforms import normalise
from danet.errors import InputError
from danet.export.attend import FORMS, OPSET
from danet.files import built_aside, sha256
from danet.inference.network import ready
from danet.models.segmentation import SegmentationModel
from danet.ops.operator import attend
from danet.weights.bundle import Bundle
from danet.weights.exported import DATA, FORMAT, LABELS, MODEL, Exported, ExportPrecision, Form, Size

RUN = "run.py"
SIZES = ((96, 128), (129, 161), (191, 255))
"""Height and width of the images on which both models are compared; none is the example's that is traced."""
TOLERANCE, AGREEMENT = 1e-3, 0.999
"""How far a float32 logit may be off, and the share of pixels that must keep their label."""
LARGEST = 2**31 - 2**27
"""Bytes of tensors that one file may hold: a protobuf ends at 2 GB."""


class ParityError(Exception):
    """The exported model does not say what the original says."""


class Parity(NamedTuple):
    """How near the exported model is to the original on images of one size."""

    height: int
    width: int
    images: int
    largest_difference: float
    """Of any two logits."""
    agreement: float
    """The share of pixels of the same label."""


class FromFileValues(nn.Module):
    """File values (B×C×H×W) to logits at their size, both float32; inside, the network has a precision of its own."""

    offset: Tensor
    spread: Tensor

    def __init__(self, model: SegmentationModel, rule: Preprocess, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model.to(dtype), dtype
        low, high = rule.range
        # as danet.data.transforms.normalise has them
        self.register_buffer("offset", (low + (high - low) * torch.tensor(rule.mean)).view(-1, 1, 1))
        self.register_buffer("spread", ((high - low) * torch.tensor(rule.std)).view(-1, 1, 1))

    def forward(self, images: Float32[Tensor, "b c h w"]) -> Float32[Tensor, "b k h w"]:
        return self.model(((images - self.offset) / self.spread).to(self.dtype)).logits.float()


def export_onnx(
    folder: Path,
    bundle: Bundle,
    name: str,
    precision: ExportPrecision = "float32",
    attention: Form = "blocks",
    progress: Progress | None = None,
) -> list[Parity]:
    """Write `folder`, new or empty, of the model that is called `name`; returns how near it is to the original.

    Raises ParityError where it is not near enough, InputError where torch cannot export it, and OSError; then there is
    no folder.
    """
    steps, done = 1 + len(SIZES), 0
    with built_aside(folder) as aside:
        if progress:
            progress(done, steps)
        write_model(aside / MODEL, bundle.model, bundle.preprocess, precision, attention)
        session = onnxruntime.InferenceSession(aside / MODEL, providers=["CPUExecutionProvider"])
        found = []
        for done, size in enumerate(SIZES, start=1):
            if progress:
                progress(done, steps)
            found.append(compare(session, bundle, size))
        if progress:
            progress(steps, steps)
        refuse_far(found, precision)
        files = {path.name: sha256(path) for path in (aside / MODEL, aside / DATA) if path.is_file()}
        facts = describe(bundle, name, precision, attention, found, files)
        (aside / LABELS).write_text(facts.model_dump_json(indent=2) + "\n", encoding="utf-8")
        shutil.copyfile(Path(__file__).with_name(RUN), aside / RUN)
        aside.chmod(0o755)
    return found


def write_model(
    path: Path,
    model: SegmentationModel,
    rule: Preprocess,
    precision: ExportPrecision = "float32",
    attention: Form = "blocks",
) -> None:
    """`model`, with the normalisation by `rule` before it and its norms folded, as one ONNX file.

    Raises InputError for an operator that torch cannot export.
    """
    network = FromFileValues(ready(model, torch.device("cpu")), rule, getattr(torch, precision)).eval()
    write_graph(path, network, torch.zeros(2, len(rule.names), 70, 93), ["logits"], attention)


def write_graph(
    path: Path, network: nn.Module, images: Float32[Tensor, "b c h w"], outputs: Sequence[str], attention: Form
) -> None:
    """`network`, which makes the named `outputs` of "images", as one ONNX file; of `images` no size is kept but c.

    A batch of one is kept too. Raises InputError for an operator that torch cannot export.
    """
    free = torch.export.Dim.DYNAMIC
    sizes = ({2: free, 3: free} | ({0: free} if len(images) > 1 else {}),)
    with torch.no_grad():
        try:
            exported = torch.onnx.export(
                network,
                (images,),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=["images"],
                output_names=list(outputs),
                dynamic_shapes=sizes,
                custom_translation_table={attend: FORMS[attention]},
            )
        except torch.onnx.OnnxExporterError as error:
            raise InputError(
                f"torch cannot export this model: {_reason(error)}; use another backbone, such as a ResNet."
            ) from None
    assert exported is not None
    values = (one.const_value for one in exported.model.graph.initializers.values())
    size = sum(value.nbytes for value in values if value is not None)
    exported.save(path, external_data=size > LARGEST)


def compare(session: onnxruntime.InferenceSession, bundle: Bundle, size: tuple[int, int], batch: int = 3) -> Parity:
    """Both models on three drawn scenes of `size`, `batch` of them at a time."""
    rule = bundle.preprocess
    images = drawn(rule, size)
    with torch.inference_mode():
        expected = bundle.model(normalise(torch.from_numpy(images), rule.mean, rule.std, rule.range)).logits.numpy()
    parts = np.split(images, len(images) // batch)
    found = np.concatenate([np.asarray(session.run(["logits"], {"images": part})[0]) for part in parts])
    difference = float(np.abs(found - expected).max())
    return Parity(*size, len(images), difference, float((found.argmax(1) == expected.argmax(1)).mean()))


def drawn(rule: Preprocess, size: tuple[int, int]) -> Float32[np.ndarray, "3 c h w"]:
    """Three street scenes as file values of `rule`; channels beyond three repeat the colours."""
    low, high = rule.range
    scenes = np.stack([scene(0, index, *size).image for index in range(3)]).transpose(0, 3, 1, 2)
    channels = scenes[:, np.arange(len(rule.names)) % 3] / np.float32(255)
    return (low + (high - low) * channels).astype(np.float32)


def describe(
    bundle: Bundle,
    name: str,
    precision: ExportPrecision,
    attention: Form,
    parity: list[Parity],
    files: dict[str, str],
) -> Exported:
    """What labels.json holds: all that is needed to use model.onnx, and what is known of it."""
    rule, config = bundle.preprocess, bundle.model_config
    return Exported(
        format=FORMAT,
        model=name,
        head=config.head,
        backbone=config.backbone,
        labels=bundle.labels.name,
        names=list(bundle.labels.names),
        colours=list(bundle.labels.colours),
        channels=Channels(**rule.model_dump(include=set(Channels.model_fields))),
        size=Size(longest=rule.longest, smallest=SMALLEST_SIDE, align_corners=bundle.model.align_corners),
        input="images: float32, batch × channels × height × width, file values (not normalised)",
        output="logits: float32, batch × classes × height × width, at the input's size",
        precision=precision,
        attention=attention,
        opset=OPSET,
        versions={package: version(package) for package in ("danet", "torch", "onnx", "onnxscript", "onnxruntime")},
        parity=[one._asdict() for one in parity],
        files=files,
    )


def refuse_far(parity: list[Parity], precision: ExportPrecision) -> None:
    """Raise ParityError where the exported model is not near enough to the original."""
    for one in parity:
        near = one.agreement >= AGREEMENT and (precision != "float32" or one.largest_difference <= TOLERANCE)
        if not near:  # also where the difference is no number
            limit = f"{TOLERANCE:g} and " if precision == "float32" else ""
            raise ParityError(
                f"At {one.width}×{one.height} pixels the exported model's logits differ from the original's by up to "
                f"{one.largest_difference:.2g}, and {100 * one.agreement:.2f} % of the labels agree; it must be "
                f"{limit}{100 * AGREEMENT:g} %, so nothing was written"
                + ("." if precision == "float32" else "; try --precision float32.")
            )


def _reason(error: BaseException) -> str:
    """What stopped the exporter, in a sentence: the innermost cause, which names the operator."""
    while error.__cause__ is not None:
        error = error.__cause__
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return first.partition(". ")[0].rstrip(".")[:200]
