"""A file from the network: resumed where a download was cut, checked, and whole or not there.

torch.hub checks a hash but does not resume, pooch neither; huggingface_hub does both, for its own server alone.
"""

import errno
import http.client
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import urlsplit

from danet.errors import InputError
from danet.files import sha256

Progress = Callable[[int, int], None]
"""Called with how many bytes are there, and of how many."""

PAUSES = (0.5, 2.0, 8.0)
"""Seconds before each further attempt after a connection was cut."""
_TIMEOUT, _CHUNK = 30, 1 << 20
_CUT = (ConnectionError, TimeoutError, http.client.HTTPException, ssl.SSLError)
_BROWSER = "download it in a browser, then: danet convert FILE"


def fetch(url: str, path: str | Path, digest: str = "", progress: Progress | None = None) -> Path:
    """Download `url` (https, http or file) to `path`; what an earlier call left there or in PATH.part is not fetched
    again while the server has the same, which PATH.etag tells. `forget` removes all of it.

    digest: the file's SHA-256 or its first digits; by default those at the end of the URL's name (NAME-c0dbfa5f.pth).
    Raises InputError for what cannot be had, and for a file that is not the one expected.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and _tag_file(part).is_file():
            path.replace(part)
        _fetch_part(url, part, progress)
        _check(url, part, digest or digest_in_name(url))
        part.replace(path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        mend = "make room, and the same command goes on where it stopped" if full else "choose another folder"
        raise InputError(f"{path} cannot be written ({error.strerror or error}); {mend}.") from None
    return path


def forget(path: Path) -> None:
    """Remove what `fetch` left for `path`."""
    for file in (path, part := path.with_name(f"{path.name}.part"), _tag_file(part)):
        file.unlink(missing_ok=True)


def digest_in_name(url: str) -> str:
    """The first digits of the SHA-256 that a published file's name ends in; empty where it ends in none, or a date."""
    found = re.search(r"-([0-9a-f]{8,64})\.(?:pth|pt|tar|pth\.tar)$", urlsplit(url).path)
    return found[1] if found and not re.fullmatch(r"20\d{6}", found[1]) else ""


def name_in(url: str) -> str:
    """The file's name in a URL."""
    return PurePosixPath(urlsplit(url).path).name or "download"


def _fetch_part(url: str, part: Path, progress: Progress | None) -> None:
    """Fill `part`, in a few attempts where the connection is cut."""
    for pause in (*PAUSES, None):
        try:
            _attempt(url, part, progress)
            break
        except _CUT as error:
            if pause is None:
                raise InputError(
                    f"{url} was cut off ({_reason(error)}); what came is kept, and the same command goes on from there."
                ) from None
            time.sleep(pause)


def _attempt(url: str, part: Path, progress: Progress | None) -> None:
    """One request for what `part` lacks; raises one of _CUT if the rest does not come whole."""
    tag_file = _tag_file(part)
    tag = tag_file.read_text(encoding="utf-8") if part.is_file() and tag_file.is_file() else ""
    start = max(part.stat().st_size - 1, 0) if tag else 0  # of a part that is whole the server sends the last byte
    with _open(url, {"Range": f"bytes={start}-", "If-Range": tag} if start else {}) as response:
        headers = response.headers
        if headers.get_content_type() == "text/html":
            raise InputError(f"{url} gives a web page, not a file (a warning, a login or a quota); {_BROWSER}")
        resumed = start > 0 and (headers["Content-Range"] or "").startswith(f"bytes {start}-")
        if resumed:
            os.truncate(part, start)
        else:
            start = 0
            part.unlink(missing_ok=True)
            tag_file.write_text(_validator(headers), encoding="utf-8")
        length = headers["Content-Length"]
        total = start + int(length) if length else 0
        with part.open("ab") as file:
            done = _copy(response, file, start, total, progress)
    if done < total:
        raise ConnectionError(f"{done} of {total} bytes came")


def _open(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    if not url.startswith(("https://", "http://", "file://")):
        raise InputError(f"{url} is no URL that can be fetched; it must begin with https://, http:// or file://.")
    agent = {"User-Agent": f"danet/{version('danet')}"}
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=agent | headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and "Range" in headers:
            return _open(url, {})
        if error.code == http.HTTPStatus.TOO_MANY_REQUESTS or error.code >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
            raise ConnectionError(f"HTTP {error.code} {error.reason}") from None
        reason = f"HTTP {error.code} {error.reason}"
    except (urllib.error.URLError, http.client.InvalidURL, ValueError) as error:
        reason = _reason(error)
    raise InputError(f"{url} cannot be had ({reason}); check the address and the connection, or {_BROWSER}")


def _copy(response: http.client.HTTPResponse, file: BinaryIO, done: int, total: int, progress: Progress | None) -> int:
    while chunk := response.read(_CHUNK):
        file.write(chunk)
        done += len(chunk)
        if progress is not None:
            progress(done, max(total, done))
    return done


def _validator(headers: http.client.HTTPMessage) -> str:
    """What tells a server that the file is still the same; If-Range takes no weak ETag."""
    etag = headers["ETag"] or ""
    return etag if etag.startswith('"') else headers["Last-Modified"] or ""


def _tag_file(part: Path) -> Path:
    return part.with_suffix(".etag")


def _check(url: str, part: Path, digest: str) -> None:
    found = sha256(part)
    if not found.startswith(digest.lower()):
        part.unlink()
        _tag_file(part).unlink(missing_ok=True)
        raise InputError(
            f"{url} has SHA-256 {found[: max(len(digest), 8)]}…, but {digest}… was expected: it was altered on its way "
            f"or replaced; nothing of it was kept. Try again, or {_BROWSER}"
        )


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return " ".join(str(getattr(reason, "strerror", None) or reason or type(error).__name__).split())
