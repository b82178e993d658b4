"""What one request may ask of the server: bytes, pixels and seconds; and the body read within them."""

import asyncio
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request

from danet.serving.problems import Problem

DECODED = 8
"""How many times the limit of pixels an image may have that is to be shrunk first: it is decoded, not segmented."""


@dataclass(frozen=True)
class Limits:
    """`seconds` holds for each step of a request: its body, its turn, and its image; `concurrency` for all requests."""

    bytes: int = 20_000_000
    pixels: int = 2048 * 2048
    seconds: float = 60.0
    concurrency: int = 16


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body. Raises Problem as soon as it is too large, whatever length it says it has, or too slow.

    Up to twice the limit is read and dropped, since a client that still sends may not hear of a closed connection.
    """
    too_large = Problem(
        "too_large_bytes",
        f"The body has more than {limits.bytes:,} bytes; send a smaller image.",
        limit=limits.bytes,
        connection="close",
    )
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length) > 2 * limits.bytes:
        raise too_large
    parts, total = [], 0
    try:
        async with asyncio.timeout(limits.seconds):
            async for part in request.stream():
                total += len(part)
                if total > 2 * limits.bytes:
                    raise too_large
                parts.append(part if total <= limits.bytes else b"")
    except (TimeoutError, ClientDisconnect):
        raise Problem(
            "timeout",
            f"The image did not arrive whole within {limits.seconds:g} s; send it again, or a smaller one.",
            limit=limits.seconds,
            connection="close",
        ) from None
    if total > limits.bytes:
        raise too_large
    return b"".join(parts)
