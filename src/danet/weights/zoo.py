"""Models by name: a run's folder, a bundle's, one that comes with the package, a published one, or one on the Hub."""

import hashlib
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock

from danet.config import Section, nearest, read_yaml, validate
from danet.errors import InputError
from danet.weights.bundle import CARD, CONFIG, WEIGHTS, Bundle, save_bundle
from danet.weights.download import Progress, fetch, forget, name_in
from danet.weights.exported import LABELS, MODEL, is_exported

DEFAULT = "street-tiny"
"""A toy trained on drawn streets alone, which shows what attention does where nobody has named a model."""
ZOO = Path(__file__).with_name("zoo.yaml")
_QUIET_SECONDS = 10.0


class Published(Section):
    """A checkpoint that others published; scores are theirs, in percent, on the data set's validation images."""

    url: str
    file: str = ""
    """The file's name, where the URL does not tell it."""
    sha256: str = ""
    """As much of it as is known."""
    layout: str
    labels: str
    align_corners: bool
    miou: float
    miou_multi_scale_flip: float | None = None
    pixel_accuracy: float | None = None
    protocol: str
    source: str
    licence: str
    """Of the weights; unknown where their authors state none."""
    code_licence: str
    """Of the code that they were published with."""
    terms: str
    """What the data they were trained on ask for."""
    alias: str = ""


def find_bundle(name: str | Path | None = None, progress: Progress | None = None) -> Path:
    """The folder of the bundle that `name` stands for; None: street-tiny.

    In this order: a run's or a bundle's folder, an exported model's or the model.onnx in it, a model that comes with
    the package, one of zoo.yaml, an id `owner/name[@revision]` on the Hub. What is not here is fetched once; `progress`
    (bytes done, bytes in all) by default writes lines to stderr. Raises InputError for a run that has no model yet, for
    an unknown name, and for what cannot be fetched.
    """
    if name is None:
        return _embedded_folder(DEFAULT)
    path, name = Path(name), str(name)
    if (path / "best").is_dir():
        return path / "best"
    if (path / "config.yaml").is_file():
        raise InputError(f"The run {path} has validated no model yet; go on with: danet train --resume {path}")
    if path.is_dir():
        if not ((path / CONFIG).is_file() or is_exported(path)):
            runs = sorted(best.parent for best in path.glob("*/best"))
            mend = f"name one of its runs, such as {runs[0]}" if runs else f"name a folder with {CONFIG}"
            raise InputError(f"{path} is neither a run nor a bundle; {mend}.")
        return path
    if path.suffix == ".onnx" and path.is_file():
        if path.name != MODEL:
            raise InputError(
                f"{path} is called otherwise than danet export writes it: {MODEL}, with {LABELS} beside it."
            )
        return path.parent
    if name in embedded():
        return _embedded_folder(name)
    models = published()
    aliases = {entry.alias: full for full, entry in models.items() if entry.alias}
    full = aliases.get(name, name)
    if full in models:
        return _from_zoo(full, models[full], progress or _lines_on_stderr(full))
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(@\S+)?", name) and not path.parent.is_dir():
        return _from_hub(name)
    hint = nearest(path.name, [*embedded(), *aliases, *models])
    raise InputError(
        f"{path} is no folder, and no model of this name is known. "
        f"{hint if hint.startswith('Did') else '`danet info` lists the models; a run or a bundle is a folder.'}"
    )


def embedded() -> list[str]:
    """The names of the models that come with the package."""
    folders = (entry for entry in resources.files("danet.weights").iterdir() if entry.is_dir())
    return sorted(entry.name for entry in folders if (entry / WEIGHTS).is_file())


def published() -> dict[str, Published]:
    """The checkpoints of zoo.yaml, by name."""
    models = read_yaml(ZOO)["models"]
    return {name: validate(Published, values, f"{ZOO.name}: {name}") for name, values in models.items()}


