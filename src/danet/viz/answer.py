"""The answer: one image with all that its attention follows from, as one safetensors file that the page reads.

A client computes any row or column of the map from it, so nobody is asked twice; the server sends the same bytes that
a stand-alone page holds. The file explains itself: its metadata `danet` is a JSON text with sizes, classes and gates.
"""

import json
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from safetensors.numpy import save

from danet.data.labels import LabelSpace

FORMAT = 1
LONGEST = 1024  # pixels of the page's picture: what a screen shows


class ModelFacts(NamedTuple):
    """Who answers: the model's name, head and backbone, and a sentence that a toy says of itself."""

    name: str = ""
    head: str = ""
    backbone: str = ""
    note: str = ""


UNNAMED = ModelFacts()


class LabelMap(NamedTuple):
    """Class indices, and the probability of each as 0 to 255."""

    labels: UInt8[np.ndarray, "h w"]
    confidence: UInt8[np.ndarray, "h w"]


class PositionView(NamedTuple):
    """Position attention of one image of n places, which are the cells of `grid`, row by row.

    Keys are the places', or those of windows of places: then each row of `pool` has the same weight on all places of
    its key's window, 1 in all. `span` is how many rows and columns of places the image takes up, `similarity` the mean
    cosine of pairs of rows of the map. `features` are A, `value` the keys' values and `gathered` what the map makes of
    these, all by the same three components, for colours of 0 to 1. `gate_labels` are predicted with `gates` times the
    gate; `taken` where every place does without the share `taken_share` of its keys, its most attended, and `control`
    without as many random others.
    """

    gate: float
    share: float
    grid: tuple[int, int]
    span: tuple[float, float]
    similarity: float
    query: Float32[np.ndarray, "n d"]
    key: Float32[np.ndarray, "m d"]
    logsumexp: Float32[np.ndarray, " n"]
    pool: Float32[np.ndarray, "m n"] | None
    features: Float32[np.ndarray, "n 3"]
    value: Float32[np.ndarray, "m 3"]
    gathered: Float32[np.ndarray, "n 3"]
    gates: tuple[float, ...]
    gate_labels: UInt8[np.ndarray, "g h w"]
    taken_share: float
    taken: LabelMap
    control: LabelMap


class ChannelMaps(NamedTuple):
    """Some of the `total` channels of channel attention, before and after it, on its grid.

    `draws_on` has for each of them the channels that it gathers most from, with their weights, `energy` what the
    weights of all follow from by either rule.
    """

    gate: float
    share: float
    rule: str
    total: int
    indices: list[int]
    draws_on: list[list[tuple[int, float]]]
    energy: Float32[np.ndarray, "k c"]
    before: Float32[np.ndarray, "k rows columns"]
    after: Float32[np.ndarray, "k rows columns"]


class AttentionView(NamedTuple):
    """One image with its prediction and what its attention follows from, where the model has any.

    `labels` and `confidence`, like all label maps of `position`, are at `page_size`; `shares` are those of all pixels.
    """

    name: str
    image: UInt8[np.ndarray, "H W 3"]
    labels: UInt8[np.ndarray, "h w"]
    confidence: UInt8[np.ndarray, "h w"]
    shares: dict[str, float]
    space: LabelSpace
    model: ModelFacts
    position: PositionView | None
    channel: ChannelMaps | None


def page_size(height: int, width: int, grid: tuple[int, int]) -> tuple[int, int]:
    """Height and width of an image's picture: the longest side at most 1024, and a pixel at least for each place."""
    factor = min(1.0, LONGEST / max(height, width))
    return max(round(height * factor), grid[0]), max(round(width * factor), grid[1])


