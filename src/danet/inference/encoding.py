"""One forward of one image, kept: its prediction, and the attention of any place, each a single small product.

A row of the map S tells what a place gathers from ("from"), a column what gathers from it ("to"); both follow from
query, key and log-sum-exp, so no N×N matrix is ever formed (paper, section 3.2).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from danet.errors import InputError
from danet.inference.prediction import Prediction
from danet.models.attention import BranchTrace
from danet.ops.position import position_attention_columns, position_attention_rows


@dataclass(frozen=True)
class Encoding:
    """What the network made of one image; `traces` has an entry for each attention branch, with gate and share."""

    prediction: Prediction
    traces: dict[str, BranchTrace]

    def attention(self, at: tuple[int, int], direction: Literal["from", "to"] = "from") -> Float[np.ndarray, "h w"]:
        """The attention of the place at pixel `at` = (x, y) over all places, on the grid of the features.

        "from": what the place gathers from, summing to 1; "to": how much of itself each other place takes from it.
        Raises InputError for a pixel outside the image, and for a model without position attention.
        """
        trace = self.traces.get("position")
        if trace is None or trace.query is None or trace.key is None or trace.logsumexp is None:
            raise InputError("This model has no position attention; its head must be danet or pam.")
        place = self.place(at, trace.grid)
        if direction == "from":
            weights = position_attention_rows(trace.query, trace.key, place)
        elif direction == "to":
            weights = position_attention_columns(trace.query, trace.key, trace.logsumexp, place)
        else:
            raise InputError(f"direction is {direction!r}; it must be 'from' or 'to'.")
        return weights.float().cpu().numpy().reshape(trace.grid)

    def place(self, at: tuple[int, int], grid: tuple[int, int]) -> int:
        """The index of the place of `grid` that covers pixel `at` = (x, y) of the image."""
        (x, y), (height, width), (rows, columns) = at, self.prediction.labels.shape, grid
        if not (0 <= x < width and 0 <= y < height):
            raise InputError(f"The point ({x}, {y}) is outside the image, which is {width}×{height} pixels.")
        return int(y * rows / height) * columns + int(x * columns / width)
