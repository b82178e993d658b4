"""An ablation drawn: what each variant scored, every seed a dot; and how mIoU, gates and shares went, step by step."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from danet.files import written_aside
from danet.viz.text import GROUND, INK, MUTED

COLOURS = ("#5d6b78", "#d9482b", "#2a7f78", "#a37a1c", "#5b6bb5", "#9a4f86", "#4f8a3c", "#8a5a3b")
DASHES = ("-", "--", ":")
STYLE: Any = {
    "figure.facecolor": GROUND,
    "axes.facecolor": GROUND,
    "savefig.facecolor": GROUND,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "text.color": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "font.size": 9,
    "svg.hashsalt": "danet",
}
Curve = Sequence[tuple[float, float]]


def draw_scores(
    path: str | Path, scores: Mapping[str, Mapping[str, Sequence[float]]], marks: Mapping[str, float]
) -> None:
    """Write `scores` (measure → variant → a value a seed, as shares) as an SVG, a panel a measure.

    marks: the share that needs no looking, by measure, drawn as a dotted line.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    variants = list(dict.fromkeys(name for values in scores.values() for name in values))
    with rc_context(STYLE):
        figure = Figure(figsize=(1.6 + 2.4 * len(scores), 0.9 + 0.36 * len(variants)), layout="constrained")
        panels = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
        for panel, (measure, values) in zip(panels, scores.items(), strict=True):
            for place, name in enumerate(variants):
                seeds = [100 * value for value in values.get(name, ())]
                colour = COLOURS[place % len(COLOURS)]
                panel.scatter(seeds, [place] * len(seeds), s=26, color=colour, alpha=0.75, linewidths=0)
                if seeds:
                    panel.plot([sum(seeds) / len(seeds)] * 2, [place - 0.32, place + 0.32], color=colour, linewidth=2)
            if measure in marks:
                panel.axvline(100 * marks[measure], color=MUTED, linestyle=":", linewidth=1)
                panel.annotate(
                    "majority",
                    (100 * marks[measure], 1),
                    xycoords=("data", "axes fraction"),
                    xytext=(3, -2),
                    textcoords="offset points",
                    color=MUTED,
                    fontsize=8,
                    va="top",
                )
            panel.set_title(f"{measure}, %")
            panel.set_yticks(range(len(variants)), variants)
            panel.set_ylim(len(variants) - 0.4, -0.6)
            panel.tick_params(axis="y", length=0)
            panel.grid(axis="x", color=MUTED, alpha=0.2)
        _save(figure, path)


def draw_curves(path: str | Path, curves: Mapping[str, Mapping[str, Sequence[Curve]]]) -> None:
    """Write `curves` (panel → variant → a curve of (step, value) a seed) as an SVG; a colour a variant."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    variants = list(dict.fromkeys(name for lines in curves.values() for name in lines))
    columns = min(2, len(curves))
    rows = -(-len(curves) // columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(9.2 if columns > 1 else 6.4, 2.7 * rows + 0.6), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for panel in panels[len(curves) :]:
            panel.remove()
        for panel, (title, lines) in zip(panels, curves.items(), strict=False):
            for name, seeds in lines.items():
                for number, curve in enumerate(seeds):
                    cycle, place = divmod(variants.index(name), len(COLOURS))
                    look = {"color": COLOURS[place], "linestyle": DASHES[cycle % len(DASHES)], "linewidth": 1.3}
                    x, y = zip(*curve, strict=True)
                    few = "." if len(curve) == 1 else None  # a line of one point shows nothing
                    panel.plot(x, y, **look, marker=few, alpha=0.85, label=name if number == 0 else None)
            panel.set_title(title)
            if panel.get_ylim()[0] < 0:
                panel.axhline(0, color=MUTED, linewidth=0.6)
            panel.set_xlim(left=0)
            panel.grid(axis="y", color=MUTED, alpha=0.2)
        handles = {
            text: line
            for panel in panels[: len(curves)]
            for line, text in zip(*panel.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=2 + columns, frameon=False
        )
        _save(figure, path)


def _save(figure, path: str | Path) -> None:
    with written_aside(Path(path)) as aside:
        figure.savefig(aside, format="svg", metadata={"Date": None})
