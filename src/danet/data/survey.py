"""Looks at a folder of someone's own images and masks, or of another tool's annotations, and writes its labels.yaml."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from danet.config import Folders, Split, validate
from danet.data.annotations.drawing import Annotations, Drawing
from danet.data.annotations.find import find_annotations
from danet.data.classes import find_classes, see
from danet.data.images import IMAGE_SUFFIXES, read_image
from danet.data.labels import IGNORE_INDEX, LabelSpace
from danet.data.layout import IMAGES, find_folders
from danet.data.listing import read_list
from danet.data.measure import measure_channels
from danet.data.pairs import find_pairs, list_files, near_miss, stem_of
from danet.data.parallel import Progress, parallel_map
from danet.data.split import LISTS, SPELT, SPLITS, assign_split, choose_split, group_of, in_folders, suggest_groups
from danet.errors import InputError
from danet.files import written_aside

MASKS = "masks"
"""The folder for masks that are drawn from annotations."""
_MADE = {"Software": "danet data init"}
"""What such a mask says of itself, so that no other is ever replaced."""


class Survey(NamedTuple):
    """What `init` found and wrote: the file, the kind in words, classes, images a split, groups, and notes on what
    was decided or left out."""

    path: Path
    kind: str
    labels: LabelSpace
    images: dict[str, int]
    groups: str
    notes: list[str]


class _Found(NamedTuple):
    """A data set before its labels.yaml: the kind in words, that file's entries about classes and folders, images by
    stem, and the classes in each one's mask."""

    kind: str
    entries: dict[str, Any]
    images: dict[str, Path]
    classes: Mapping[str, Set[int]]
    notes: list[str]


