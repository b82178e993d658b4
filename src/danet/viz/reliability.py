"""Calibration drawn: how often a label is right that is held to be so sure."""

import math
from collections.abc import Sequence
from pathlib import Path

from danet.files import written_aside
from danet.viz.ablation import COLOURS, STYLE
from danet.viz.text import MUTED


def draw_reliability(
    path: str | Path, accuracy: Sequence[float | None], confidence: Sequence[float | None], pixels: Sequence[int]
) -> None:
    """Write accuracy over confidence as a PNG, a bar a bin of equal width, and below it the bin's share of the pixels.

    A bin without pixels has neither.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    count, total = len(pixels), max(sum(pixels), 1)
    places = [(index + 0.5) / count for index in range(count)]
    with rc_context(STYLE):
        figure = Figure(figsize=(4.2, 4.8), layout="constrained", dpi=130)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        upper.bar(places, [100 * (right or 0.0) for right in accuracy], 0.9 / count, color=COLOURS[2])
        upper.plot([0, 1], [0, 100], color=MUTED, linestyle=":", linewidth=1)
        upper.scatter(
            [math.nan if sure is None else sure for sure in confidence],
            [math.nan if right is None else 100 * right for right in accuracy],
            s=12,
            color=COLOURS[1],
            zorder=3,
            clip_on=False,
        )
        upper.set_ylabel("right, %")
        upper.set_title("A label's confidence, and how often it is right")
        lower.bar(places, [100 * held / total for held in pixels], 0.9 / count, color=COLOURS[0])
        lower.set_ylabel("pixels, %")
        lower.set_xlabel("confidence")
        lower.set_xlim(0, 1)
        with written_aside(Path(path)) as aside:
            figure.savefig(aside, format="png")
