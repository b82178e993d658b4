"""What the server tells of an image: its labels as a PNG file or as JSON, and who answers."""

from base64 import b64encode
from io import BytesIO
from typing import Literal

from PIL import Image
from pydantic import BaseModel

from danet import __version__
from danet.inference.prediction import Prediction
from danet.inference.segmenter import Segmenter
from danet.serving.images import FORMATS
from danet.serving.limits import Limits
from danet.viz.answer import bytes_of


class NamedColour(BaseModel):
    """A class of the model."""

    name: str
    colour: str


class ClassShare(NamedColour):
    """A class, and its share of the image's pixels."""

    share: float


class Segmentation(BaseModel):
    """An image's labels. `size` is height and width of what was segmented: where it was shrunk, of that.

    `labels` and `confidence` are PNG files of that size in base64: class indices with their colours as palette, and the
    probability of the class as 0 to 255.
    """

    name: str
    size: tuple[int, int]
    classes: list[ClassShare]
    labels: str
    confidence: str


class ImageLimits(BaseModel):
    """Of one image: the bytes of its file, its pixels, and the seconds that it may take to arrive, or in work."""

    bytes: int
    pixels: int
    seconds: float


class Model(BaseModel):
    """Who answers, and how much may be asked; the network sees images shrunk to `longest` pixels, if that is a number.

    `seconds_per_megapixel` that the network sees were measured when the server started.
    """

    name: str
    head: str
    backbone: str
    note: str
    classes: list[NamedColour]
    formats: list[str]
    limits: ImageLimits
    longest: int | None
    seconds_per_megapixel: float
    version: str


class Health(BaseModel):
    """The server answers."""

    status: Literal["ok"] = "ok"


def describe(segmenter: Segmenter, limits: Limits, seconds_per_megapixel: float) -> Model:
    """The model, its classes and the limits."""
    space = segmenter.labels
    colours = zip(space.names, space.colours, strict=True)
    return Model(
        **segmenter.facts._asdict(),
        classes=[NamedColour(name=name, colour=f"#{bytes(colour).hex()}") for name, colour in colours],
        formats=list(FORMATS),
        limits=ImageLimits(bytes=limits.bytes, pixels=limits.pixels, seconds=limits.seconds),
        longest=segmenter.preprocess.longest,
        seconds_per_megapixel=round(seconds_per_megapixel, 3),
        version=__version__,
    )


def as_json(prediction: Prediction, name: str) -> bytes:
    """Labels, confidence and shares."""
    space, (height, width) = prediction.space, prediction.labels.shape
    colours = zip(space.names, space.colours, strict=True)
    found = Segmentation(
        name=name,
        size=(height, width),
        classes=[
            ClassShare(name=one, colour=f"#{bytes(colour).hex()}", share=prediction.shares[one])
            for one, colour in colours
        ],
        labels=b64encode(as_png(prediction)).decode(),
        confidence=b64encode(_png(Image.fromarray(bytes_of(prediction.confidence)))).decode(),
    )
    return found.model_dump_json().encode()


def as_png(prediction: Prediction) -> bytes:
    """Class indices with the classes' colours as palette."""
    return _png(prediction.label_image())


def _png(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