def answer(view: AttentionView) -> bytes:
    """The view as a safetensors file. Raises ValueError where query or key is not finite, or beyond 65,504."""
    height, width = view.labels.shape
    picture = Image.fromarray(view.image).resize((width, height), Image.Resampling.LANCZOS)
    facts: dict[str, Any] = {
        "format": FORMAT,
        "name": view.name,
        "size": [height, width],
        "original_size": list(view.image.shape[:2]),
        "classes": [
            {"name": name, "colour": f"#{bytes(colour).hex()}", "share": view.shares[name]}
            for name, colour in zip(view.space.names, view.space.colours, strict=True)
        ],
        "model": view.model._asdict(),
        "position": None if view.position is None else _position_facts(view.position),
        "channel": None if view.channel is None else _channel_facts(view.channel),
    }
    tensors = {
        "picture": np.frombuffer(jpeg(picture), np.uint8),
        "labels": view.labels,
        "confidence": view.confidence,
        **({} if view.position is None else _position_tensors(view.position)),
        **({} if view.channel is None else _channel_tensors(view.channel)),
    }
    text = json.dumps(facts, ensure_ascii=False, allow_nan=False)
    return save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, {"danet": text})


def _position_facts(position: PositionView) -> dict[str, Any]:
    return {
        "gate": position.gate,
        "share": position.share,
        "grid": position.grid,
        "span": position.span,
        "similarity": position.similarity,
        "windows": None if position.pool is None else [window(row.reshape(position.grid)) for row in position.pool],
        "gates": position.gates,
        "taken": position.taken_share,
    }


def _position_tensors(position: PositionView) -> dict[str, np.ndarray]:
    # Rows of the map do not change when all keys move by the same vector, and centred keys round best.
    with np.errstate(invalid="ignore"):  # what is not finite is refused below
        middle = position.key.mean(0, dtype=np.float64)
        centred = position.key - middle
    return {
        **halves("query", position.query),
        **halves("key", centred),
        "logsumexp": (position.logsumexp - position.query @ middle).astype("<f4"),
        "features": position.features.astype("<f2"),
        "value": position.value.astype("<f2"),
        "gathered": position.gathered.astype("<f2"),
        "gate_labels": position.gate_labels,
        "taken_labels": position.taken.labels,
        "taken_confidence": position.taken.confidence,
        "control_labels": position.control.labels,
        "control_confidence": position.control.confidence,
    }


def halves(name: str, values: Float[np.ndarray, "n d"]) -> dict[str, np.ndarray]:
    """Values as the sum of two float16: what float16 keeps, and, of what it leaves out, what float16 keeps.

    Their sum is off by 2^-22 of a value, or 2^-25. With float16 alone the weights of a map whose energies scatter by 5
    are off by 0.7 % of their row's largest, which can be seen. Raises ValueError for what float16 cannot hold.
    """
    with np.errstate(over="ignore"):
        kept = values.astype("<f2")
    if not np.isfinite(kept).all():
        raise ValueError(
            f"the view's {name} has values that are not finite, or beyond 65,504; a network that diverged has no map"
        )
    return {name: kept, f"{name}_rest": (values - kept).astype("<f2")}


def window(weights: Float[np.ndarray, "rows columns"]) -> list[int]:
    """First row, end of rows, first column and end of columns of the places that have weight."""
    down, across = np.nonzero(weights)
    return [int(down.min()), int(down.max()) + 1, int(across.min()), int(across.max()) + 1]


def _channel_facts(channel: ChannelMaps) -> dict[str, Any]:
    maps = zip(channel.indices, channel.draws_on, strict=True)
    return {
        "gate": channel.gate,
        "share": channel.share,
        "rule": channel.rule,
        "grid": channel.before.shape[1:],
        "maps": [{"index": index, "draws_on": draws_on} for index, draws_on in maps],
        "total": channel.total,
    }


def _channel_tensors(channel: ChannelMaps) -> dict[str, np.ndarray]:
    """Each channel between its own extremes as 0 to 255, and after attention in the same scale."""
    low = channel.before.min((1, 2), keepdims=True)
    extent = np.maximum(channel.before.max((1, 2), keepdims=True) - low, np.finfo(np.float32).tiny)
    return {
        "channels": bytes_of((channel.before - low) / extent),
        "channels_after": bytes_of((channel.after - low) / extent),
        "channel_energy": channel.energy.astype("<f4"),
    }


def bytes_of(values: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """0 to 1 as 0 to 255, and what lies beyond as these."""
    return np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)


def jpeg(picture: Image.Image) -> bytes:
    """The picture as a JPEG file, with its colours at full size."""
    file = BytesIO()
    picture.save(file, "JPEG", quality=85, subsampling=0)
    return file.getvalue()
