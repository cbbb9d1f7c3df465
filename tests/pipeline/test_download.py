"""Downloads are checked by their checksum and kept; without a network the error says what to do instead."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tasks.errors import UserError
from tasks.sources.cifar import FORMS
from tasks.sources.download import downloaded


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "origin").mkdir()
    (tmp_path / "origin/data.tar.gz").write_bytes(b"whole")
    return (tmp_path / "origin/data.tar.gz").as_uri()


MD5 = hashlib.md5(b"whole").hexdigest()


def test_a_file_is_fetched_once(url: str, tmp_path: Path) -> None:
    target = downloaded(url, MD5)
    assert target == tmp_path / "state/downloads/data.tar.gz"
    assert target.read_bytes() == b"whole"
    (tmp_path / "origin/data.tar.gz").unlink()
    assert downloaded(url, MD5) == target
    assert [path.name for path in target.parent.iterdir()] == ["data.tar.gz"]


def test_a_damaged_copy_is_fetched_again(url: str) -> None:
    target = downloaded(url, MD5)
    target.write_bytes(b"who")
    assert downloaded(url, MD5).read_bytes() == b"whole"


def test_another_content_than_published_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"its md5 is {MD5}, not the published 123"):
        downloaded(url, "123")
    assert list((tmp_path / "state/downloads").iterdir()) == []


@pytest.mark.usefixtures("url")
def test_without_a_network_the_error_says_what_to_do(tmp_path: Path) -> None:
    for gone in ("http://127.0.0.1:9/data.tar.gz", (tmp_path / "origin/none.tar.gz").as_uri()):
        with pytest.raises(
            UserError, match=r"cannot be read \(.*\): fetch it elsewhere and give its place as data.path"
        ):
            downloaded(gone, MD5)


def test_the_published_places_and_checksums() -> None:
    assert FORMS["cifar10"].url.endswith("/cifar-10-python.tar.gz")
    assert FORMS["cifar10"].md5 == "c58f30108f718f92721af3b95e74349a"
    assert FORMS["cifar100"].md5 == "eb9058c3a382ffc7106e4002c42a8d85"
