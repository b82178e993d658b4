"""Annotations of other tools as class indices: of whichever tool a folder holds.

Each reader takes someone's folder and returns None where there is nothing of its kind; what is of its kind and broken
raises InputError. Pixels that nobody marked are class 0, the background.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from danet.data.annotations.coco import read_coco
from danet.data.annotations.cvat import read_cvat, refuse_no_archive
from danet.data.annotations.drawing import Annotations
from danet.data.annotations.label_studio import read_label_studio
from danet.data.annotations.labelme import read_labelme
from danet.data.pairs import list_files
from danet.errors import InputError


def find_annotations(root: Path, unreadable: list[InputError] | None = None) -> Annotations | None:
    """The annotations of ROOT, of whichever tool; None where its masks are files of their own.

    Raises InputError for annotations that name images that are not there, or are of several tools, and for JSON files
    and archives that cannot be read; the last are put into `unreadable` instead where that is given and ROOT holds no
    annotations.
    """
    files: dict[Path, Any] = {}
    faults: list[InputError] = []
    for path in list_files(root, (".json", ".zip")):
        try:
            if path.suffix.lower() == ".json":
                files[path] = _json(path)
            else:
                refuse_no_archive(path)
        except InputError as error:
            faults.append(error)
    found = [
        one
        for read in (read_cvat, read_label_studio, read_coco, read_labelme)
        if (one := read(root, files)) is not None
    ]
    if faults and (found or unreadable is None):
        raise faults[0]
    if unreadable is not None:
        unreadable += faults
    if len(found) > 1:
        kinds = " and ".join(one.kind for one in found)
        raise InputError(f"{root} holds {kinds}; leave one of them there, and move the other away.")
    return found[0] if found else None


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is no JSON: {' '.join(str(error).split())}. Export it again, or move it away."
        ) from None
