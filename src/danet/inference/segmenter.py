"""Segmenter: a model with all that stands between an image and its prediction.

The one path that command line, evaluation and validation during training take:
image → views and windows (by a Protocol) at the size rule's size, normalised (both kept in the bundle) → model →
fused scores at the image's own size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import overload

import numpy as np
import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from danet.config import Preprocess
from danet.data.channels import to_display
from danet.data.labels import LabelSpace
from danet.data.transforms import normalise
from danet.errors import InputError
from danet.inference.device import Precision, autocast, batch_pixels, choose_device, choose_precision
from danet.inference.encoding import Encoding
from danet.inference.explanation import label_map, nearest
from danet.inference.exported import ExportedModel
from danet.inference.forewarning import Forewarning
from danet.inference.image_like import ImageLike, Pixels, as_pixels
from danet.inference.network import ready
from danet.inference.prediction import Prediction
from danet.inference.protocol import PROTOCOLS, Protocol, as_protocol
from danet.inference.views import fused, network_size, resized
from danet.models.layers import resize
from danet.models.segmentation import SegmentationModel
from danet.viz.answer import UNNAMED, LabelMap, ModelFacts
from danet.weights.bundle import load_bundle
from danet.weights.exported import LABELS, MODEL, is_exported, read_exported
from danet.weights.zoo import DEFAULT, find_bundle

WHOLE = PROTOCOLS["whole"][0]
TOY = "A toy trained on drawn streets alone; it shows what attention does, and knows no photographs."


class Segmenter:
    """Images of any size at least 32×32 to Predictions; `danet.inference.image_like` tells what is an image.

    Ordinary pictures are read in any of Pillow's formats; a model of other channels takes files that have these (see
    `danet.data.images.read_image`). Raises InputError for others.

    It predicts with a copy of `model` as it is now, made ready for inference, and keeps nothing of an image, so that
    threads can share it; `facts` are what answers tell of it.
    """

    def __init__(
        self,
        model: SegmentationModel | ExportedModel,
        labels: LabelSpace,
        preprocess: Preprocess,
        device: str = "auto",
        precision: str = "auto",
        facts: ModelFacts = UNNAMED,
    ) -> None:
        self.device = choose_device(device)
        self.precision: Precision = choose_precision(precision, self.device)
        self.model = model if isinstance(model, ExportedModel) else ready(model, self.device)
        self.labels = labels
        self.preprocess = preprocess
        self.facts = facts
        self._forewarning = Forewarning(self.model, self.device)

    def __repr__(self) -> str:
        model = self.facts.name or type(self.model).__name__
        return f"Segmenter({model}, {self.labels.num_classes} classes, on {self.device} in {self.precision})"

    @overload
    def __call__(self, images: ImageLike, protocol: Protocol | str = WHOLE) -> Prediction: ...
    @overload
    def __call__(self, images: Iterable[ImageLike], protocol: Protocol | str = WHOLE) -> Iterator[Prediction]: ...
    def __call__(
        self, images: ImageLike | Iterable[ImageLike], protocol: Protocol | str = WHOLE
    ) -> Prediction | Iterator[Prediction]:
        """One image to its Prediction; an iterable of images to a lazy iterator, in order."""
        if isinstance(images, ImageLike):
            return self.predict(images, protocol)
        return (self.predict(image, protocol) for image in images)

    def predict(self, image: ImageLike, protocol: Protocol | str = WHOLE) -> Prediction:
        """The Prediction of one image, by `protocol`: a Protocol, a preset's name, or a file with one.

        Raises InputError for an unknown protocol, and for its classes that the model has not.
        """
        protocol, pixels = as_protocol(protocol), as_pixels(image, self.preprocess)
        with torch.inference_mode():
            scores, fusion = fused(
                as_batch(pixels),
                self.normalised,
                self.logits,
                protocol,
                longest=self.preprocess.longest,
                align_corners=self.model.align_corners,
                chosen=[self.labels.index(name) for name in protocol.classes],
                batch_pixels=batch_pixels(self.device),
            )
        return Prediction(to_display(pixels, self.preprocess), scores, self.labels, fusion)

    def encode(self, image: ImageLike) -> Encoding:
        """One forward of one image, kept, for its prediction and its attention.

        Raises InputError for an image that is none, and for an exported model.
        """
        model = self.model
        if isinstance(model, ExportedModel):
            raise InputError(
                f"{model.folder} is an exported model, which tells logits alone; for its attention give the run or the "
                "bundle that it came from."
            )
        pixels = as_pixels(image, self.preprocess)
        with self._inference():
            seen = self.prepare(pixels)
            self._forewarning(seen)
            output, traces = model.trace(seen)
            prediction, size = self._prediction(pixels, output.logits), output.logits.shape[-2:]

        def without(removed: Bool[np.ndarray, " n"]) -> Float[Tensor, "k h w"]:
            if "position" not in traces:
                raise InputError("This model has no position attention; its head must be danet, dranet or pam.")
            with self._inference():
                logits = model.without(traces, torch.from_numpy(removed).to(self.device), size)
                return self._prediction(pixels, logits).probabilities

        def again(gathered: Iterable[Float[Tensor, "1 n c"]], at: tuple[int, int]) -> list[LabelMap]:
            with self._inference():
                changed = model.again(traces, gathered, size)
                return [label_map(nearest(self._enlarged(pixels, logits)[0], at).softmax(0)) for logits in changed]

        return Encoding(prediction, traces, without, again, model.anatomy.span(size), self.facts)

    def prepare(self, pixels: Pixels) -> Float[Tensor, "1 c H W"]:
        """The network's input of an image seen whole, at the size that the size rule gives it."""
        size = network_size(pixels.shape[0], pixels.shape[1], self.preprocess.longest)
        return self.normalised(resized(as_batch(pixels), size, WHOLE.resample))

    def to_input(self, pixels: Pixels) -> Float[Tensor, "1 c h w"]:
        """The network's input of an image, or of a part of it, at its own size."""
        return self.normalised(as_batch(pixels))

    def normalised(self, images: Num[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """File values as the network takes them, on its device."""
        rule = self.preprocess
        return normalise(images.to(self.device), rule.mean, rule.std, rule.range)

    def logits(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """One forward of what `normalised` gives, at its own size; of one that takes long a warning tells first."""
        with self._inference():
            self._forewarning(images)
            return self.model(images).logits

    def _prediction(self, pixels: Pixels, logits: Float[Tensor, "1 k H W"]) -> Prediction:
        return Prediction(to_display(pixels, self.preprocess), self._enlarged(pixels, logits)[0], self.labels)

    def _enlarged(self, pixels: Pixels, logits: Float[Tensor, "1 k H W"]) -> Float[Tensor, "1 k h w"]:
        """Logits at the size of the image itself."""
        size = torch.Size(pixels.shape[:2])
        return logits if logits.shape[-2:] == size else resize(logits, size, self.model.align_corners)

    @contextmanager
    def _inference(self) -> Iterator[None]:
        with torch.inference_mode(), autocast(self.device, self.precision):
            yield


def load(model: str | Path | None = None, device: str = "auto", precision: str = "auto") -> Segmenter:
    """A Segmenter from a run's folder, a bundle's, a model's name (`danet info` lists), or `owner/name` on the Hub.

    Or from an exported model's folder, or the model.onnx in it, which runs on the CPU in its own precision.

    A published model is fetched and converted once, and kept in the user's cache folder (or DANET_CACHE). None is
    street-tiny, which comes with the package: a toy trained on drawn streets alone.

    Raises InputError for a missing, altered or foreign file, an unknown name, and what cannot be fetched.
    """
    folder = find_bundle(model)
    if is_exported(folder):
        return _exported(folder, own_name(model), device, precision)
    bundle = load_bundle(folder)
    facts = ModelFacts(own_name(model), bundle.model_config.head, bundle.model_config.backbone, note(model))
    return Segmenter(bundle.model, bundle.labels, bundle.preprocess, device, precision, facts)


def _exported(folder: Path, name: str, device: str, precision: str) -> Segmenter:
    """A Segmenter of an exported model; raises InputError for a device or a precision that is not its own."""
    told = read_exported(folder)
    if device not in ("auto", "cpu"):
        raise InputError(f"device is {device!r}, but {folder} is an exported model, which runs on the cpu here.")
    if precision not in ("auto", told.precision):
        raise InputError(
            f"precision is {precision!r}, but {folder} was exported in {told.precision}: leave it out, or export again."
        )
    facts = ModelFacts(name, told.head, told.backbone, "")
    network, where = ExportedModel(folder, told), str(folder / LABELS)
    return Segmenter(network, told.space(where), told.preprocess(where), "cpu", told.precision, facts)


def own_name(model: str | Path | None) -> str:
    """What a model is called: one in a folder by that, without what it is in; others as they were named."""
    if model is None:
        return DEFAULT
    path = Path(model).absolute()
    return str(model) if not path.exists() else path.parent.name if path.name in ("best", MODEL) else path.name


def note(model: str | Path | None) -> str:
    """What a toy says of itself."""
    return TOY if model is None or str(model) == DEFAULT else ""


def as_batch(pixels: Pixels) -> Num[Tensor, "1 c h w"]:
    """An image's values as a batch of one; no copy."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]
