"""Any number of images on Ray Data: files, folders, buckets and Parquet in, Parquet or PNG out, every image once.

Tasks read, actors predict, and this process alone writes: what a lost worker had in hand is done again, and comes here
once. A part is there whole or not at all; what the parts in a folder hold is not done again.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from danet.data.images import image_suffixes
from danet.data.labels import LabelSpace
from danet.data.parallel import Progress, ahead
from danet.errors import InputError
from danet.files import claimed, explained, remove_leftovers, written_aside
from danet.inference.bulk_sources import MANIFEST, PARTS, Source, find_sources, read_source
from danet.inference.device import fitting
from danet.inference.prediction import Prediction
from danet.inference.protocol import Protocol
from danet.inference.segmenter import load
from danet.weights.bundle import digest
from danet.weights.exported import is_exported
from danet.weights.zoo import DEFAULT, find_bundle

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH, _BLOCK = 32, 8 << 20
"""Images that are read, and given to an actor, at once; and about the bytes of what passes between."""
_ROWS, _BYTES = 4096, 128 << 20
"""A part is written when it has so many rows, or bytes."""
_RETRIES = 5
"""How often a batch whose actor died is tried anew; one that kills every actor must end the run."""


class BulkResult(NamedTuple):
    """How many images were predicted now, how many were not and why, and how many the folder had before."""

    done: int
    failed: int
    failures: dict[str, str]
    kept: int = 0


def predict_bulk(
    model: str | None,
    inputs: list[str],
    output: Path,
    *,
    write: str,
    protocol: Protocol,
    device: str = "auto",
    precision: str = "auto",
    actors: int | None = None,
    progress: Progress | None = None,
) -> BulkResult:
    """Predict all images of `inputs` (see `find_sources`) and write part-….parquet to the folder `output`.

    A row has an image's path, width, height, shares of the classes, confidence (the mean of its pixels), and its label
    map as an encoded PNG; for `write` "png" that is a file instead, which the row names. An image that cannot be read
    or predicted is a row with its error. bulk.json tells what the parts are made with.
    actors: how many hold the model, by default one for each GPU, or one fewer than there are processors, of which each
    reserves half. RAY_ADDRESS names a cluster; without one, or a Ray of the caller's, Ray is started and stopped here.

    Raises InputError for inputs that are not there or hold no image, an unknown model, an output of other settings,
    files that cannot be written, and where Ray gives up.
    """
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise InputError("The engine ray needs Ray Data: pip install 'danet[bulk]'.")
    folder = find_bundle(model)
    if is_exported(folder):
        known, device = load(folder, device, precision), "cpu"
    else:
        known = load(folder, "cpu")
    for name in protocol.classes:
        known.labels.index(name)
    sources = find_sources(inputs, image_suffixes(known.preprocess), output)
    if write == "png":
        _refuse_replaced(sources, output)
    made = {"model": model or DEFAULT, "sha256": digest(folder), "protocol": protocol.to_dict()}
    made |= {"precision": precision, "write": write, "classes": list(known.labels.names)}
    done, failures = 0, {}
    with explained(output, "choose another folder with -o, or make room"):
        output.mkdir(parents=True, exist_ok=True)
        with claimed(output):
            parts = sorted(output.glob(PARTS))
            _refuse_other(output / MANIFEST, made, parts)
            for place in _folders(sources, output) if write == "png" else {output}:
                remove_leftovers(place)
            kept = _paths(parts)
            left = [rest for source in sources if (rest := _without(source, kept)) is not None]
            number = int(parts[-1].stem.removeprefix("part-")) if parts else 0
            arguments = str(folder.absolute()), device, precision, protocol
            with closing(_predicted(left, actors, device, arguments)) as tables:
                for table in _gathered(tables, progress, _images(left)):
                    number += 1
                    _write(output, f"part-{number:06d}.parquet", table, write)
                    wrong = table.filter(table["error"].is_valid())
                    failures |= dict(zip(wrong["path"].to_pylist(), wrong["error"].to_pylist(), strict=True))
                    done += len(table)
    return BulkResult(done - len(failures), len(failures), failures, len(kept))


def schema(labels: LabelSpace) -> pa.Schema:
    """The columns that actors answer with."""
    import pyarrow as pa

    shares = pa.struct([(name, pa.float32()) for name in labels.names])
    columns = {"path": pa.string(), "name": pa.string(), "width": pa.int32(), "height": pa.int32()}
    return pa.schema(
        columns | {"label": pa.binary(), "shares": shares, "confidence": pa.float32(), "error": pa.string()}
    )


class Predictor:
    """An actor: it holds the model, and turns rows of `read_source` into rows of `schema`."""

    def __init__(self, model: str | None, device: str, precision: str, protocol: Protocol) -> None:
        self.segmenter = load(model, device, precision)
        self.protocol = protocol
        self.threads = 1 if self.segmenter.device.type == "cpu" else 4  # decoding and encoding beside a GPU's work

    def __call__(self, table: pa.Table) -> pa.Table:
        import pyarrow as pa

        rows = list(ahead(self.row, table.to_pylist(), self.threads))
        return pa.Table.from_pylist(rows, schema(self.segmenter.labels))

    def row(self, row: dict[str, Any]) -> dict[str, Any]:
        """The output row of one image."""
        answer = {"path": row["path"], "name": row["name"]}
        if row["error"]:
            return answer | {"error": row["error"]}
        try:
            with fitting("The image", "predict it in windows, as with --protocol.crop '[512,512]'"):
                return answer | self.columns(self.segmenter.predict(row["bytes"], self.protocol))
        except InputError as error:
            return answer | {"error": f"{row['path']}: {error}"}

    def columns(self, prediction: Prediction) -> dict[str, Any]:
        """What a row tells of a prediction."""
        mask, encoded = prediction.label_image(), BytesIO()
        mask.save(encoded, "PNG")
        return {
            "width": mask.width,
            "height": mask.height,
            "label": encoded.getvalue(),
            "shares": prediction.shares,
            "confidence": float(prediction.confidence.mean()),
        }


def _predicted(
    sources: Sequence[Source], actors: int | None, device: str, arguments: tuple[Any, ...]
) -> Generator[pa.Table]:
    """The sources' rows, predicted, in any order."""
    if not sources:
        return
    with _ray() as ray:
        there = ray.cluster_resources()
        gpus = int(there.get("GPU", 0)) if device.startswith(("auto", "cuda")) else 0
        size = actors or gpus or max(int(there["CPU"]) - 1, 1)
        tasks = min(len(sources), -(-_images(sources) // _BATCH))
        rows = ray.data.from_items([source._asdict() for source in sources], override_num_blocks=tasks)
        predicted = rows.flat_map(_read, num_cpus=0.25).map_batches(
            Predictor,
            fn_constructor_args=arguments,
            compute=ray.data.ActorPoolStrategy(size=size),
            batch_size=_BATCH,
            batch_format="pyarrow",
            num_cpus=0.5,  # two actors of a whole one leave no processor for readers, on two, and wait for ever
            num_gpus=1 if gpus else 0,
            max_task_retries=_RETRIES,
        )
        try:
            yield from predicted.iter_batches(batch_size=None, batch_format="pyarrow")
        except ray.exceptions.RayError as error:
            told = f"Ray gave up: {_last_line(error)}. What was finished is kept; the same command goes on."
            raise InputError(told) from error


def _read(source: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return read_source(Source(**source))


@contextmanager
def _ray() -> Iterator[Any]:
    """Ray, quiet; started, and stopped in the end, where the caller has none."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # without which Ray warns
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray
    import ray.data
    from ray._private import worker

    own, log = not ray.is_initialized(), logging.getLogger("ray.data")
    level = log.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's of itself
        if own:
            try:
                with _mute():
                    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            except Exception as error:  # of a cluster that cannot be reached, ports, memory: of many kinds
                raise InputError(f"Ray cannot be started or reached: {_last_line(error)}. See RAY_ADDRESS.") from error
        try:
            log.setLevel(logging.CRITICAL)  # what goes wrong is raised as well
            worker._worker_logs_enabled = False  # or it tells of lost workers on stdout
            context = ray.data.DataContext.get_current().copy()
            context.enable_progress_bars = context.print_on_execution_start = False
            context.target_max_block_size = _BLOCK
            with ray.data.DataContext.current(context):
                yield ray
        finally:
            log.setLevel(level)
            if own:
                ray.shutdown()
            worker._worker_logs_enabled = True


def _last_line(error: Exception) -> str:
    return next((line.strip().rstrip(".") for line in reversed(str(error).splitlines()) if line.strip()), repr(error))


@contextmanager
def _mute() -> Iterator[None]:
    """Nothing that is not Python's reaches stderr: Ray tells even of being told to be quiet."""
    before, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nothing)


def _gathered(tables: Iterator[pa.Table], progress: Progress | None, total: int) -> Iterator[pa.Table]:
    """The tables put together to parts."""
    import pyarrow as pa

    waiting: list[pa.Table] = []
    seen = 0
    if progress is not None:
        progress(0, total)
    for table in tables:
        waiting.append(table)
        seen += len(table)
        if progress is not None:
            progress(seen, total)
        if sum(map(len, waiting)) >= _ROWS or sum(part.nbytes for part in waiting) >= _BYTES:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _write(output: Path, name: str, table: pa.Table, write: str) -> None:
    """A part, and before it the label maps that are files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if write == "png":
        files = [
            None if row["label"] is None else _write_label(output, f"{row['name']}.png", row["label"])
            for row in table.select(["name", "label"]).to_pylist()
        ]
        place = table.schema.get_field_index("label")
        table = table.set_column(place, "file", pa.array(files, pa.string()))
    with written_aside(output / name) as aside:
        pq.write_table(table.drop_columns(["name"]), aside, compression="zstd")


def _write_label(output: Path, name: str, label: bytes) -> str:
    (output / name).parent.mkdir(parents=True, exist_ok=True)
    with written_aside(output / name) as aside:
        aside.write_bytes(label)
    return name


def _images(sources: Sequence[Source]) -> int:
    return sum(len(source.images) for source in sources)


def _paths(parts: Sequence[Path]) -> set[str]:
    """What the parts hold."""
    import pyarrow.parquet as pq

    return {path for part in parts for path in pq.read_table(part, columns=["path"])["path"].to_pylist()}


def _folders(sources: Sequence[Source], output: Path) -> set[Path]:
    """All that is written to, where label maps are files."""
    return {output, *((output / name).parent for source in sources for _, name in source.images)}


def _without(source: Source, kept: set[str]) -> Source | None:
    """What is left of a source."""
    if source.group is None:
        return None if source.path in kept else source
    rows = tuple(row for row in source.rows if f"{source.path}#{row}" not in kept)
    return source._replace(rows=rows) if rows else None


def _refuse_replaced(sources: Sequence[Source], output: Path) -> None:
    """Raises InputError where a label map would take the place of an image, or of another."""
    taken: dict[str, str] = {}
    for source in sources:
        for path, name in source.images:
            file = output / f"{name}.png"
            if taken.setdefault(name, path) != path or (file.exists() and file.resolve() == Path(path).resolve()):
                raise InputError(
                    f"The label map {file} of {path} would replace {'it' if taken[name] == path else 'that of another'}"
                    f"; rename one of them, choose another folder with -o, or write Parquet."
                )


def _refuse_other(path: Path, made: dict[str, Any], parts: Sequence[Path]) -> None:
    """Raises InputError where the parts of a folder are made with other settings; writes down those of a new one.

    What the model is called is written, and not compared: it may be given by another path.
    """
    text = json.dumps(made, indent=2, ensure_ascii=False) + "\n"
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if not isinstance(found, dict) or found | {"model": made["model"]} != json.loads(text):
            raise InputError(
                f"{path.parent} holds results of another model, protocol or form ({MANIFEST}); choose another folder."
            )
        return
    if parts:
        raise InputError(f"{path.parent} holds {parts[0].name} and no {MANIFEST} to tell of it; choose another folder.")
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")
