"""Segmenter: a model with all that stands between an image and its prediction.

The one path that command line, evaluation and validation during training take:
image → size rule and normalisation (both kept in the bundle) → model → probabilities at the image's own size.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import overload

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from jaxtyping import Bool, Float
from torch import Tensor

from danet.config import SMALLEST_SIDE, Preprocess
from danet.data.channels import to_display
from danet.data.labels import LabelSpace
from danet.data.transforms import normalise
from danet.errors import InputError
from danet.inference.device import Precision, autocast, choose_device, choose_precision
from danet.inference.encoding import Encoding
from danet.inference.explanation import label_map, nearest
from danet.inference.image_like import ImageLike, Pixels, as_pixels
from danet.inference.network import ready
from danet.inference.prediction import Prediction
from danet.models.layers import resize
from danet.models.segmentation import SegmentationModel
from danet.viz.answer import UNNAMED, LabelMap, ModelFacts
from danet.weights.bundle import load_bundle
from danet.weights.zoo import DEFAULT, find_bundle

TOY = "A toy trained on drawn streets alone; it shows what attention does, and knows no photographs."


class Segmenter:
    """Images of any size at least 32×32 to Predictions: a path, a PIL image, or an array of file values, H×W×C.

    Ordinary pictures are read in any of Pillow's formats; a model of other channels takes files that have these (see
    `danet.data.images.read_image`). Raises InputError for others.

    It predicts with a copy of `model` as it is now, made ready for inference; `facts` are what answers tell of it.
    """

    def __init__(
        self,
        model: SegmentationModel,
        labels: LabelSpace,
        preprocess: Preprocess,
        device: str = "auto",
        precision: str = "auto",
        facts: ModelFacts = UNNAMED,
    ) -> None:
        self.device = choose_device(device)
        self.precision: Precision = choose_precision(precision, self.device)
        self.model = ready(model, self.device)
        self.labels = labels
        self.preprocess = preprocess
        self.facts = facts

    @overload
    def __call__(self, images: ImageLike) -> Prediction: ...
    @overload
    def __call__(self, images: Iterable[ImageLike]) -> Iterator[Prediction]: ...
    def __call__(self, images: ImageLike | Iterable[ImageLike]) -> Prediction | Iterator[Prediction]:
        """One image to its Prediction; an iterable of images to a lazy iterator, in order."""
        if isinstance(images, ImageLike):
            return self.predict(images)
        return map(self.predict, images)

    def predict(self, image: ImageLike) -> Prediction:
        """The Prediction of one image."""
        pixels = as_pixels(image, self.preprocess)
        with self._inference():
            logits = self.model(self.prepare(pixels)).logits
            return self._prediction(pixels, logits)

    def encode(self, image: ImageLike) -> Encoding:
        """One forward of one image, kept, for its prediction and its attention."""
        pixels = as_pixels(image, self.preprocess)
        with self._inference():
            output, traces = self.model.trace(self.prepare(pixels))
            prediction, size = self._prediction(pixels, output.logits), output.logits.shape[-2:]

        def without(removed: Bool[np.ndarray, " n"]) -> Float[Tensor, "k h w"]:
            if "position" not in traces:
                raise InputError("This model has no position attention; its head must be danet, dranet or pam.")
            with self._inference():
                logits = self.model.without(traces, torch.from_numpy(removed).to(self.device), size)
                return self._prediction(pixels, logits).probabilities

        def again(gathered: Iterable[Float[Tensor, "1 n c"]], at: tuple[int, int]) -> list[LabelMap]:
            with self._inference():
                changed = self.model.again(traces, gathered, size)
                return [label_map(nearest(self._enlarged(pixels, logits)[0], at).softmax(0)) for logits in changed]

        return Encoding(prediction, traces, without, again, self.model.anatomy.span(size), self.facts)

    def at_original_size(self) -> Segmenter:
        """The same model without its size rule."""
        segmenter = copy.copy(self)
        segmenter.preprocess = self.preprocess.model_copy(update={"longest": None})
        return segmenter

    def prepare(self, pixels: Pixels) -> Float[Tensor, "1 c H W"]:
        """The network's input: shrunk by the size rule where need be, normalised, on the device."""
        images = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        size = network_size(pixels.shape[0], pixels.shape[1], self.preprocess.longest)
        if size != pixels.shape[:2]:
            images = TF.resize(images, list(size), antialias=True)
        rule = self.preprocess
        return normalise(images.to(self.device), rule.mean, rule.std, rule.range)

    def _prediction(self, pixels: Pixels, logits: Float[Tensor, "1 k H W"]) -> Prediction:
        probabilities = self._enlarged(pixels, logits)[0].softmax(0).cpu()
        return Prediction(to_display(pixels, self.preprocess), probabilities, self.labels)

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

    A published model is fetched and converted once, and kept in the user's cache folder (or DANET_CACHE). None is
    street-tiny, which comes with the package: a toy trained on drawn streets alone.

    Raises InputError for a missing, altered or foreign file, an unknown name, and what cannot be fetched.
    """
    bundle = load_bundle(find_bundle(model))
    facts = ModelFacts(own_name(model), bundle.model_config.head, bundle.model_config.backbone, note(model))
    return Segmenter(bundle.model, bundle.labels, bundle.preprocess, device, precision, facts)


def own_name(model: str | Path | None) -> str:
    """What a model is called: a run or a bundle by its folder, without what that is in; others as they were named."""
    if model is None:
        return DEFAULT
    path = Path(model).absolute()
    return str(model) if not path.exists() else path.parent.name if path.name == "best" else path.name


def note(model: str | Path | None) -> str:
    """What a toy says of itself."""
    return TOY if model is None or str(model) == DEFAULT else ""


def network_size(height: int, width: int, longest: int | None) -> tuple[int, int]:
    """Height and width at which the network sees an image: its longest side at most `longest`, no side under 32."""
    if min(height, width) < SMALLEST_SIDE:
        raise InputError(f"The image is {width}×{height} pixels; each side must be at least {SMALLEST_SIDE}.")
    factor = min(1.0, (longest or max(height, width)) / max(height, width))
    return max(round(height * factor), SMALLEST_SIDE), max(round(width * factor), SMALLEST_SIDE)
