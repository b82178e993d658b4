"""A confusion matrix drawn: each true class's pixels by what they were taken for."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from danet.files import written_aside
from danet.viz.ablation import STYLE
from danet.viz.text import INK

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
    colours = LinearSegmentedColormap.from_list("shares", ["#fbfaf7", "#f0b89a", "#d9482b", "#5f1403"])
    side, places = cell * len(names), np.arange(len(names)) + 0.5
    with rc_context(STYLE):
        figure = Figure(figsize=(side, side), dpi=130)  # of the matrix alone; what stands around it is added
        panel = figure.add_axes((0, 0, 1, 1))
        picture = panel.pcolormesh(shares, cmap=colours, vmin=0, vmax=1, edgecolors="#6b686240", linewidth=0.4)
        panel.invert_yaxis()
        rows = [f"{name}  {short(int(total))}" for name, total in zip(names, totals, strict=True)]
        panel.set_xticks(places, names, rotation=90, fontsize=size, parse_math=False)
        panel.set_yticks(places, rows, fontsize=size, parse_math=False)
        panel.tick_params(length=0, labelcolor=INK)
        panel.xaxis.tick_top()
        panel.xaxis.set_label_position("top")
        panel.set_xlabel("predicted")
        panel.set_ylabel("true, with its pixels")
        panel.spines[:].set_visible(False)
        if few:
            for row, column in np.argwhere(shares >= 0.01):
                share, place = shares[row, column], (column + 0.5, row + 0.5)
                ink = "white" if share > 0.45 else INK
                panel.text(*place, f"{100 * share:.0f}", ha="center", va="center", color=ink, fontsize=size)
        height = min(1, 3 / side)
        beside = figure.add_axes((1 + 0.2 / side, (1 - height) / 2, 0.12 / side, height))
        bar = figure.colorbar(picture, beside, format=lambda share, _: f"{100 * share:.0f} %")
        bar.outline.set_visible(False)
        with written_aside(Path(path)) as aside:
            figure.savefig(aside, format="png", bbox_inches="tight", pad_inches=0.12)


def short(count: int) -> str:
    """A number of pixels in at most four letters and digits: 950, 12k, 3.4M, 120G."""
    value, unit, units = float(count), "", iter("kMGTPE")
    while value >= 999.5:
        value, unit = value / 1000, next(units)
    return f"{value:.1f}{unit}" if unit and value < 9.95 else f"{value:.0f}{unit}"
