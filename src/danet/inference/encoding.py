"""One forward of one image, kept: its prediction, and the attention of any place, each a single small product.

A row of the map S tells what a place gathers from ("from"), a column what gathers from it ("to"); both follow from
query, key and log-sum-exp, so no N×N matrix is ever formed (paper, section 3.2). Where keys are DRANet's centres, S is
their map times the share of each place in each centre. `take_away` puts a map to the test.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from danet.errors import InputError
from danet.inference.explanation import view
from danet.inference.prediction import Prediction
from danet.models.attention import BranchTrace
from danet.ops.channel import channel_attention_map
from danet.ops.position import position_attention_columns, position_attention_rows
from danet.viz.answer import UNNAMED, AttentionView, LabelMap, ModelFacts
from danet.viz.attention_page import write_attention_page

Direction = Literal["from", "to"]


class ChannelView(NamedTuple):
    """One channel of channel attention: what it draws on, and its features before and after it did.

    `weights` is its row of X, summing to 1; `before` its row of A, `after` of A + β · X A, on the grid of the features.
    In DRANet X weighs c/16 compact channels.
    """

    weights: Float[np.ndarray, " m"]
    before: Float[np.ndarray, "rows columns"]
    after: Float[np.ndarray, "rows columns"]


class TakeAway(NamedTuple):
    """The class probabilities at a pixel, while all places can be looked at and while some cannot.

    `before` is the prediction, `after` without the most attended places, which are `removed` and held the share
    `attention` of the pixel's row of S; `control` without as many others, drawn at random. The map is evidence where
    `after` is far from `before` and `control` is not.
    """

    removed: Bool[np.ndarray, "rows columns"]
    attention: float
    before: Float[np.ndarray, " k"]
    after: Float[np.ndarray, " k"]
    control: Float[np.ndarray, " k"]


@dataclass(frozen=True)
class Encoding:
    """What the network made of one image; `traces` has an entry for each attention branch, with gate and share.

    A place is a cell of the features' grid, `at` a pixel (x, y) of the image. Every method raises InputError for a
    pixel outside the image, and for a model without the branch that it asks about. `without` gives the probabilities
    of all pixels when no place can look at those marked, `again` label maps of a size for other things that position
    attention might have gathered; both run the model's head, with the weights that it has then.
    `span` is how many rows and columns of places the image takes up, 15.6 of 16 where the last is in part a padded
    network's padding; None is the whole grid.
    """

    prediction: Prediction
    traces: dict[str, BranchTrace]
    without: Callable[[Bool[np.ndarray, " n"]], Float[Tensor, "k h w"]]
    again: Callable[[Iterable[Float[Tensor, "1 n c"]], tuple[int, int]], list[LabelMap]]
    span: tuple[float, float] | None = None
    facts: ModelFacts = UNNAMED

    def __repr__(self) -> str:
        told = [
            f"{branch} attention at {trace.grid[0]}×{trace.grid[1]} places, gate {trace.gate:.2g}"
            for branch, trace in self.traces.items()
        ]
        return f"Encoding({'; '.join([repr(self.prediction), *told])})"

    def attention(self, at: tuple[int, int], direction: Direction = "from") -> Float[np.ndarray, "rows columns"]:
        """The attention of the place at pixel `at` over all places, on the grid of the features.

        "from": what the place gathers from, summing to 1; "to": how much of itself each other place takes from it.
        """
        query, key, _, logsumexp = self.position
        grid, pool = self.traces["position"].grid, self.traces["position"].pool
        place = self.place(at, grid)
        if direction == "from":
            weights = self._rows([place])
        elif direction == "to":
            keys, shares = ([place], 1) if pool is None else (range(len(pool)), pool[:, place])
            weights = (position_attention_columns(query, key, logsumexp, keys) * shares).sum(-1)
        else:
            raise InputError(f"direction is {direction!r}; it must be 'from' or 'to'.")
        return weights.float().cpu().numpy().reshape(grid)

    def place(self, at: tuple[int, int], grid: tuple[int, int]) -> int:
        """The index of the place of `grid` that covers pixel `at` = (x, y) of the image."""
        x, y = (int(coordinate) for coordinate in at)
        height, width = self.prediction.labels.shape
        if not (0 <= x < width and 0 <= y < height):
            raise InputError(f"The point ({x}, {y}) is outside the image, which is {width}×{height} pixels.")
        down, across = self._lines(grid)
        return int(down[y]) * grid[1] + int(across[x])

    def perplexity(self, at: tuple[int, int]) -> float:
        """How many places share the attention of pixel `at`: exp of its row's entropy, 1 to all places."""
        weights = self.attention(at).astype(np.float64)
        weights = weights[weights > 0]
        return float(np.exp(-(weights * np.log(weights)).sum()))

    def by_class(self, at: tuple[int, int], direction: Direction = "from") -> dict[str, float]:
        """The share of `attention` that goes to each predicted class, largest first, summing to 1.

        A place's weight is split over the predicted labels of its pixels. All are 0 for a place nobody looks at.
        """
        weights = self.attention(at, direction).astype(np.float64).ravel()
        shares = weights @ self._classes / max(weights.sum(), np.finfo(np.float64).tiny)
        return {
            self.prediction.space.names[index]: float(shares[index]) for index in np.argsort(-shares, kind="stable")
        }

    def similarity(self, count: int = 64, seed: int = 0) -> float:
        """The mean cosine similarity of pairs of `count` random rows of S; 1: every place has the same map."""
        places = self.position[0].shape[1]
        if min(count, places) < 2:
            raise InputError(f"{min(count, places)} of {places} places make no pair; similarity needs 2 or more.")
        drawn = np.random.Generator(np.random.Philox(seed)).permutation(places)[:count]
        rows = self._rows(drawn.tolist()).double().cpu().numpy()
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        pairs = rows @ rows.T
        return float(pairs[~np.eye(len(drawn), dtype=bool)].mean())

    def channels(self, index: int) -> ChannelView:
        """Channel `index` of the features in channel attention; raises InputError for one that does not exist."""
        trace = self.traces.get("channel")
        if trace is None or trace.rule is None:
            raise InputError("This model has no channel attention; its head must be danet, dranet or cam.")
        features = trace.features[0].float()
        if not 0 <= index < len(features):
            raise InputError(f"There is no channel {index}; this model has the channels 0 to {len(features) - 1}.")
        channel, key = features[index], features.flatten(1) if trace.key is None else trace.key[0].float()
        weights = channel_attention_map(channel.view(1, -1), key, trace.rule)
        after = channel + trace.gate * (weights @ key).view_as(channel)
        return ChannelView(weights[0].cpu().numpy(), channel.cpu().numpy(), after.cpu().numpy())

    def take_away(self, at: tuple[int, int], share: float = 0.1, seed: int = 0) -> TakeAway:
        """The prediction at pixel `at` when no place can look at the `share` of places that it attends to most.

        At least one place is taken away, never all; the rest of the network sees them still. The control is drawn with
        `seed` from the other places, and takes all of them where they are fewer.
        """
        weights = self.attention(at)
        if not 0 < share < 1:
            raise InputError(
                f"share is {share}; it must be above 0 and below 1, such as 0.1 for a tenth of the places."
            )
        if weights.size < 2:
            raise InputError("The features have a single place, which cannot be taken away; enlarge the image.")
        count = min(max(round(share * weights.size), 1), weights.size - 1)
        order = np.argsort(-weights, axis=None, kind="stable")
        others = np.random.Generator(np.random.Philox(seed)).permutation(order[count:])[:count]
        x, y = (int(coordinate) for coordinate in at)
        removed = _marked(order[:count], weights.size)
        before, after, control = (
            probabilities[:, y, x].numpy()
            for probabilities in (
                self.prediction.probabilities,
                self.without(removed),
                self.without(_marked(others, weights.size)),
            )
        )
        attention = float(weights.ravel()[removed].sum())
        return TakeAway(removed.reshape(weights.shape), attention, before, after, control)

    def view(self, name: str = "") -> AttentionView:
        """The image `name` with what its attention follows from, where the model has any, for the attention page.

        It runs the head six more times, with the weights that it has then.
        """
        return view(self, name)

    def save_html(self, path: str | Path, name: str = "") -> Path:
        """Write a page on which the map of every pixel of the image `name` can be seen; it needs no server."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return write_attention_page(path, [self.view(name)], f"What the pixels of {name or 'an image'} attend to")

    def _rows(self, places: list[int]) -> Float[Tensor, "k n"]:
        """What `places` gather from."""
        query, key, *_ = self.position
        rows, pool = position_attention_rows(query, key, places)[0], self.traces["position"].pool
        return rows if pool is None else rows @ pool

    def _lines(self, grid: tuple[int, int]) -> tuple[Int[np.ndarray, " h"], Int[np.ndarray, " w"]]:
        """Of each row of pixels the row of `grid` that covers it, and the same of columns."""
        sides = zip(self.prediction.labels.shape, self.span or grid, strict=True)
        # A quotient that should be whole may come out a hair below.
        down, across = ((np.arange(side) * span / side + 1e-9).astype(int) for side, span in sides)
        return down, across

    @property
    def position(
        self,
    ) -> tuple[Float[Tensor, "1 n d"], Float[Tensor, "1 m d"], Float[Tensor, "1 m c"], Float[Tensor, "1 n"]]:
        """Query, key, value and log-sum-exp of position attention."""
        trace = self.traces.get("position")
        if trace is None or trace.query is None or trace.key is None or trace.value is None or trace.logsumexp is None:
            raise InputError("This model has no position attention; its head must be danet, dranet or pam.")
        return trace.query, trace.key, trace.value, trace.logsumexp

    @cached_property
    def _classes(self) -> Float[np.ndarray, "n k"]:
        """The share of each predicted class in the pixels of each place, by the rule of `place`."""
        rows, columns = self.traces["position"].grid
        down, across = self._lines((rows, columns))
        place = down[:, None] * columns + across
        classes = self.prediction.space.num_classes
        cells = (place * classes + self.prediction.labels).ravel()
        counts = np.bincount(cells, minlength=rows * columns * classes).reshape(-1, classes)
        return counts / counts.sum(axis=1, keepdims=True)


def _marked(places: np.ndarray, count: int) -> Bool[np.ndarray, " n"]:
    """Which of `count` places are among `places`."""
    return np.isin(np.arange(count), places)
