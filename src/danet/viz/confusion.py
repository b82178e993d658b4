"""A confusion matrix drawn: each true class's pixels by what they were taken for."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from danet.files import written_aside
from danet.viz.ablation import STYLE
from danet.viz.text import INK, MUTED

FIGURES = 24
"""With more classes than this, cells are only coloured."""


def draw_confusion(path: str | Path, names: Sequence[str], confusion: Int64[np.ndarray, "k k"]) -> None:
    """Write rows (true classes), each with its number of pixels and as shares of it, as a PNG; cells of 1 % and more
    with their share in percent, of up to FIGURES classes. A class that is nowhere has an empty row."""
    from matplotlib import rc_context
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    totals = confusion.sum(1)
    shares = np.where(totals[:, None] > 0, confusion / np.maximum(totals, 1)[:, None], np.nan)
    few = len(names) <= FIGURES
    cell, size = (0.46, 8) if few else (0.17, 6)
    longest = max(map(len, names)) * size * 0.009
    colours = LinearSegmentedColormap.from_list("shares", ["#fbfaf7", "#f0b89a", "#d9482b", "#5f1403"])
    with rc_context(STYLE):
        side = cell * len(names)
        figure = Figure(figsize=(side + longest + 2.2, side + longest + 1.0), layout="constrained", dpi=130)
        panel = figure.subplots()
        picture = panel.imshow(shares, cmap=colours, vmin=0, vmax=1)
        rows = [f"{name}  {short(int(total))}" for name, total in zip(names, totals, strict=True)]
        panel.set_xticks(range(len(names)), names, rotation=90, fontsize=size, parse_math=False)
        panel.set_yticks(range(len(names)), rows, fontsize=size, parse_math=False)
        panel.tick_params(length=0, labelcolor=INK)
        panel.xaxis.tick_top()
        panel.xaxis.set_label_position("top")
        panel.set_xlabel("predicted")
        panel.set_ylabel("true, with its pixels")
        panel.spines[:].set_visible(False)
        panel.set_xticks(np.arange(1, len(names)) - 0.5, minor=True)
        panel.set_yticks(np.arange(1, len(names)) - 0.5, minor=True)
        panel.grid(which="minor", color=MUTED, linewidth=0.4, alpha=0.25)
        panel.tick_params(which="minor", length=0)
        if few:
            for row, column in np.argwhere(shares >= 0.01):
                share = shares[row, column]
                ink = "white" if share > 0.45 else INK
                panel.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=ink, fontsize=size)
        bar = figure.colorbar(
            picture, ax=panel, shrink=min(1, 3 / side), format=lambda share, _: f"{100 * share:.0f} %"
        )
        bar.outline.set_visible(False)
        with written_aside(Path(path)) as aside:
            figure.savefig(aside, format="png", bbox_inches="tight", pad_inches=0.12)


def short(count: int) -> str:
    """A number of pixels in at most four letters and digits: 950, 12k, 3.4M, 120G."""
    value, unit, units = float(count), "", iter("kMGTP")
    while value >= 999.5:
        value, unit = value / 1000, next(units)
    return f"{value:.1f}{unit}" if unit and value < 9.95 else f"{value:.0f}{unit}"
