"""Many images, in order, into one folder with one index: what fails is left out and told, what is done is kept.

Threads read ahead and one writes, while this one computes: at most three images are read, two predicted and unwritten.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from time import perf_counter
from typing import Any, Literal, NamedTuple, TypeAlias

from danet.data.annotations.coco import write_coco
from danet.data.annotations.cvat import refuse_names, write_cvat
from danet.data.annotations.drawing import Labelled
from danet.data.annotations.labelme import write_labelme
from danet.data.images import read_mask, refuse_no_file
from danet.data.parallel import Progress, ahead
from danet.errors import InputError
from danet.files import claimed, explained
from danet.inference.device import fitting
from danet.inference.image_like import Pixels, as_pixels
from danet.inference.index import INDEX, MEND, Index, Row, most_uncertain_first
from danet.inference.inputs import Planned
from danet.inference.prediction import FILES, Prediction, is_ours
from danet.inference.protocol import Protocol
from danet.inference.raster import is_raster, predict_raster
from danet.inference.segmenter import Segmenter
from danet.inference.video import predict_video

TOOLS = {"coco": "coco.json", "labelme": "labelme", "cvat": "cvat.zip"}
"""The annotation tools whose files can be written, and these files' names in the output folder."""
Kind = Literal["image", "raster", "video"]
_WINDOWS = "predict it in windows, as with --protocol.crop '[512, 512]'"
_LEFT = re.compile(r"\.(?P<name>.+)\.\d+\.part")


class Many(NamedTuple):
    """The index's rows in its order, the results' files by image, and what was not as it should be."""

    rows: list[Row]
    files: dict[str, dict[str, Path]]
    warnings: list[str]

    @property
    def failed(self) -> dict[str, str]:
        """What is wrong with each image that is left out."""
        return {row.image: row.error for row in self.rows if row.error}

    def to_dict(self, names: Sequence[str], output: Path) -> dict[str, Any]:
        """All of it as JSON values, for classes called `names`."""
        predictions = [
            {
                "image": row.image,
                **{kind: str(path) for kind, path in self.files[row.image].items()},
                **{kind: getattr(row, kind) for kind in ("width", "height", "seconds", "confidence", "entropy")},
                "shares": dict(zip(names, row.shares, strict=True)),
            }
            for row in self.rows
            if not row.error
        ]
        failed = [{"image": image, "error": error} for image, error in self.failed.items()]
        more = {"index": str(output / INDEX), "warnings": self.warnings}
        return {"predictions": predictions, "failed": failed, **more}


class _Read(NamedTuple):
    """An input as it was read: what it is, and an image's pixels, or what is wrong with it."""

    planned: Planned
    made: str = ""
    kind: Kind = "image"
    pixels: Pixels | None = None
    error: str = ""


class _Predicted(NamedTuple):
    """An image's prediction, which is to be written; or what an input has become, which is written."""

    read: _Read
    result: Prediction | dict[str, Path] | InputError
    seconds: float = 0.0


Say: TypeAlias = Callable[[str], None]


