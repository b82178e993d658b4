"""What a request may be told instead of an answer: typed, in one line that names the value, the rule and the mend."""

from typing import Any, Literal

from fastapi.responses import JSONResponse
from pydantic import BaseModel

Code = Literal[
    "bad_parameter",
    "busy",
    "internal",
    "not_an_image",
    "not_found",
    "timeout",
    "too_large_bytes",
    "too_large_pixels",
    "too_slow",
    "too_small",
    "wrong_host",
    "wrong_method",
    "wrong_origin",
]
STATUS: dict[Code, int] = {
    "bad_parameter": 422,
    "busy": 503,
    "internal": 500,
    "not_an_image": 415,
    "not_found": 404,
    "timeout": 408,
    "too_large_bytes": 413,
    "too_large_pixels": 413,
    "too_slow": 413,
    "too_small": 422,
    "wrong_host": 421,
    "wrong_method": 405,
    "wrong_origin": 403,
}
EXAMPLES: dict[Code, str] = {
    "bad_parameter": "longest is '7', but should be greater than or equal to 32.",
    "busy": "16 images are in work, as many as may be; send it again in 1 s.",
    "not_an_image": "The body is no image; send the bytes of a PNG, JPEG, WebP, TIFF, GIF, BMP or AVIF file.",
    "not_found": "There is no /v1/examples/car; /openapi.json lists what there is.",
    "timeout": "The image did not arrive whole within 60 s; send it again, or a smaller one.",
    "too_large_bytes": "The body has more than 20,000,000 bytes; send a smaller image.",
    "too_large_pixels": "The image has 4,000×3,000 pixels, more than 4,194,304; shrink it, or ask with longest=2364.",
    "too_slow": "The image took longer than 60 s; shrink it, or ask with a smaller longest.",
    "too_small": "The image has 20×20 pixels; each side must be at least 32: enlarge it first.",
}


class Details(BaseModel):
    """`limit` is the number that was exceeded, `longest` what to ask with so that the image is shrunk enough."""

    code: Code
    message: str
    limit: int | float | None = None
    longest: int | None = None


class ErrorAnswer(BaseModel):
    """What every request that has no answer gets."""

    error: Details


class Problem(Exception):
    """Why a request has no answer."""

    def __init__(
        self, code: Code, message: str, *, limit: float | None = None, longest: int | None = None, **headers: str
    ) -> None:
        super().__init__(message)
        self.details = Details(code=code, message=message, limit=limit, longest=longest)
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def response(self) -> JSONResponse:
        """What is sent."""
        content = ErrorAnswer(error=self.details).model_dump(mode="json", exclude_none=True)
        return JSONResponse(content, STATUS[self.details.code], {"cache-control": "no-store", **self.headers})


def documented(*codes: Code) -> dict[int | str, dict[str, Any]]:
    """These problems as OpenAPI has them, each with an example."""
    found: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        entry = found.setdefault(STATUS[code], {"model": ErrorAnswer, "description": "", "content": {}})
        entry["description"] = f"{entry['description']} or {code}".removeprefix(" or ")
        examples = entry["content"].setdefault("application/json", {}).setdefault("examples", {})
        examples[code] = {"value": {"error": {"code": code, "message": EXAMPLES[code]}}}
    return found
