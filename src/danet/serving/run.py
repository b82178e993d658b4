"""The server's process: its socket, its patience with clients, and how it ends."""

import errno
import math
import signal
import socket
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from danet.errors import InputError
from danet.serving.limits import Limits

SPARE = 200
"""Connections beyond those whose images are in work."""
STEPS = 5
"""A request's body, its turn, its image and its answer each have their seconds; one that takes this many is stuck."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound to `host`; port 0 is any free one. Raises InputError for one that cannot be had."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=SPARE)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"Port {port} of {host} is taken; choose another with --port, 0 for any free one."
            ) from None
        raise InputError(f"{host}:{port} cannot be had ({error.strerror}); choose another --host or --port.") from None


def address(server: socket.socket) -> str:
    """Where a browser on this machine finds the server."""
    host, port = server.getsockname()[:2]
    host = "127.0.0.1" if host == "0.0.0.0" else "::1" if host == "::" else host
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(app: ASGIApp, server: socket.socket, limits: Limits) -> None:
    """Serve until SIGTERM or SIGINT; what is in work then is answered."""

    class Patience(H11Protocol):
        """Cuts the connection of a client that does not say what it wants, or does not take its answer."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.seen, self.steps = self.state, 0
            self.clock = self.loop.call_later(limits.seconds, self.look)

        def connection_lost(self, exc: Exception | None) -> None:
            self.clock.cancel()
            super().connection_lost(exc)

        @property
        def state(self) -> tuple[object, bool]:
            """The request that was last, and whether it is over."""
            return self.cycle, self.cycle is None or self.cycle.response_complete

        def look(self) -> None:
            self.steps = self.steps + 1 if self.seen == self.state else 0
            self.seen = self.state
            if self.steps >= (1 if self.seen[1] else STEPS):
                self.transport.abort()
            else:
                self.clock = self.loop.call_later(limits.seconds, self.look)

    config = uvicorn.Config(
        app,
        http=Patience,
        ws="none",
        lifespan="off",
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=limits.concurrency + SPARE,
        timeout_graceful_shutdown=math.ceil(STEPS * limits.seconds),
    )
    process = uvicorn.Server(config)

    def end(*_: object) -> None:
        process.should_exit = True

    # uvicorn has handlers of its own while it runs; before that a signal would be lost, after it one that ended the
    # server is sent again, which is no failure here.
    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        process.run([server])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
