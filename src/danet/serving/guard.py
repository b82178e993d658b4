"""What stands before every request and after every answer: whose it is, and what a browser may do with it."""

import ipaddress
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from danet.serving.problems import Problem

HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
LOCAL = ("localhost", "127.0.0.1", "::1")


class Guard:
    """An ASGI application around `app` that answers HEAD as GET without a body, and sends `HEADERS` with all.

    It turns away what comes by another name than `hosts` (of a site whose name was bound to this machine's address),
    and what another site's page sends, unless its origin is one of `origins`. None as hosts: any.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str] | None, origins: Iterable[str]) -> None:
        self.app, self.origins = app, frozenset(origins)
        self.hosts = None if hosts is None else frozenset(hosts)
        self.policy = "cross-origin" if self.origins else "same-origin"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        head = scope["method"] == "HEAD"

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in {**HEADERS, "cross-origin-resource-policy": self.policy}.items():
                    headers.setdefault(name, value)
            elif head:
                message = {**message, "body": b""}
            await send(message)

        problem = self.problem(scope)
        app = self.app if problem is None else problem.response()
        return await app({**scope, "method": "GET"} if head else scope, receive, guarded)

    def problem(self, scope: Scope) -> Problem | None:
        """Why this request is none of ours."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        name = host[1 : host.find("]")] if host.startswith("[") else host.partition(":")[0]
        if self.hosts is not None and name.lower() not in self.hosts:
            allowed = ", ".join(sorted(self.hosts))
            return Problem(
                "wrong_host",
                f"The request is for the host {host!r}; this server answers to {allowed}: open it by one of these.",
            )
        if scope["method"] not in ("GET", "HEAD") and _is_from_elsewhere(scope["method"], headers):
            origin = headers.get("origin", "")
            if origin not in self.origins and "*" not in self.origins:
                words = f"The page of {origin!r} may not send images here"
                return Problem("wrong_origin", f"{words}; start the server with --cors {origin or 'ORIGIN'}.")
        return None


def _is_from_elsewhere(method: str, headers: Headers) -> bool:
    """Whether another site's page asks, as its browser says, or where it is silent, by the origin."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site in ("cross-site", "same-site")
    # Whether a page may ask at all is answered by the CORS middleware.
    return method != "OPTIONS" and origin is not None and origin.partition("://")[2] != headers.get("host")


def known_hosts(host: str) -> tuple[str, ...] | None:
    """The names by which a server that is bound to `host` is asked; None, any, unless that is the machine itself."""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    return (*LOCAL, host) if local else None
