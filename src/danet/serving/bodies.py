"""Answers on their way out: whole or in gzip, and, of what stays the same, only where it is not known already."""

import gzip
from hashlib import sha256
from importlib.resources import files
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from danet.viz.attention_page import stand_alone

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
KINDS = {"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}
"""The files of the page that are served, by their endings."""


class Body(NamedTuple):
    """What is sent, and its type; `zipped` is the same in gzip."""

    plain: bytes
    zipped: bytes
    kind: str


def packed(plain: bytes, kind: str) -> Body:
    """A body that every client can have; level 3 takes a tenth of a second for an answer."""
    return Body(plain, gzip.compress(plain, compresslevel=3, mtime=0), kind)


def page() -> dict[str, Body]:
    """The page's files by their addresses; the page for a file, with a place for an answer, is among them."""
    folder = files("danet.viz").joinpath("page")
    served = {f"/page/{file.name}": file.read_bytes() for file in folder.iterdir()}
    served |= {"/": served.pop("/page/index.html"), "/stand-alone.html": stand_alone().encode()}
    return {
        address: packed(plain, KINDS["html" if address == "/" else address.rpartition(".")[2]])
        for address, plain in served.items()
    }


def sent(request: Request, body: Body, **headers: str) -> Response:
    """The body as the client takes it."""
    zipped = accepts_gzip(request)
    encoding = {"content-encoding": "gzip"} if zipped else {}
    return Response(
        body.zipped if zipped else body.plain,
        headers={"cache-control": "no-store", "vary": "Accept-Encoding", **encoding, **headers},
        media_type=body.kind,
    )


def sent_if_changed(request: Request, body: Body) -> Response:
    """The same for what stays as it is while the server runs, or that the client has it already."""
    known = {"etag": f'W/"{sha256(body.plain).hexdigest()[:32]}"', "cache-control": "no-cache"}
    if known["etag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers={**known, "vary": "Accept-Encoding"})
    policy = {"content-security-policy": PAGE_POLICY} if body.kind == KINDS["html"] else {}
    return sent(request, body, **known, **policy)


def accepts_gzip(request: Request) -> bool:
    """Whether the client can read gzip."""
    return quality(request.headers.get("accept-encoding", ""), "gzip") > 0


def quality(header: str, *names: str) -> float:
    """How much a client wants the first of `names` that its Accept or Accept-Encoding header has, 0 to 1; 0: none."""
    wanted = {}
    for part in header.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        told = next((piece[2:] for piece in parameters if piece.startswith("q=")), "1")
        wanted[name] = float(told) if told.replace(".", "", 1).isdecimal() else 0.0
    return next((wanted[name] for name in names if name in wanted), 0.0)
