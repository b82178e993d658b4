"""Shows what a run would train on: some of its images, and crops of them as its steps see them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from danet.config import Preprocess, RunConfig
from danet.data.channels import to_display
from danet.data.dataset import Dataset, Sample
from danet.data.parallel import Progress
from danet.data.sampling import by_class, class_counts
from danet.errors import InputError
from danet.files import written_aside
from danet.training.data import CHECK_THREADS, open_train, reading
from danet.viz.sheet import Shown, View, contact_sheet, page

CROPS = 3
_VARIED = ("crop", "scale", "sampling", "max_class_share", "flip", "photometric")


def show(config: RunConfig, path: Path, count: int, progress: Callable[[str], Progress]) -> tuple[Path, Path]:
    """Write the page `path` and, under the same name, a contact sheet as PNG; returns both paths.

    `count` images, evenly from all of the training set; every file is read, for the classes' shares.
    Raises InputError for the first fault of the data.
    """
    if count < 1:
        raise InputError(f"The count is {count}; show at least 1 image.")
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"The page {path} is no .html file; give -o one, such as {path.with_suffix('.html')}.")
    train, preprocess = open_train(config)
    threads = 0 if config.data.source == "scenes" else CHECK_THREADS
    counts = class_counts(train, reading(config, preprocess), threads, progress("read training data"))
    chosen = np.unique(np.linspace(0, len(train) - 1, min(count, len(train))).round().astype(int)).tolist()
    drawn, shown = progress("draw"), []
    for done, index in enumerate(chosen, start=1):
        shown.append(_shown(train, index, counts, config.data.sampling == "balanced", preprocess))
        drawn(done, len(chosen))
    facts = {name.replace("_", " "): str(getattr(config.data, name)) for name in _VARIED}
    title = Path(config.data.root).resolve().name if config.data.root else config.data.source
    sheet = path.with_suffix(".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as page_aside, written_aside(sheet) as sheet_aside:
        page_aside.write_text(page(title, shown, train.labels, counts, facts), encoding="utf-8")
        contact_sheet(shown, train.labels).save(sheet_aside, "PNG")
    return path, sheet


def _shown(train: Dataset, index: int, counts: np.ndarray, balanced: bool, preprocess: Preprocess) -> Shown:
    """Item `index`, and crops of it; balanced: around a class that it has, as if this item had been drawn."""
    pixels, labels = train.arrays(index)
    train.draw = None
    if balanced and counts[index, : train.labels.num_classes].any():
        draw = by_class(counts[index : index + 1], train.labels.num_classes)
        train.draw = lambda: (index, draw()[1])
    crops = [_view(train[(epoch, index)], preprocess) for epoch in range(CROPS)]
    return Shown(Path(train.items[index].name).name, View(to_display(pixels, preprocess), labels), crops)


def _view(sample: Sample, preprocess: Preprocess) -> View:
    return View(to_display(sample.pixels, preprocess), sample.mask.numpy())
