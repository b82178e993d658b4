"""The server's addresses: the page, its examples, and what is told of an image that is sent to it.

No request leaves anything behind: no session, id, cache or file, and no line in a log.
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from jaxtyping import UInt8
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from danet import __version__
from danet.config import SMALLEST_SIDE
from danet.data.scenes import EXAMPLE, scene
from danet.errors import InputError
from danet.inference.segmenter import Segmenter
from danet.inference.views import network_size
from danet.serving.answers import Health, Model, Segmentation, as_json, as_png, describe
from danet.serving.bodies import Body, accepts_gzip, packed, page, quality, sent, sent_if_changed
from danet.serving.desk import Desk
from danet.serving.guard import Guard, known_hosts
from danet.serving.images import decode
from danet.serving.limits import Limits, read_body
from danet.serving.problems import Problem, documented
from danet.viz.answer import answer

Pixels = UInt8[np.ndarray, "h w 3"]

ADDRESS = "http://127.0.0.1:8000"
SAFETENSORS, PNG, JSON = "application/octet-stream", "image/png", "application/json"
BINARY = {"schema": {"type": "string", "format": "binary"}}
IMAGE: dict[str, Any] = {
    "requestBody": {
        "description": f"The bytes of an image file: curl --data-binary @street.jpg {ADDRESS}/v1/segment",
        "required": True,
        "content": {"image/*": BINARY, "application/octet-stream": BINARY},
    }
}
PROBLEMS = documented(
    "bad_parameter",
    "busy",
    "not_an_image",
    "timeout",
    "too_large_bytes",
    "too_large_pixels",
    "too_slow",
    "too_small",
)


class Asked(BaseModel, extra="forbid"):
    """What an address may say of the image that is sent to it."""

    name: str = Field("", max_length=200, description="What the answer calls the image; nothing is opened by it.")
    longest: int | None = Field(
        None,
        ge=SMALLEST_SIDE,
        le=65_535,
        description="Shrink the image first where its longest side has more pixels.",
    )


def create_app(segmenter: Segmenter, limits: Limits, host: str = "127.0.0.1", origins: Sequence[str] = ()) -> ASGIApp:
    """The server that is bound to `host`; pages of `origins` may ask it too (CORS).

    Raises InputError for a model that does not take RGB pictures.
    """
    if not segmenter.preprocess.picture:
        count = len(segmenter.preprocess.names)
        raise InputError(
            f"This model takes images of {count} channels; danet serve has RGB pictures: use danet predict."
        )
    app = create_api(segmenter, limits)
    if origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], expose_headers=["Retry-After"]
        )
    return Guard(app, known_hosts(host), origins)


def create_api(segmenter: Segmenter, limits: Limits) -> FastAPI:
    """All addresses and what they answer; the examples are computed, and the second one is timed."""
    app = FastAPI(title="danet", version=__version__, description=__doc__ or "", docs_url=None, redoc_url=None)
    app.add_exception_handler(Problem, told)
    app.add_exception_handler(HTTPException, told)
    app.add_exception_handler(RequestValidationError, told)
    app.add_exception_handler(Exception, told)
    for address, body in page().items():
        app.add_route(address, partial(_asset, body), ["GET"], include_in_schema=False)

    def explain(pixels: Pixels, name: str) -> bytes:
        return answer(segmenter.encode(pixels).view(name))

    seed, index, height, width = EXAMPLE
    examples, seconds = {}, 0.0
    for name, twin in (("scene", False), ("twin", True)):
        start = time.perf_counter()
        pixels = scene(seed, index, height, width, twin=twin).image
        examples[name] = packed(explain(pixels, name), SAFETENSORS)
        seconds = time.perf_counter() - start
    seen = math.prod(network_size(height, width, segmenter.preprocess.longest))
    model = describe(segmenter, limits, seconds * 1e6 / seen)
    desk = Desk(limits)

    async def work(request: Request, longest: int | None, kind: str, job: Callable[[Pixels], bytes]) -> Response:
        """What `job` makes of the image in the body."""
        zipped = accepts_gzip(request)

        def whole() -> Body:
            plain = job(decode(body, limits, longest))
            return packed(plain, kind) if zipped else Body(plain, b"", kind)

        with desk.place():
            body = await read_body(request, limits)
            return sent(request, await desk.run(whole), vary="Accept, Accept-Encoding")

    @app.post(
        "/v1/attention",
        openapi_extra=IMAGE,
        response_class=Response,
        responses={200: {"content": {SAFETENSORS: BINARY}, "description": "A safetensors file."}, **PROBLEMS},
    )
    async def attention(request: Request, asked: Annotated[Asked, Query()]) -> Response:
        """All that the attention of an image follows from, with its labels, as one safetensors file."""
        return await work(request, asked.longest, SAFETENSORS, lambda pixels: explain(pixels, asked.name))

    @app.post(
        "/v1/segment",
        openapi_extra=IMAGE,
        response_class=Response,
        responses={200: {"model": Segmentation, "content": {PNG: BINARY}}, **PROBLEMS},
    )
    async def segment(request: Request, asked: Annotated[Asked, Query()]) -> Response:
        """The labels of an image: JSON, or, where `Accept` would rather have that, a PNG file of class indices."""
        wanted = request.headers.get("accept", "")
        if quality(wanted, PNG, "image/*") > quality(wanted, JSON, "application/*", "*/*"):
            return await work(request, asked.longest, PNG, lambda pixels: as_png(segmenter.predict(pixels)))
        return await work(request, asked.longest, JSON, lambda pixels: as_json(segmenter.predict(pixels), asked.name))

    @app.get("/v1/model")
    async def get_model() -> Model:
        """The model, its classes, and the limits of what can be asked."""
        return model

    @app.get(
        "/v1/examples/{name}",
        response_class=Response,
        responses={
            200: {"content": {SAFETENSORS: BINARY}, "description": "As of /v1/attention."},
            **documented("not_found"),
        },
    )
    async def example(request: Request, name: Literal["scene", "twin"]) -> Response:
        """What the page shows first: the answer to a drawn street, or to its twin."""
        return sent_if_changed(request, examples[name])

    @app.get("/healthz")
    async def health() -> Health:
        """Whether the server answers; it does so while an image is in work."""
        return Health()

    return app


async def _asset(body: Body, request: Request) -> Response:
    return sent_if_changed(request, body)


async def told(request: Request, error: Exception) -> Response:
    """What a request hears that went wrong; of a fault of ours the traceback is in the server's log."""
    path = request.url.path
    match error:
        case Problem():
            return error.response()
        case RequestValidationError():
            first = error.errors()[0]
            where, name = first["loc"][0], first["loc"][-1]
            if where == "query":
                rule = first["msg"].replace("Input s", "s").replace("String s", "s")
                words = f"{name} is {_short(first['input'])!r}, but {rule}."
                if first["type"] == "extra_forbidden":
                    words = f"There is no parameter {_short(name)!r}; there are {' and '.join(Asked.model_fields)}."
                return Problem("bad_parameter", words).response()
        case HTTPException(status_code=405):
            allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
            words = f"{path} has no {request.method}; use {allowed}."
            return Problem("wrong_method", words, allow=allowed).response()
        case HTTPException():
            pass
        case _:
            return Problem("internal", "The server failed; its log says where.").response()
    return Problem("not_found", f"There is no {path}; /openapi.json lists what there is.").response()


def _short(told: object) -> str:
    text = str(told)
    return text if len(text) <= 40 else f"{text[:40]}…"
