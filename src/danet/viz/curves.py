"""Curves as inline SVG: ticks, units, and each line named at its end. Colours come from the page's CSS."""

import math
from collections.abc import Mapping
from itertools import pairwise

from markupsafe import Markup, escape

Points = list[tuple[float, float]]

WIDTH, HEIGHT = 440, 240
LEFT, TOP, BOTTOM = 46, 12, 30  # what ticks take; the right margin follows from the labels
LETTER, LINE = 7.6, 15  # what a letter and a line of text take


def chart(series: Mapping[str, Points], described: str, unit: str = "") -> Markup:
    """One line a series of (step, value), in the page's colours `--line-0` to `--line-3`.

    Both axes reach to 0. A screen reader says `described` and the last values. Series without points are left out;
    with none left the result is empty.
    """
    colours = {name: f"var(--line-{index % 4})" for index, name in enumerate(series)}
    lines = {name: thin(points) for name, points in series.items() if points}
    if not lines:
        return Markup()
    values = [value for points in lines.values() for _, value in points] + [0.0]
    right = max(points[-1][0] for points in lines.values()) or 1
    step = round_step((max(values) - min(values) or 1) / 4)
    low = math.floor(min(values) / step + 1e-9)
    high = max(math.ceil(max(values) / step - 1e-9), low + 1)
    last = {name: f"{number(points[-1][1])}{unit}" for name, points in lines.items()}
    labels = {name: f"{shorten(name)} {last[name]}".lstrip() for name in lines}
    inner = WIDTH - LEFT - 10 - LETTER * max(map(len, labels.values()))

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + inner * x / right, TOP + (HEIGHT - TOP - BOTTOM) * (high - y / step) / (high - low)

    parts = []
    for mark in range(low, high + 1):
        y = place(0, mark * step)[1]
        kind = "grid" if mark else "base"
        parts.append(f'<line class="{kind}" x1="{LEFT}" x2="{LEFT + inner:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        text = number(mark * step) + (unit if mark == high else "")
        parts.append(f'<text x="{LEFT - 7}" y="{y:.1f}" dy=".32em" text-anchor="end">{text}</text>')
    stride = max(1, round(round_step(right / 4)))
    for mark in range(0, math.floor(right) + 1, stride):
        x = place(mark, 0)[0]
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{mark:,}</text>')
    end = min(LEFT + inner + 60, WIDTH)
    parts.append(f'<text x="{end:.1f}" y="{HEIGHT - 8}" text-anchor="end">steps</text>')
    heights = spread([place(*points[-1])[1] for points in lines.values()])
    for (name, points), height in zip(lines.items(), heights, strict=True):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        x, y = place(*points[-1])
        parts.append(f'<g style="--line: {colours[name]}"><polyline points="{path}"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>')
        parts.append(f'<text x="{x + 8:.1f}" y="{height:.1f}" dy=".32em">{escape(labels[name])}</text></g>')
    spoken = escape(f"{described}: {', '.join(f'{name} {value}'.lstrip() for name, value in last.items())}")
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{spoken}">'
    return Markup("".join([head, *parts, "</svg>"]))


def thin(points: Points, count: int = 150) -> Points:
    """At most `count` points, each the mean of as many neighbours, so that long noisy series stay small and legible."""
    size = math.ceil(len(points) / count)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def round_step(rough: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is at least `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))


def number(value: float) -> str:
    """Three significant digits at most, two and a power of ten below 0.001; with a true minus."""
    text = f"{value:z.3g}" if abs(value) >= 1e-3 or not value else f"{value:.1e}".replace(".0e", "e")
    return text.replace("e-0", "e-").replace("-", "−")


def shorten(name: str, length: int = 20) -> str:
    """`name`, or its beginning and an ellipsis, so that the drawing keeps its room."""
    return name if len(name) <= length else f"{name[: length - 1]}…"


def spread(heights: list[float]) -> list[float]:
    """The labels' heights, moved apart to a line each, in the same order, none below the lower axis."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    placed = list(heights)
    for above, below in pairwise(order):
        placed[below] = max(placed[below], placed[above] + LINE)
    limit = float(HEIGHT - BOTTOM)
    for index in reversed(order):
        placed[index] = min(placed[index], limit)
        limit = placed[index] - LINE
    return placed
