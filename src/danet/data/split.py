"""Which images are held out: a rule that follows from their names alone, and never tears a group apart."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Set
from pathlib import Path

from danet.config import Split
from danet.errors import InputError

SPLITS = ("train", "val")
LISTS = tuple(f"{split}{suffix}" for split in ("train", "val", "test") for suffix in (".txt", ".csv"))
"""Lists of image and mask by line, which decide the split where any is there."""
SPELT = ("train", "training", "val", "valid", "validation", "dev", "test", "testing")
"""What folders of splits are called elsewhere; here only those of `SPLITS` decide."""
SEEDS = 100
"""So many splits are compared; the one that shares images and classes best is taken."""
_NUMBERED = re.compile(r"(.+?)[\s_.-]+[^\W\d_]*\d+")


def assign_split(stems: Iterable[str], rule: Split) -> dict[str, str]:
    """Each stem (a path below the images' folder, without its ending) with its split, train or val.

    What is in a folder train/ or val/ is of that split. Elsewhere a stem's group and the seed alone decide, so that a
    file stays in its split whatever else comes or goes; `rule.val` of the groups are val, but for chance.
    """
    return {stem: _split(stem, rule) for stem in stems}


def group_of(stem: str, groups: str | None) -> str:
    """The name of the group that `stem` belongs to by the rule `groups` (see Split); without one, the stem itself."""
    if groups is None:
        return stem
    if groups == "folder":
        return stem.rpartition("/")[0] or stem
    found = _NUMBERED.fullmatch(stem) if groups == "prefix" else re.search(groups, stem)
    if found is None:
        return stem
    return found[1] if found.re.groups and found[1] is not None else found[0]


def placed(stem: str) -> bool:
    """Whether a folder train/ or val/ tells the split of `stem`."""
    first, _, rest = stem.partition("/")
    return first in SPLITS and bool(rest)


def in_folders(images: Path) -> bool:
    """Whether folders tell the splits of all images below `images`: what lies elsewhere is then in none."""
    return any((images / split).is_dir() for split in SPLITS)


def suggest_groups(stems: Iterable[str]) -> str | None:
    """The rule by which the names fall into at least three groups, of two images or more on average: folder, prefix or
    none."""
    stems = list(stems)
    for rule in ("folder", "prefix"):
        if 3 <= len({group_of(stem, rule) for stem in stems}) <= len(stems) / 2:
            return rule
    return None


def choose_split(classes: Mapping[str, Set[int]], groups: str | None, val: float) -> Split:
    """The rule by the first seed that leaves the fewest classes out of a split, then comes nearest to `val`.

    classes: what is in each stem's mask. Raises InputError where no seed gives both splits an image.
    """
    within: dict[str, list[str]] = {}
    for stem in classes:
        within.setdefault(group_of(stem, groups), []).append(stem)
    everything = set().union(*classes.values())
    content = {stems[0]: (len(stems), set().union(*(classes[stem] for stem in stems))) for stems in within.values()}
    ranked: list[tuple[int, float, int]] = []
    for seed in range(SEEDS):
        split = assign_split(content, Split(val=val, groups=groups, seed=seed))
        parts = [[content[stem] for stem, part in split.items() if part == name] for name in SPLITS]
        if all(parts):
            absent = sum(len(everything.difference(*(found for _, found in part))) for part in parts)
            share = sum(count for count, _ in parts[1]) / len(classes)
            ranked.append((absent, abs(share - val), seed))
    if not ranked:
        raise InputError(
            f"Too little to split into training and validation with {val:g} for the latter (images: {len(classes)}, "
            f"groups by {groups or 'image'}: {len(within)}); add images, or choose --groups and --val yourself."
        )
    return Split(val=val, groups=groups, seed=min(ranked)[2])


def _split(stem: str, rule: Split) -> str:
    stem = unicodedata.normalize("NFC", stem)  # macOS may spell é as two characters: the same name
    if placed(stem):
        return stem.partition("/")[0]
    digest = hashlib.sha256(f"split {rule.seed}: {group_of(stem, rule.groups)}".encode()).digest()
    return "val" if int.from_bytes(digest[:8], "big") < rule.val * 2**64 else "train"
