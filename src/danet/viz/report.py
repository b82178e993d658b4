"""One run, or several side by side, as a single HTML file that needs nothing else: no network, no script but its own.

`ReportData` holds plain values and pictures; what is missing in it is left out of the page. The page's look is in
report.html and report.css beside this file, the curves are in curves.py.
"""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from io import BytesIO
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from danet.data.labels import IGNORE_INDEX, LabelSpace
from danet.files import explained, written_aside
from danet.models.attention import SIGNS
from danet.viz.answer import AttentionView
from danet.viz.answer import jpeg as jpeg_file
from danet.viz.attention_page import figure, policy, script, style
from danet.viz.curves import Points, chart

PICTURE_WIDTH = 480


@dataclass(frozen=True)
class RunScores:
    """What one run reached, as shares (0 to 1). `iou` is None for a class in neither truth nor prediction; `context`
    is the share of far road and pavement pixels named rightly, `majority` what the commoner of the two would get."""

    miou: float
    pixel_accuracy: float
    iou: Mapping[str, float | None]
    context: float | None = None
    majority: float | None = None


class Triple(NamedTuple):
    """One validation image with its class indices (255 is unlabelled), all of one size."""

    name: str
    image: UInt8[np.ndarray, "h w 3"]
    truth: UInt8[np.ndarray, "h w"]
    prediction: UInt8[np.ndarray, "h w"]


class WorstImage(NamedTuple):
    """An image that was scored low, as a picture that shows why: the overlay of its prediction, say, without legend."""

    name: str
    pixel_accuracy: float | None
    picture: Image.Image


@dataclass(frozen=True)
class ReportData:
    """All that a report shows. `history` and `scores` are keyed by run, the run in question first; `history` holds the
    records of metrics.jsonl; `facts` are rows of what was run: commit, versions, hardware, device, precision, seed …"""

    title: str
    labels: LabelSpace
    summary: str = ""
    command: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    config: str = ""
    history: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    scores: Mapping[str, RunScores] = field(default_factory=dict)
    triples: Sequence[Triple] = ()
    worst: Sequence[WorstImage] = ()
    attention: Sequence[AttentionView] = ()


def write_report(path: str | Path, data: ReportData) -> Path:
    """Write the page, whole or not at all, and return its path; raises InputError where it cannot be written."""
    path = Path(path)
    with explained(path, "make room, or allow it"), written_aside(path) as aside:
        aside.write_text(render(data), encoding="utf-8")
    return path


def render(data: ReportData) -> str:
    """The page as text. Every name that comes from outside is escaped."""
    here = files("danet.viz")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters |= {"percent": percent, "jpeg": jpeg}
    shown = np.unique(np.concatenate([np.ravel([t.truth, t.prediction]) for t in data.triples] or [[]]))
    return environment.from_string(here.joinpath("report.html").read_text("utf-8")).render(
        data=data,
        style=Markup(here.joinpath("report.css").read_text("utf-8")),
        policy=policy(scripted=bool(data.attention)),
        attend={"style": style(), "figure": figure(data.attention), "script": script()} if data.attention else None,
        runs=list(data.scores),
        headline=headline(data.scores),
        classes=class_rows(data.scores, data.labels),
        charts=charts(data.history),
        triples=[triple_view(triple, data.labels) for triple in data.triples],
        legend=[(data.labels.names[i], colour(data.labels, i)) for i in shown.astype(int) if i != IGNORE_INDEX],
        unlabelled=IGNORE_INDEX in shown,
    )


def headline(scores: Mapping[str, RunScores]) -> list[dict[str, Any]]:
    """The three figures on top: name, value of each run and, for the context score, the majority share."""
    majority = next((run.majority for run in scores.values() if run.majority is not None), None)
    rows = [("mIoU", "miou", None), ("Pixel accuracy", "pixel_accuracy", None), ("Context score", "context", majority)]
    found = [
        {"name": name, "values": {run: getattr(score, key) for run, score in scores.items()}, "majority": mark}
        for name, key, mark in rows
    ]
    return [row for row in found if any(value is not None for value in row["values"].values())]


def class_rows(scores: Mapping[str, RunScores], labels: LabelSpace) -> list[dict[str, Any]]:
    """A row a class that any run has scored, in the label space's order: name, colour, each run's IoU or None."""
    rows = [
        {"name": name, "colour": colour(labels, index), "values": [run.iou.get(name) for run in scores.values()]}
        for index, name in enumerate(labels.names)
        if any(name in run.iou for run in scores.values())
    ]
    return [{**row, "absent": None in row["values"]} for row in rows]


