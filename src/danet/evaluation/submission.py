"""Predictions as the benchmarks' servers take them: Cityscapes, ADE20K and PASCAL VOC.

Cityscapes: as its evalPixelLevelSemanticLabeling.py finds them, label ids in <city>_<sequence>_<frame>*.png, in one
folder. ADE20K: 1 to 150 in PNG files named as the images (github.com/CSAILVision/sceneparsing, README.md). VOC: class
indices under VOC's palette in results/VOC2012/Segmentation/comp6_<split>_cls/<image>.png (VOC2012 development kit,
section 5.3; comp6: trained on any data), and beside results/ the list of the images, for the kit's VOCevalseg.m.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from danet.data.labels import LabelSpace
from danet.errors import InputError
from danet.evaluation.evaluate import Keep
from danet.files import built_aside, explained


class Server(NamedTuple):
    """What a server takes: the label space of its files' values, whether these are a palette's, and where a file goes
    by its image's stem and the split."""

    labels: str
    palette: bool
    place: str


SERVERS = {
    "cityscapes": Server("cityscapes", False, "{stem}_pred_labelIds.png"),
    "ade20k": Server("ade20k", False, "{stem}.png"),
    **dict.fromkeys(
        ("voc", "voc-sbd"), Server("voc", True, "results/VOC2012/Segmentation/comp6_{split}_cls/{stem}.png")
    ),
}
"""By data set (`data.source`)."""


def server_of(source: str) -> Server:
    """The server of a data set; raises InputError where there is none."""
    if source not in SERVERS:
        raise InputError(f"The data set {source} has no server that we know; --submission is for {', '.join(SERVERS)}.")
    return SERVERS[source]


@contextmanager
def submission(folder: Path, source: str, split: str) -> Iterator[Keep]:
    """Takes the predictions of a data set's split, and puts them into `folder`, new or empty, if all went well.

    Raises InputError for a data set without a server, and where it cannot be written.
    """
    server = server_of(source)
    space, stems = LabelSpace.load(server.labels), list[str]()
    values = np.zeros(space.num_classes, np.uint8)
    values[list(space.ids.values())] = list(space.ids)
    mend = "choose another folder with --submission, or make room"
    with explained(folder, mend), built_aside(folder.resolve()) as aside:

        def keep(name: str, labels: UInt8[np.ndarray, "h w"]) -> None:
            stem = Path(name).stem.removesuffix("_leftImg8bit")
            path = aside / server.place.format(stem=stem, split=split)
            picture = Image.fromarray(values[labels])
            if server.palette:
                picture.putpalette(space.palette())
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
            stems.append(stem)

        yield keep
        if server.palette:
            (aside / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")
