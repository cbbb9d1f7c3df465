"""What a stage finds broken on the disk is refused in one line that names it, before work starts."""

from __future__ import annotations

import lzma
import tarfile
from pathlib import Path

import image_sources
import pytest

from condensenet.deploy.latency.measure import check_protocol
from tasks import outputs, params, paths
from tasks.errors import UserError
from tasks.sources import cifar
from tasks.storage import check_usable


@pytest.mark.parametrize("address", ["/dev/null", "/dev/null/trainings", "/proc/trainings", "/etc/passwd"])
def test_a_storage_that_cannot_keep_anything(address: str) -> None:
    with pytest.raises(UserError, match=rf"^ray\.storage={address} is not allowed: trainings in progress cannot"):
        check_usable(address, Path(address))


def test_a_file_in_the_place_of_the_state(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(UserError, match=r"state/train is not allowed: .* \(Not a directory\)$"):
        check_usable(None, tmp_path / "state/train")
    check_usable(None, tmp_path / "other/train")
    assert (tmp_path / "other/train").is_dir()


@pytest.mark.parametrize("content", ["{}", "[]", "3", '{"execution_id": "1", "study": "digits"}'])
def test_a_run_without_its_identity(
    content: str, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    digits = params.load(checkout / "params.yaml")
    path = digits.paths.setting("train", "g4-c2") / paths.RUN
    outputs.write_text(path, content)
    with pytest.raises(UserError, match=r"run\.json is not what train writes \(\w+ is missing\): run dvc repro -f"):
        outputs.read_run(digits, digits.settings["g4-c2"])


@pytest.mark.parametrize(("runs", "warmup"), [(10**12, 1), (50, 10**12), (49, 1), (50, 0)])
def test_a_number_of_rounds_out_of_range(runs: int, warmup: int) -> None:
    with pytest.raises(ValueError, match=rf"^runs={runs}, warmup={warmup} is not allowed: at least 50 runs"):
        check_protocol([1], [1], runs, warmup)


def test_an_archive_with_damaged_compression(tmp_path: Path) -> None:
    folder = image_sources.cifar10_folder(tmp_path / "batches")
    archive = tmp_path / "cifar.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        tar.add(folder, folder.name)
    content = bytearray(archive.read_bytes())
    assert content[:6] == b"\xfd7zXZ\0"
    with pytest.raises(lzma.LZMAError):  # what the damage does
        lzma.decompress(bytes(content[:40]) + bytes(20) + bytes(content[60:]))
    content[40:60] = bytes(20)
    archive.write_bytes(content)
    with pytest.raises(UserError, match=r"cifar\.tar\.xz cannot be extracted: "):
        cifar._extract(archive, tmp_path / "out")
