"""CIFAR is downloaded once, checked by its MD5 and kept; without a network the error says what to do instead."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import image_sources as made
import pytest
from torchvision.datasets import CIFAR10

from tasks.errors import UserError
from tasks.params import DataParams
from tasks.sources import cifar

DATA = DataParams(source="cifar10")
ARCHIVE = Path("state/downloads/cifar-10-python.tar.gz")


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """Serves the folder ``origin`` with a small CIFAR-10, which torchvision takes for the published one."""
    monkeypatch.chdir(tmp_path)
    folder = made.cifar10_folder(tmp_path / "cifar-10-batches-py")
    made.publish(monkeypatch, folder)
    archive = made.archive(folder, tmp_path / "origin" / CIFAR10.filename)
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(archive.parent))) as server:
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{CIFAR10.filename}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def stop(server: ThreadingHTTPServer) -> None:
    server.shutdown()
    server.server_close()


def refusal() -> str:
    with pytest.raises(UserError) as caught:
        cifar.read(DATA)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_archive_is_downloaded_once(server: ThreadingHTTPServer, capsys: pytest.CaptureFixture[str]) -> None:
    source = cifar.read(DATA)
    assert (len(source.train.labels), len(source.test.labels), source.classes[9]) == (100, 20, "class 9")
    assert ARCHIVE.exists()
    stop(server)
    assert cifar.read(DATA).classes == source.classes
    output = capsys.readouterr()
    assert output.out.splitlines() == [f"downloading {CIFAR10.url}"]
    assert output.err == ""  # no progress bar in a log


def test_what_was_damaged_since_is_made_again(server: ThreadingHTTPServer) -> None:
    cifar.read(DATA)
    batch = ARCHIVE.parent / "cifar-10-batches-py/data_batch_2"
    batch.write_bytes(b"cut")
    ARCHIVE.write_bytes(b"cut")
    assert len(cifar.read(DATA).train.labels) == 100
    stop(server)
    batch.unlink()
    assert len(cifar.read(DATA).train.labels) == 100


def test_another_content_than_published_is_refused(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    origin = tmp_path / "origin" / CIFAR10.filename
    complete = origin.read_bytes()
    origin.write_bytes(complete[: len(complete) // 2])
    assert "File not found or corrupted" in refusal()
    assert not (ARCHIVE.parent / "cifar-10-batches-py").exists()
    origin.write_bytes(complete)
    assert len(cifar.read(DATA).train.labels) == 100


@pytest.mark.usefixtures("server")
def test_without_a_network_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for url, reason in (("http://127.0.0.1:9/x.tar.gz", "connection refused"), (f"{CIFAR10.url}.none", "not found")):
        monkeypatch.setattr(CIFAR10, "url", url)
        message = refusal()
        assert message.startswith(f"{url} cannot be downloaded (")
        assert reason in message.lower()
        assert message.endswith("download it elsewhere and set data.path to the file")


@pytest.mark.usefixtures("server")
def test_a_server_that_does_not_answer_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{silent.getsockname()[1]}/x.tar.gz")
        assert "timed out" in refusal()
    assert socket.getdefaulttimeout() is None