def init(
    root: str | Path,
    *,
    images: str | None = None,
    masks: str | None = None,
    groups: str = "auto",
    val: float = 0.2,
    force: bool = False,
    workers: int = 4,
    progress: Progress | None = None,
) -> Survey:
    """Write ROOT/labels.yaml, and ROOT/masks/ where masks are to be drawn from another tool's annotations.

    images, masks: the folders below ROOT, where they are not to be found by themselves. groups: what a split never
    tears apart (as `Split.groups`; or none; or auto: what the names suggest). val: the share that is held out.
    Every mask is read, and nothing is written before all is known to be right. Raises InputError for what is there
    already (without `force`), for what cannot be read, and where there is nothing to learn.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"The folder {root} does not exist; give the one that holds your images and masks.")
    path = root / "labels.yaml"
    if path.exists() and not force:
        raise InputError(f"{path} is there already; edit it, or have it written anew with --force.")
    if not 0 < val < 1:
        raise InputError(f"--val is {val:g}; the share of validation lies between 0 and 1, such as 0.2.")
    unreadable: list[InputError] = []
    annotations = find_annotations(root, unreadable) if images is None and masks is None else None
    if annotations is None:
        try:
            folders, notes = find_folders(root, images, masks)
        except InputError as error:
            raise (unreadable or [error])[0] from None
        found = _from_masks(root, folders, [*map(str, unreadable), *notes], workers, progress)
        text, survey = _describe(path, found, groups, val, workers)
    else:
        with _replaced(root / MASKS, force) as aside:
            found = _from_annotations(root, annotations, aside, workers, progress)
            text, survey = _describe(path, found, groups, val, workers)
    with written_aside(path) as part:
        part.write_text(text, encoding="utf-8")
    return survey


def _from_masks(root: Path, folders: Folders, notes: list[str], workers: int, progress: Progress | None) -> _Found:
    pairs = find_pairs(root / folders.images, root / folders.masks, IMAGES, folders.suffix)
    if pairs.twice:
        raise InputError("{} and {} have the same stem; rename or remove one of them.".format(*pairs.twice[0]))
    if not pairs.both:
        missed = near_miss(pairs.images, pairs.masks, folders.suffix)
        if missed is not None:
            raise InputError(f"No image has a mask of its name: {missed}")
        raise InputError(
            f"None of the {len(pairs.images)} images in {root / folders.images} has a mask in {root / folders.masks}; "
            "a mask has its image's stem."
        )
    masks = [mask for _, mask in pairs.both.values()]
    seen = dict(zip(masks, parallel_map(see, masks, workers, progress), strict=True))
    entries, decided = find_classes(seen)
    missed = near_miss(pairs.images, pairs.masks, folders.suffix)
    alone = [*_alone(pairs.images, "image", "mask"), *_alone(pairs.masks, "mask", "image")]
    ignored = {*entries["ignore"], *([0xFFFFFF] if "ignore_colours" in entries else [])}
    return _Found(
        f"masks in {folders.masks}/" + (f", named …{folders.suffix}" if folders.suffix else ""),
        entries | _folders(folders, complete=not pairs.images),
        {stem: image for stem, (image, _) in pairs.both.items()},
        {stem: seen[mask].counts.keys() - ignored for stem, (_, mask) in pairs.both.items()},
        [*notes, *decided, *alone, *([missed] if missed else [])],
    )


def _from_annotations(
    root: Path, annotations: Annotations, aside: Path, workers: int, progress: Progress | None
) -> _Found:
    """Masks drawn into the folder `aside`, as PNG files of class indices with the classes' colours."""
    labels = LabelSpace(root.name, annotations.names, annotations.colours)
    above = os.path.commonpath([drawing.image.parent for drawing in annotations.drawings])
    stems = [stem_of(drawing.image, Path(above)) for drawing in annotations.drawings]
    twice = next((stem for stem, count in Counter(stems).items() if count > 1), None)
    if twice is not None:
        raise InputError(f"Two images in {above} are called {twice}; rename one of them, and its annotation.")

    def draw(numbered: tuple[str, Drawing]) -> frozenset[int]:
        stem, drawing = numbered
        indices = drawing.draw(read_image(drawing.image).shape[:2])
        _save(indices, labels, aside / f"{stem}.png")
        return frozenset(np.unique(indices[indices != IGNORE_INDEX]).tolist())

    named = list(zip(stems, annotations.drawings, strict=True))
    drawn = dict(zip(stems, parallel_map(draw, named, workers, progress), strict=True))
    if not any(drawn.values()):
        raise InputError(f"{root}: {annotations.kind} mark nothing; there is nothing to learn.")
    folders = Folders(images=Path(above).relative_to(root).as_posix(), masks=MASKS)
    pictures = [path for path in list_files(Path(above), IMAGE_SUFFIXES) if root / MASKS not in path.parents]
    others = [path for path in pictures if stem_of(path, Path(above)) not in drawn]
    alone = [path for path in others if path not in annotations.masks]
    notes = [*annotations.notes, *_alone(alone, "image", "annotation")]
    entries = {
        "names": list(annotations.names),
        "colours": [list(colour) for colour in annotations.colours],
        "ignore": [IGNORE_INDEX],
    }
    images = {stem: drawing.image for stem, drawing in named}
    return _Found(annotations.kind, entries | _folders(folders, complete=not others), images, drawn, notes)


def _alone(paths: list[Path], what: str, lacks: str) -> list[str]:
    if len(paths) < 2:
        return [f"1 {what} has no {lacks} ({path})." for path in paths]
    return [f"{len(paths)} {what}s have no {lacks} ({paths[0]}, …)."]


