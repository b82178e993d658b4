"""Views for the attention page that need no network: random queries and keys, and what Python says of them."""

import numpy as np
import torch

from danet.data.labels import LabelSpace
from danet.ops.position import position_attention, position_attention_columns, position_attention_rows
from danet.viz.answer import UNNAMED, AttentionView, ChannelMaps, LabelMap, PositionView

NASTY = "a</script><script>alert(1)</script><!--\"'& Straße ü"
SPACE = LabelSpace("four", ("road", NASTY, "tree", "nowhere"))


def random_view(energy: float = 3.0, depth: int = 8, grid: tuple[int, int] = (9, 12), **changes) -> AttentionView:
    """Random queries and keys, far from 0, whose energies scatter by `energy`; places are 8×10 pixels of white.

    Changes are fields of the view, or of its position attention; without a span the image takes up the whole grid.
    """
    generator = np.random.default_rng(0)
    places = grid[0] * grid[1]
    query, key = (generator.normal(size=(places, depth)).astype(np.float32) for _ in range(2))
    key = key * np.float32(energy / depth**0.5) + generator.normal(size=depth).astype(np.float32)
    query += generator.normal(size=depth).astype(np.float32)
    _, logsumexp = position_attention(*map(torch.from_numpy, (query, key, query)), return_logsumexp=True)
    labels = changes.pop("labels", None)
    if labels is None:
        height, width = grid[0] * 8 + 3, grid[1] * 10 + 7  # a place's border falls between pixels
        drawn = generator.integers(0, 3, (height, width), np.uint8)
        labels = drawn[::5, ::5].repeat(5, 0).repeat(5, 1)[:height, :width]
    taken, control = (
        LabelMap(np.roll(labels, shift, 1), generator.integers(0, 256, labels.shape, np.uint8)) for shift in (31, 17)
    )
    position = PositionView(
        gate=0.42,
        share=0.31,
        grid=grid,
        span=changes.pop("span", grid),
        similarity=0.5,
        query=query,
        key=key,
        logsumexp=logsumexp.numpy(),
        pool=None,
        features=generator.random((places, 3), np.float32),
        value=generator.random((places, 3), np.float32),
        gathered=generator.random((places, 3), np.float32),
        gates=(0.0, 0.5, 1.0, 2.0, 4.0),
        gate_labels=np.stack([labels] * 5),
        taken_share=0.1,
        taken=taken,
        control=control,
    )
    maps = generator.normal(size=(2, 3, *grid)).astype(np.float32)
    view = AttentionView(
        name="street.jpg",
        image=np.full((*labels.shape, 3), 255, np.uint8),
        labels=labels,
        confidence=generator.integers(0, 256, labels.shape, np.uint8),
        shares=dict(zip(SPACE.names, np.bincount(labels.ravel(), minlength=4) / labels.size, strict=True)),
        space=SPACE,
        model=UNNAMED,
        position=position,
        channel=ChannelMaps(
            -0.05, 0.013, "official", 40, [7, 0, 39], [[(1, 0.75), (3, 0.25)]] * 3, generator.random((3, 40)), *maps
        ),
    )
    of_view = {name: value for name, value in changes.items() if name in AttentionView._fields}
    of_position = {name: value for name, value in changes.items() if name not in of_view}
    return view._replace(**({"position": position._replace(**of_position)} | of_view))


def positioned(view: AttentionView) -> PositionView:
    """Its position attention, which it has."""
    assert view.position is not None
    return view.position


def python_row(view: AttentionView, place: int) -> np.ndarray:
    query, key = (torch.from_numpy(values) for values in (positioned(view).query, positioned(view).key))
    return position_attention_rows(query, key, place)[0].numpy()


def python_column(view: AttentionView, place: int) -> np.ndarray:
    position = positioned(view)
    query, key, logsumexp = map(torch.from_numpy, (position.query, position.key, position.logsumexp))
    return position_attention_columns(query, key, logsumexp, place)[:, 0].numpy()


def places_of(view: AttentionView) -> np.ndarray:
    """The place that covers each pixel, of images that take up the whole grid."""
    (rows, columns), (height, width) = positioned(view).grid, view.labels.shape
    return (np.arange(height) * rows // height)[:, None] * columns + np.arange(width) * columns // width


def by_class(view: AttentionView, weights: np.ndarray) -> np.ndarray:
    """Share of the weight of each class, pixel by pixel."""
    places = places_of(view)
    light = (weights / np.bincount(places.ravel()))[places]
    return np.bincount(view.labels.ravel(), light.ravel(), view.space.num_classes) / weights.sum()


def lightness(weights: np.ndarray) -> np.ndarray:
    """0 at a quarter of the average weight, 1 at 64 times the average, even in between by the logarithm."""
    with np.errstate(divide="ignore"):
        return np.clip(np.log(weights * weights.size * 4) / np.log(256), 0, 1)


def lit(view: AttentionView, weights: np.ndarray, places: np.ndarray | None = None) -> np.ndarray:
    """A white image at 55 % of its brightness, and more in each place by its lightness: H×W×3 of 0 to 255."""
    light = 140 + (255 - 140) * lightness(weights)[places_of(view) if places is None else places]
    return light[..., None].repeat(3, -1)
