"""Reads every file of a data set, whatever is wrong with it, and tells all: what the splits hold, and each fault."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from danet.config import Preprocess
from danet.data.findings import (
    Finding,
    Level,
    Look,
    look,
    of_duplicates,
    of_files,
    of_labels,
    of_strays,
    of_values,
)
from danet.data.labels import IGNORE_INDEX
from danet.data.listing import Source, Stray
from danet.data.parallel import Progress, parallel_map
from danet.errors import InputError

OpenSplit = Callable[[str, list[Stray]], Source]
_UNSET = Preprocess()


@dataclass(frozen=True)
class Contents:
    """What a split holds; everything but `files` counts what could be read.

    pixels, images: by class index; values: file value → pixels, of masks that are one channel; modes: of the image
    and mask files (see `file_mode`); sizes: width×height of the images; turned: images that EXIF turns or mirrors.
    """

    files: int
    pixels: Int64[np.ndarray, " classes"]
    images: Int64[np.ndarray, " classes"]
    ignored: int
    values: Mapping[int, int]
    image_modes: Mapping[str, int]
    mask_modes: Mapping[str, int]
    sizes: Mapping[str, int]
    turned: int

    @property
    def shares(self) -> list[float]:
        """The classes' shares of the labelled pixels."""
        return (self.pixels / max(int(self.pixels.sum()), 1)).tolist()

    @property
    def ignored_share(self) -> float:
        return self.ignored / max(int(self.pixels.sum()) + self.ignored, 1)


@dataclass(frozen=True)
class Report:
    """All that `examine` found: errors first, the classes' names (none where no split can be opened), and what each
    split holds."""

    findings: tuple[Finding, ...]
    names: tuple[str, ...]
    splits: Mapping[str, Contents]

    def count(self, level: Level) -> int:
        return sum(finding.level == level for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Values for JSON; shares are of the labelled pixels, `ignored` of all."""
        splits = {}
        for name, held in self.splits.items():
            classes = zip(self.names, held.pixels.tolist(), held.shares, held.images.tolist(), strict=True)
            splits[name] = {
                "files": held.files,
                "classes": {
                    label: {"pixels": pixels, "share": share, "images": images}
                    for label, pixels, share, images in classes
                },
                "ignored": held.ignored_share,
                "values": {str(value): pixels for value, pixels in held.values.items()},
                "image_modes": dict(held.image_modes),
                "mask_modes": dict(held.mask_modes),
                "sizes": dict(held.sizes),
                "turned": held.turned,
            }
        return {
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "findings": [finding._asdict() for finding in self.findings],
            "splits": splits,
        }


def examine(
    open_split: OpenSplit,
    preprocess: Preprocess = _UNSET,
    splits: Sequence[str] = ("train", "val"),
    workers: int = 0,
    progress: Callable[[str], Progress] = lambda phase: lambda done, total: None,
) -> Report:
    """Open and read every split, in `workers` threads, and tell all that is wrong; raises nothing for bad data.

    open_split: a split's name and a list for strays → its items and labels. preprocess: the images' channels, where it
    sets them and not the labels.
    """
    found: list[Finding] = []
    strays: dict[Path, Stray] = {}
    seen: dict[str, list[Look]] = {}
    held: dict[str, Contents] = {}
    names: tuple[str, ...] = ()
    for split in splits:
        beside: list[Stray] = []
        try:
            items, labels = open_split(split, beside)
        except InputError as error:
            found.append(Finding("error", "set-up", str(error)))
            continue
        strays |= {stray.path: stray for stray in beside}
        names, channels = labels.names, preprocess.of(labels.channels)
        read = partial(look, labels=labels, channels=channels)
        seen[split] = list(parallel_map(read, items, workers, progress(f"check {split} data")))
        held[split] = _contents(seen[split], labels.num_classes)
        found += of_labels(split, seen[split], labels)
    if seen:
        looks = [one for looks in seen.values() for one in looks]
        found += of_files(looks, channels) + of_values(looks, labels)
    found += of_strays(list(strays.values())) + of_duplicates(seen)
    return Report(tuple(sorted(dict.fromkeys(found), key=lambda finding: finding.level)), names, held)


def _contents(looks: Sequence[Look], classes: int) -> Contents:
    counts = [one.counts for one in looks if one.counts is not None] or [np.zeros(256, np.int64)]
    values: Counter[int] = Counter()
    for one in looks:
        values.update(dict(one.values))
    total = np.sum(counts, axis=0)
    sizes = Counter(f"{one.size[0]}×{one.size[1]}" for one in looks if one.size)
    return Contents(
        files=len(looks),
        pixels=total[:classes],
        images=np.sum([count[:classes] > 0 for count in counts], axis=0),
        ignored=int(total[IGNORE_INDEX]),
        values=dict(sorted(values.items())),
        image_modes=dict(Counter(one.modes[0].mode for one in looks if one.modes)),
        mask_modes=dict(Counter(one.modes[1].mode for one in looks if len(one.modes) > 1)),
        sizes=dict(sizes.most_common()),
        turned=sum(one.modes[0].turned for one in looks if one.modes),
    )