def published_scores(entry: Published) -> dict[str, Any]:
    """Their scores as shares of 1, with the protocol and whose they are; what was not published is left out."""
    names = ("miou", "miou_multi_scale_flip", "pixel_accuracy")
    percent = {name: value for name in names if (value := getattr(entry, name)) is not None}
    return {name: round(value / 100, 6) for name, value in percent.items()} | {
        "protocol": entry.protocol,
        "measured": "by its authors, not by us",
        "source": entry.source,
    }


def cache_folder() -> Path:
    """Where fetched models are kept: DANET_CACHE, or danet/ in the user's cache folder."""
    return Path(os.environ.get("DANET_CACHE") or platformdirs.user_cache_path("danet"))


@contextmanager
def borrowed(url: str, progress: Progress | None = None) -> Iterator[Path]:
    """The file of `url` for as long as it is used, by one process at a time.

    Where its use fails, the file stays, and is not fetched again. Raises InputError as `fetch` does.
    """
    folder = cache_folder() / "downloads" / hashlib.sha256(url.encode()).hexdigest()[:16]
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror or error}); name another folder in DANET_CACHE."
        ) from None
    try:
        path = fetch(url, folder / name_in(url), progress=progress)
        yield path
        forget(path)
    finally:
        lock.release()


def _embedded_folder(name: str) -> Path:
    return Path(str(resources.files("danet.weights") / name))


def _from_zoo(name: str, entry: Published, progress: Progress) -> Path:
    """The cached bundle of a published checkpoint; the first process that asks fetches and converts, others wait."""
    folder = cache_folder() / "zoo" / name
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{name}.lock")):
            if not folder.is_dir():
                checkpoint = folder.with_name(entry.file or name_in(entry.url))
                fetch(entry.url, checkpoint, entry.sha256, progress)
                save_bundle(folder, _converted(checkpoint, name, entry))
                forget(checkpoint)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror or error}); make room, or name another folder in DANET_CACHE."
        ) from None
    return folder


def _converted(checkpoint: Path, name: str, entry: Published) -> Bundle:
    from danet.weights.convert import convert

    bundle = convert(checkpoint, layout=entry.layout, labels=entry.labels, align_corners=entry.align_corners)
    origin = {
        "model": name,
        "url": entry.url,
        "licence": entry.licence,
        "code licence": entry.code_licence,
        "terms": entry.terms,
    }
    return replace(bundle, scores={"published": published_scores(entry)}, provenance={**bundle.provenance, **origin})


def _from_hub(name: str) -> Path:
    """A snapshot in the Hub's own cache, which also serves when there is no connection."""
    from huggingface_hub import errors, snapshot_download

    repository, _, revision = name.partition("@")
    try:
        snapshot = snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=[WEIGHTS, CONFIG, CARD],
            library_name="danet",
            library_version=version("danet"),
        )
    except errors.GatedRepoError:
        raise InputError(
            f"{repository} asks to accept its terms: do so on its page on the Hub, then `hf auth login`."
        ) from None
    except errors.RevisionNotFoundError:
        raise InputError(
            f"{repository} has no revision {revision!r}; name one of its branches, tags or commits, or none."
        ) from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise InputError(
            f"{name} is no folder here, and the Hub has no such model; correct the name (`danet info` lists models), "
            "or if it is private: `hf auth login`."
        ) from None
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise InputError(
            f"{name} is no folder here, and it cannot be fetched from the Hub ({reason}); check the connection."
        ) from None
    folder = Path(snapshot)
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise InputError(f"{name} on the Hub has no {file}: it is no bundle of danet; choose another model.")
    return folder


def _lines_on_stderr(name: str) -> Progress:
    """A line at the beginning, and every ten seconds."""
    begin, told, first = time.monotonic(), -_QUIET_SECONDS, 0

    def progress(done: int, total: int) -> None:
        nonlocal told, first
        now = time.monotonic() - begin
        first = first or done
        if now - told >= _QUIET_SECONDS:
            left = f", {(total - done) / (done - first) * now:.0f} s left" if done > first else ""
            sys.stderr.write(f"Fetching {name}, once: {done / 1e6:.0f} of {total / 1e6:.0f} MB{left}\n")
            told = now

    return progress
