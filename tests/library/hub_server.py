"""A small server that speaks as much of the Hugging Face Hub's protocol as its client needs for one repository."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(ThreadingHTTPServer):
    """``files`` are those of the repository, None before it is made; ``requests`` are its lines with their tokens."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] | None = None
        self.requests: list[tuple[str, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: HubServer

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"] or 0))
        route = self._route()
        if route == "/api/repos/create":
            status = 200 if self.server.files is None else 409
            self.server.files = self.server.files or {}
            self._answer(status, {"url": f"{self.server.address}/me/net"})
        elif route == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif route == "/api/models/me/net/preupload/main":
            named = json.loads(content)["files"]
            files = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in named]
            self._answer(200, {"files": files})
        elif route == "/api/models/me/net/commit/main" and self.server.files is not None:
            for line in map(json.loads, content.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._answer(200, {"commitUrl": f"{self.server.address}/me/net/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self._answer(404, {"error": f"unknown: {route}"})

    def do_GET(self) -> None:
        route, files = self._route(), self.server.files or {}
        name = route.removeprefix("/me/net/resolve/").partition("/")[2]
        if route == "/api/models/me/net/revision/main":
            self._answer(200, {"id": "me/net", "sha": COMMIT, "siblings": [{"rfilename": each} for each in files]})
        elif route == f"/api/models/me/net/tree/{COMMIT}":
            entries = [{"type": "file", "path": each, "size": len(content)} for each, content in files.items()]
            self._answer(200, [{**each, "oid": hashlib.sha1(each["path"].encode()).hexdigest()} for each in entries])
        elif route.startswith("/me/net/resolve/") and name in files:
            etag = hashlib.sha256(files[name]).hexdigest()
            self._send(200, files[name], {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
        else:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET

    def _route(self) -> str:
        self.server.requests.append((f"{self.command} {self.path}", self.headers["Authorization"]))
        return self.path.partition("?")[0]

    def _answer(self, status: int, content: Any) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def hub_server() -> Iterator[HubServer]:
    with HubServer() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