def charts(history: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Title, note and SVG of each curve for which the records hold anything."""

    def of_runs(event: str, *keys: str, factor: float = 1.0) -> dict[str, Points]:
        named = history.items() if several else [("", records) for records in history.values()]
        return {run: curve(records, event, *keys, factor=factor) for run, records in named}

    several = len(history) > 1
    if len(history) == 1:
        (records,) = history.values()
        parts = dict.fromkeys(part for record in records for part in record.get("losses", {}))
        losses = {part: curve(records, "step", "losses", part) for part in parts}
    else:
        losses = of_runs("step", "losses", "fused")
    gated = {run: records for run, records in history.items() if any(record.get("gates") for record in records)}
    gates = {
        f"{run} {branch} {sign}" if len(gated) > 1 else f"{branch} {sign}": curve(records, "step", "gates", branch)
        for run, records in gated.items()
        for branch, sign in SIGNS.items()
    }
    rates: dict[str, Points] = {}
    for run, points in of_runs("step", "lr").items():  # schedules are often the same: then one line carries both names
        same = next((name for name in rates if rates[name] == points), None)
        rates[f"{same}, {run}" if same else run] = rates.pop(same) if same else points
    miou = of_runs("validated", "miou", factor=100)
    best = {run: max(points, key=lambda point: point[1])[0] for run, points in miou.items() if points}
    peaks = ", ".join(f"{step:,} ({run})" if several else f"{step:,}" for run, step in best.items())
    found = [
        ("Validation mIoU", f"highest at step {peaks}", miou, " %"),
        ("Context score", "at each validation", of_runs("validated", "context", factor=100), " %"),
        ("Training loss", "of the classifier that predicts" if several else "", losses, ""),
        ("Gates", "how much of each branch is let in", gates, ""),
        ("Learning rate", "", rates, ""),
    ]
    drawn = [{"title": title, "note": note, "svg": chart(lines, title, unit)} for title, note, lines, unit in found]
    return [entry for entry in drawn if entry["svg"]]


def curve(records: Iterable[Mapping[str, Any]], event: str, *keys: str, factor: float = 1.0) -> Points:
    """(step, value) of the event's records that hold a finite value under the keys; a step run again counts once."""
    points: dict[float, float] = {}
    for record in records:
        value: Any = record if record["event"] == event else {}
        for key in keys:
            value = (value or {}).get(key)
        if value is not None and isfinite(value):
            points[record["step"]] = factor * value
    return sorted(points.items())


def triple_view(triple: Triple, labels: LabelSpace) -> dict[str, Any]:
    """The three pictures as data URIs, and the share of labelled pixels named rightly (None where none is labelled)."""
    labelled = triple.truth != IGNORE_INDEX
    right = (triple.truth == triple.prediction)[labelled]
    return {
        "name": triple.name,
        "accuracy": right.mean() if right.size else None,
        "image": jpeg(Image.fromarray(triple.image)),
        "truth": label_png(triple.truth, labels),
        "prediction": label_png(triple.prediction, labels),
    }


def colour(labels: LabelSpace, index: int) -> str:
    """A class's colour as CSS has it."""
    return f"#{bytes(labels.colours[index]).hex()}"


def percent(share: float | None) -> str:
    """`53.2 %`, or a dash where there is no figure."""
    return "–" if share is None or not isfinite(share) else f"{100 * share:.1f}\u202f%"


def jpeg(picture: Image.Image) -> str:
    """The picture, at most 480 pixels wide, as a data URI."""
    file = jpeg_file(_fit(picture.convert("RGB"), Image.Resampling.LANCZOS))
    return f"data:image/jpeg;base64,{b64encode(file).decode()}"


def label_png(indices: UInt8[np.ndarray, "h w"], labels: LabelSpace) -> str:
    """The classes' colours, unlabelled pixels transparent, at most 480 pixels wide, as a data URI."""
    picture = _fit(Image.fromarray(indices), Image.Resampling.NEAREST)
    picture.putpalette(labels.palette())
    file = BytesIO()
    picture.save(file, "PNG", transparency=IGNORE_INDEX, optimize=True)
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"


def _fit(picture: Image.Image, resampling: Image.Resampling) -> Image.Image:
    if picture.width <= PICTURE_WIDTH:
        return picture
    return picture.resize((PICTURE_WIDTH, max(1, round(picture.height * PICTURE_WIDTH / picture.width))), resampling)
