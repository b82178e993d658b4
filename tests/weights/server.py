"""A stand-in for a server of published files, on the loopback address."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0" * 40


class Server(ThreadingHTTPServer):
    """Serves `files` by name; `asked` lists what was asked for: (name, from which byte on)."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, int]] = []
        self.ranges = True
        self.cuts: list[int] = []
        """After how many bytes to cut off each of the next answers."""
        self.failures: list[int] = []
        """The status of each of the next answers."""
        self.hold_after: int | None = None
        """After how many bytes to wait until `release` is set; `held` says that it waits."""
        self.held, self.release = threading.Event(), threading.Event()

    def publish(self, repository: str, files: dict[str, bytes]) -> None:
        """Serve `files` as the Hub does: a description, a tree, and each file under its commit."""
        description = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
        tree = [{"type": "file", "path": name, "size": len(data), "oid": COMMIT} for name, data in files.items()]
        self.files[f"api/models/{repository}/tree/{COMMIT}"] = json.dumps(tree).encode()
        for revision in ("main", COMMIT):
            self.files[f"api/models/{repository}/revision/{revision}"] = json.dumps(description).encode()
        self.files |= {f"{repository}/resolve/{COMMIT}/{name}": data for name, data in files.items()}

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def __enter__(self) -> "Server":
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """A client that was killed is part of a test."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        server, name = self.server, self.path.lstrip("/").partition("?")[0]
        data = server.files.get(name)
        if server.failures or data is None:
            self._refuse(server.failures.pop(0) if server.failures else 404)
            return
        tag, start = f'"{hashlib.sha256(data).hexdigest()}"', 0
        if server.ranges and self.headers["If-Range"] == tag:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        server.asked.append((name, start))
        if start >= len(data) and data:
            self._refuse(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Type", "text/html" if name.endswith(".html") else "application/octet-stream")
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", tag)
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "HEAD":
            return
        end = start + server.cuts.pop(0) if server.cuts else len(data)
        if server.hold_after is not None:
            self.wfile.write(data[start : start + server.hold_after])
            start += server.hold_after
            server.held.set()
            server.release.wait()
        self.wfile.write(data[start:end])

    def _refuse(self, status: int) -> None:
        known = any(name.startswith(self.path.lstrip("/").rpartition("/")[0]) for name in self.server.files)
        self.send_response(status)
        self.send_header("X-Error-Code", "RevisionNotFound" if known else "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""