def predict_many(
    segmenter: Segmenter,
    planned: Sequence[Planned],
    output: Path,
    protocol: Protocol,
    *,
    write: Sequence[str] = FILES,
    by: Any = None,
    resume: bool = False,
    uncertain_first: bool = False,
    say: Say = lambda text: None,
    phase: Callable[[str], Progress] = lambda name: lambda done, total: None,
) -> Many:
    """Predict all that is planned (see `danet.inference.inputs.plan`), and write the results and OUTPUT/index.csv.

    write: of FILES and TOOLS; label maps are always written. by: what else a result follows from, in JSON values, such
    as the model's digest.
    With `resume` an image is not done again where the index has a row of it without error, made of the same file (path,
    size, time of change), protocol and `by`, and all of its files are there. Without, the index begins anew.
    With it rows of images that are not planned stay, after the others, where their label maps are there.
    uncertain_first: the index's order, at the end. `say` is told of each image that is left out, `phase` of progress.

    Raises InputError where the folder or the index cannot be written, where another process writes there, where files
    would be replaced that are no results of this, and for classes that the protocol or a tool cannot have.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is no folder; choose another with -o.")
    for name in protocol.classes:
        segmenter.labels.index(name)
    if "cvat" in write:
        refuse_names(segmenter.labels.names)
    tools = [output / file for tool, file in TOOLS.items() if tool in write]
    _refuse_twice(planned, tools)
    run = json.dumps([by, protocol.to_dict()], sort_keys=True)
    index, wanted = Index(output, segmenter.labels.names), [kind for kind in FILES if kind in {*write, "labels"}]
    with explained(output, MEND):
        output.mkdir(parents=True, exist_ok=True)
    with claimed(output):
        _remove_leftovers(planned, output)
        before = index.read()
        if not index.path.exists():
            _refuse_others([file for tool in tools for file in (tool, *tool.rglob("*.json"))])
        if not resume:
            before = {}
        kept: dict[Path, Row] = {}
        for one in planned:
            row = before.get(str(one.path))
            if row is not None and _is_done(one, row, output, wanted, run):
                kept[one.path] = row
        left = [one for one in planned if one.path not in kept]
        for one in left:
            _refuse_others([path for kind, path in one.results.items() if one.is_video or kind in wanted])
        carried = _carried(before.values(), planned, output)
        rows, files, warnings = kept.copy(), {}, []
        progress = phase("predict")
        index.write([*kept.values(), *carried])
        with index.adding() as add:
            read = ahead(partial(_read, segmenter, run), left)
            predicted = (_predict(segmenter, protocol, one, phase, warnings) for one in read)
            written = ahead(partial(_write, output, wanted), predicted, depth=1)
            for one, (row, paths) in zip(left, written, strict=True):
                add(row)
                rows[one.path], files[row.image] = row, paths
                if row.error:
                    say(f"Left out: {row.error}")
                progress(len(rows), len(planned))
        ordered = [rows[one.path] for one in planned]
        if uncertain_first:
            ordered, carried = most_uncertain_first(ordered), most_uncertain_first(carried)
        index.write([*ordered, *carried])
        again = [one for one in planned if one.path in kept]
        files |= {str(one.path): _files(one, output / kept[one.path].labels, wanted) for one in again}
        done = [one for one in planned if not rows[one.path].error]
        for tool in TOOLS:
            if tool in write:
                warnings += _annotate(tool, done, rows, output, segmenter.labels.names, phase(tool))
    for warning in warnings:
        say(warning)
    return Many(ordered, files, warnings)


def _is_done(one: Planned, row: Row, output: Path, wanted: Sequence[str], run: str) -> bool:
    """Whether a row of the index tells of finished results of the same image by the same model and protocol."""
    if row.error or not row.labels or row.made != _made(one.path, run):
        return False
    return all(path.is_file() for path in _files(one, output / row.labels, wanted).values())


def _files(one: Planned, labels: Path, wanted: Sequence[str]) -> dict[str, Path]:
    """The files of one input, whose label map is `labels`: pictures have what is wanted, others what they always
    have."""
    results = one.results | {"labels": labels}
    if one.is_video:
        return results
    if labels.suffix != ".png":
        return {"labels": labels, "json": results["json"]}
    return {kind: results[kind] for kind in wanted}


def _made(path: Path, run: str) -> str:
    """What tells results of one file and run from those of any other; "" for a file that is not there."""
    try:
        file = path.stat()
    except OSError:
        return ""
    told = json.dumps([str(path.resolve()), file.st_size, file.st_mtime_ns, run])
    return hashlib.sha256(told.encode(errors="surrogateescape")).hexdigest()[:16]


def _read(segmenter: Segmenter, run: str, one: Planned) -> _Read:
    try:
        refuse_no_file(one.path)
        made = _made(one.path, run)  # before it is read: what changes meanwhile is done again
        if one.is_video:
            return _Read(one, made, "video")
        if is_raster(one.path, segmenter.preprocess):
            return _Read(one, made, "raster")
        return _Read(one, made, pixels=as_pixels(one.path, segmenter.preprocess))
    except InputError as error:
        return _Read(one, error=str(error))


def _predict(
    segmenter: Segmenter,
    protocol: Protocol,
    read: _Read,
    phase: Callable[[str], Progress],
    warnings: list[str],
) -> _Predicted:
    start, (path, folder, stem) = perf_counter(), read.planned
    try:
        if read.error:
            raise InputError(read.error)
        with fitting(str(path), _WINDOWS):
            if read.kind == "raster":
                target = folder / f"{stem}.tif"
                if not Path(f"{target}.part").exists() and target.resolve() != path.resolve():
                    _refuse_others([target, read.planned.results["json"]])
                result = predict_raster(segmenter, path, folder, stem, protocol, phase(path.name))
            elif read.kind == "video":
                video = predict_video(segmenter, path, folder, stem, protocol, phase(path.name))
                result = video.paths
                warnings += [video.warning] * bool(video.warning)
            else:
                assert read.pixels is not None
                result = segmenter.predict(read.pixels, protocol)
                _ = result.labels  # which waits for what a GPU has still to do
    except InputError as error:
        result = error
    return _Predicted(read._replace(pixels=None), result, perf_counter() - start)


def _write(output: Path, wanted: Sequence[str], predicted: _Predicted) -> tuple[Row, dict[str, Path]]:
    """The row of one input, and its files."""
    (path, folder, stem), read, result = predicted.read.planned, predicted.read, predicted.result
    try:
        if isinstance(result, InputError):
            raise result
        if isinstance(result, dict):  # a raster's or a video's, whose facts are written
            return _told(read, result, output, predicted.seconds), result
        height, width = result.labels.shape
        with fitting(str(path), _WINDOWS), explained(folder / f"{stem}.png", MEND):
            certain = float(result.confidence.mean()), float(result.entropy.mean())
            for kind, file in predicted.read.planned.results.items():
                if kind not in wanted and file.is_file() and is_ours(file):
                    file.unlink()  # of what the image or the model was before
            files = result.save(folder, stem, wanted)
        labels = files["labels"].relative_to(output).as_posix()
        shares = tuple(result.shares.values())
        return Row(str(path), labels, width, height, predicted.seconds, *certain, shares, "", read.made), files
    except InputError as error:
        told = " ".join(str(error).split())
        return Row(str(path), error=told if str(path) in told else f"{path}: {told}"), {}


def _told(read: _Read, files: dict[str, Path], output: Path, seconds: float) -> Row:
    """The row of what was predicted piece by piece, which has no probabilities left."""
    facts = json.loads(files["json"].read_text(encoding="utf-8"))
    labels = files["labels"].relative_to(output).as_posix()
    size, shares = (facts["width"], facts["height"]), tuple(facts["shares"].values())
    return Row(str(read.planned.path), labels, *size, seconds, None, None, shares, "", read.made)


def _annotate(
    tool: str, done: Sequence[Planned], rows: dict[Path, Row], output: Path, names: tuple[str, ...], progress: Progress
) -> list[str]:
    """Write the label maps of all pictures in the form of `tool`; returns what is left out."""
    drawn, others = [], []
    for one in done:
        (drawn if rows[one.path].labels.endswith(".png") else others).append(one)

    def labelled() -> Iterator[Labelled]:
        for number, one in enumerate(drawn, start=1):
            name = PurePosixPath(one.folder.relative_to(output).as_posix(), one.path.name)
            yield Labelled(name, one.path, read_mask(output / rows[one.path].labels).astype("uint8"))
            progress(number, len(drawn))

    write = {"coco": write_coco, "labelme": write_labelme, "cvat": write_cvat}[tool]
    with explained(output / TOOLS[tool], MEND):
        write(output / TOOLS[tool], labelled(), names)
    return [f"{one.path} is no picture, so {tool} has nothing of it." for one in others]


def _refuse_others(files: Sequence[Path]) -> None:
    """Raises InputError for the first file that is there and is no result of an image, raster or video."""
    for file in files:
        with explained(file, MEND):
            if file.is_file() and not is_ours(file):
                raise InputError(
                    f"{file} is no result of danet predict; move it away, or choose another folder with -o."
                )


def _refuse_twice(planned: Sequence[Planned], files: Sequence[Path]) -> None:
    """Raises InputError where an image's result would be a file that is of all images, or lie in such a folder."""
    for one in planned:
        for result in one.results.values():
            for file in files:
                if result == file or file in result.parents:
                    raise InputError(f"The result {result} of {one.path} is in the way of {file}; rename the image.")


def _carried(rows: Iterable[Row], planned: Sequence[Planned], output: Path) -> list[Row]:
    """The rows of images that are not planned and whose label maps are there and stay."""
    images = {str(one.path) for one in planned}
    new = {path for one in planned for path in (*one.results.values(), one.folder / f"{one.stem}.tif")}
    return [
        row
        for row in rows
        if row.labels and row.image not in images and output / row.labels not in new and (output / row.labels).is_file()
    ]


def _remove_leftovers(planned: Sequence[Planned], output: Path) -> None:
    """Remove what a killed process left of the files that it was writing, and nothing of anyone else's."""
    names: dict[Path, set[str]] = defaultdict(set)
    names[output] |= {INDEX, *TOOLS.values()}
    for one in planned:
        names[one.folder] |= {path.name for path in one.results.values()}
        names[output / TOOLS["labelme"] / one.folder.relative_to(output)].add(f"{one.stem}.json")
    for folder, known in names.items():
        for path in folder.glob(".*.part"):
            if (found := _LEFT.fullmatch(path.name)) and found["name"] in known:
                path.unlink()
