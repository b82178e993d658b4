"""A run's report: what it did, scored once more with the bundle that it kept, and shown on its validation images."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from danet.config import RunConfig, read_config
from danet.data.dataset import Dataset
from danet.data.parallel import Progress
from danet.errors import InputError
from danet.evaluation.evaluate import Report, evaluate
from danet.inference.segmenter import Segmenter, load
from danet.training.data import context_region, open_val
from danet.training.record import read_record
from danet.viz.answer import AttentionView
from danet.viz.attention_page import figure
from danet.viz.overlay import overlay
from danet.viz.report import ReportData, RunScores, Triple, WorstImage, write_report
from danet.viz.text import duration

SHOWN = 4
EXPLAINED = 5_000_000  # bytes of a report for maps: at 360×480 and 64 channels of query and key one is about 2 MB
WORST = 3


def report_runs(
    runs: Mapping[str, Path],
    path: str | Path,
    title: str,
    progress: Callable[[str], Progress],
    summary: str = "",
    dataset: Dataset | None = None,
) -> dict[str, Report]:
    """Write the report of `runs` (name → folder), the first of which is shown in pictures; returns each one's scores.

    dataset: their validation set, where it is open already. Raises InputError for a folder that holds no finished run.
    """
    first = next(iter(runs.values()))
    config = run_config(first)
    dataset = dataset or open_val(config)
    segmenters = {name: load(folder / "best", config.device, config.precision) for name, folder in runs.items()}
    region = context_region(config)
    reports = {
        name: evaluate(segmenter, dataset, region=region, progress=progress(f"score {name}"), details=False)
        for name, segmenter in segmenters.items()
    }
    segmenter, report = next(iter(segmenters.values())), next(iter(reports.values()))
    facts = json.loads((first / "best" / "config.json").read_text(encoding="utf-8"))["provenance"]
    command = facts.pop("command", "")
    history = {name: read_record(folder) for name, folder in runs.items()}
    took = [
        f"{name} {records[-1]['step']} steps in {duration(records[-1]['seconds'])}" for name, records in history.items()
    ]
    facts["duration"] = ", ".join(took)
    shown = [round(place) for place in np.linspace(0, len(dataset) - 1, min(SHOWN, len(dataset)))]
    by_name = {item.name: index for index, item in enumerate(dataset.items)}

    def picture(name: str) -> Image.Image:
        prediction = segmenter.predict(dataset[by_name[name]].pixels)
        return overlay(prediction.image, prediction.labels, prediction.space, legend=False)

    write_report(
        path,
        ReportData(
            title=title,
            labels=dataset.labels,
            summary=summary,
            command=command,
            facts=facts,
            config=config.to_yaml(),
            history=history,
            scores={name: run_scores(report) for name, report in reports.items()},
            triples=[triple(dataset, index, segmenter) for index in shown],
            worst=[
                WorstImage(Path(image.name).name, image.pixel_accuracy, picture(image.name))
                for image in report.worst(WORST)
            ],
            attention=attention_views(dataset, shown, segmenter, EXPLAINED),
        ),
    )
    return reports


def run_config(folder: str | Path) -> RunConfig:
    """The configuration that a run keeps; raises InputError for a folder that holds none."""
    if not (Path(folder) / "config.yaml").is_file():
        raise InputError(f"{folder} holds no run: there is no config.yaml in it; give a folder under runs/.")
    return read_config(Path(folder) / "config.yaml")


def run_scores(report: Report) -> RunScores:
    """What the report shows of an evaluation."""
    found = report.to_dict()
    return RunScores(found["miou"], found["pixel_accuracy"], found["iou"], found["context"], found["majority"])


def triple(dataset: Dataset, index: int, segmenter: Segmenter) -> Triple:
    """Image, truth and prediction of one validation image."""
    sample = dataset[index]
    prediction = segmenter.predict(sample.pixels)
    return Triple(Path(sample.name).name, prediction.image, sample.mask.numpy(), prediction.labels)


def attention_views(dataset: Dataset, indices: Sequence[int], segmenter: Segmenter, room: int) -> list[AttentionView]:
    """Validation images with what their position attention follows from; none where the network has none.

    They are the first of `indices` that together take at most `room` bytes of a page, and one in any case.
    """
    views: list[AttentionView] = []
    for index in indices:
        encoding = segmenter.encode(dataset[index].pixels)
        if "position" not in encoding.traces:
            break
        view = encoding.view(Path(dataset.items[index].name).name)
        room -= len(figure([view]))
        if views and room < 0:
            break
        views.append(view)
    return views