def _describe(path: Path, found: _Found, groups: str, val: float, workers: int) -> tuple[str, Survey]:
    """The text of the labels.yaml at `path`, in which everything can be changed by hand, and what it says."""
    channels = measure_channels(list(found.images.values()), workers)
    entries = dict(found.entries)
    if channels is not None:
        entries["channels"] = channels.model_dump(mode="json")
    lists = [path.parent / name for name in LISTS if (path.parent / name).is_file()]
    images = path.parent / found.entries.get("folders", {}).get("images", Folders().images)
    notes = list(found.notes)
    if lists:
        rule, told = None, f"by {' and '.join(one.name for one in lists)}"
        counts = {one.stem: len(read_list(one)) for one in lists}
    elif in_folders(images):
        rule, told = None, "in the folders train/ and val/"
        counts = Counter(stem.partition("/")[0] for stem in found.images)
        left = len(found.images) - counts["train"] - counts["val"]
        notes += [f"Images outside train/ and val/ are left out: {left}."] if left else []
    else:
        validate(Split, {"groups": groups}, "--groups")
        chosen = suggest_groups(found.images) if groups == "auto" else None if groups == "none" else groups
        rule = choose_split(found.classes, chosen, val)
        entries["split"] = rule.model_dump(mode="json")
        count = len({group_of(stem, chosen) for stem in found.images})
        example = group_of(next(iter(found.images)), chosen)
        told = f"{count} groups by {chosen}, such as {example!r}" if chosen else "each image alone"
        counts = Counter(assign_split(found.images, rule).values())
        spelt = sorted({stem.partition("/")[0] for stem in found.images if _named_like_a_split(stem)})
        if spelt:
            notes.append(f"{', '.join(spelt)}: such folders tell no split; call them train and val where they should.")
    labels = LabelSpace.from_dict({"name": path.resolve().parent.name, **entries}, str(path))
    of_split = {split: counts.get(split, 0) for split in SPLITS}
    _refuse_empty(of_split, images, lists)
    text = "# Written by `danet data init`. Every entry can be changed by hand: begin with the names.\n"
    for key, value in entries.items():
        text += f"# {_EXPLAINED[key].format(groups=told)}\n" if key in _EXPLAINED else ""
        style = False if isinstance(value, str) else None
        text += yaml.safe_dump({key: value}, sort_keys=False, default_flow_style=style, allow_unicode=True, width=110)
    return text, Survey(path, found.kind, labels, of_split, told, notes)


def _refuse_empty(of_split: dict[str, int], images: Path, lists: list[Path]) -> None:
    """Refuse what training would: folders or lists by which one of its two splits has no image."""
    missing = next((split for split in SPLITS if not of_split[split]), None)
    if missing is None:
        return
    if lists:
        there = " and ".join(path.name for path in lists)
        raise InputError(
            f"{lists[0].parent} has {there}, by which {missing} has no image; write {missing}.txt as well."
        )
    spelt = [path.name for path in images.iterdir() if path.is_dir() and path.name.casefold() in SPELT]
    other = next((name for name in sorted(spelt) if name.casefold()[:2] == missing[:2] and name != missing), None)
    mend = f"rename {other}/ to {missing}/" if other else f"move some into {missing}/, or all out of such folders"
    raise InputError(
        f"The folders below {images} decide the split, but {missing}/ holds no image; {mend}, and the masks alike."
    )


def _named_like_a_split(stem: str) -> bool:
    first, _, rest = stem.partition("/")
    return bool(rest) and first.casefold() in SPELT


_EXPLAINED = {
    "ids": "Which file value is which class (by its place in names, from 0).",
    "ignore": 'File values that mean "not labelled".',
    "ignore_colours": 'Colours that mean "not labelled".',
    "masks": "Masks are spelled in the colours above.",
    "channels": "Mean and deviation are of values in 0 … 1, which range maps the file values to.",
    "split": "val: the share held out; groups (null, folder, prefix, a regular expression) stay together: {groups}.",
}


def _folders(folders: Folders, complete: bool) -> dict[str, Any]:
    told = folders.model_copy(update={"complete": complete}).model_dump(exclude_defaults=True)
    return {"folders": told} if told else {}


def _save(indices: np.ndarray, labels: LabelSpace, path: Path) -> None:
    image = Image.fromarray(indices)
    image.putpalette(labels.palette())
    made = PngInfo()
    for key, value in _MADE.items():
        made.add_text(key, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, pnginfo=made)


@contextmanager
def _replaced(folder: Path, force: bool) -> Iterator[Path]:
    """An empty folder that becomes `folder` if all goes well, and goes away if not; what was there then stays.

    Raises InputError where `folder` is there without `force`, and where it holds anything but masks drawn here before.
    """
    if folder.exists():
        if not force:
            raise InputError(f"{folder} is there already; have the masks drawn anew with --force, or move it away.")
        stranger = next((path for path in sorted(folder.rglob("*")) if path.is_file() and not _made_here(path)), None)
        if stranger is not None:
            raise InputError(f"{stranger} was not drawn by danet data init, which would replace it; move it away.")
    aside, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    aside.mkdir()
    try:
        yield aside
        if folder.exists():
            folder.replace(old)
        aside.replace(folder)
    except BaseException:
        if old.exists():
            old.replace(folder)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _made_here(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return image.info.get("Software") == _MADE["Software"]
    except OSError:
        return False
