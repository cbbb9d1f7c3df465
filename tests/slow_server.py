"""A server of HTTP for tests that answers like a distant object store: each GET takes a while, any number at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ANSWER_S = 0.3


class SlowServer(ThreadingHTTPServer):
    """Every object has one byte; ``most`` is how many were asked for at the same time."""

    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), SlowAnswer)
        self.most = 0
        self.now = 0
        self.counting = threading.Lock()


class SlowAnswer(BaseHTTPRequestHandler):
    server: SlowServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        with self.server.counting:
            self.server.now += 1
            self.server.most = max(self.server.most, self.server.now)
        time.sleep(ANSWER_S)
        with self.server.counting:
            self.server.now -= 1
        self._answer()
        self.wfile.write(b"x")

    def _answer(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1")
        self.send_header("Last-Modified", "Wed, 12 Oct 2022 17:50:00 GMT")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def slow_server() -> Iterator[SlowServer]:
    with SlowServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
