"""The memory that all processes of ``prepare`` take together, with images as large as are allowed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import image_sources as made
import psutil
import pytest
from PIL import Image

from condensenet.data.image_files import check_header
from tasks.errors import UserError
from tasks.sources import workers

CAP = 2_000_000_000  # bytes
SIDE = 9_400  # 88 megapixels; Pillow's limit is 89
SCRIPT = """
if __name__ == "__main__":  # worker processes import this file again
    from test_prepare_shards import prepare

    prepare(image_size=200, shorter_side=256, raw=True)
"""


def memory(process: psutil.Process) -> int:
    """Bytes of the process and all that it has started; a page that n of them share counts 1/n in each."""
    total = 0
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.Error):
            total += each.memory_full_info().pss
    return total


def test_two_processes_with_the_largest_images_stay_below_two_gigabytes(tmp_path: Path) -> None:
    large = made.encoded(Image.new("RGB", (SIDE, SIDE), (90, 120, 200)))
    assert check_header(large) == SIDE**2
    files = {}
    for part in ("train", "test"):
        for name in made.CLASSES:
            files |= {f"{part}/{name}/{index}.jpg": made.encoded(made.picture(index, 640, 480)) for index in range(8)}
    for name in made.CLASSES:  # in shards of their own, so both workers meet them at once
        files[f"train/{name}/large.jpg"] = large
    made.tree(tmp_path / "raw", files)
    (tmp_path / "run.py").write_text(SCRIPT)
    folders = [*sys.path, str(Path(__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), workers.WORKERS: "2"}
    running = subprocess.Popen([sys.executable, "run.py"], cwd=tmp_path, env=environment)
    process, peak, most = psutil.Process(running.pid), 0, 0
    while running.poll() is None:
        with suppress(psutil.Error):
            peak = max(peak, memory(process))
            most = max(most, len(process.children(recursive=True)))
        time.sleep(0.02)
    assert running.returncode == 0
    assert most >= 3  # two workers and the server that forks them
    assert peak < CAP
    assert peak > 3 * SIDE**2  # it has seen one of the large images


@pytest.mark.parametrize(("limit", "expected"), [("max", 8), ("2000000000", 4), ("9000000000", 8), ("100", 1)])
@pytest.mark.parametrize(
    ("groups", "file"),
    [
        ("0::/slurm/job_7/step_0", "slurm/job_7/memory.max"),
        ("0::/docker/named-on-the-machine", "memory.max"),
        ("9:name=systemd:/\n4:cpu,cpuacct:/x\n3:memory:/job\n0::/", "memory/job/memory.limit_in_bytes"),
    ],
)
def test_processes_follow_the_memory(
    groups: str, file: str, limit: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(f"{limit}\n")
    (tmp_path / "own").write_text(groups)
    monkeypatch.delenv(workers.WORKERS, raising=False)
    monkeypatch.setattr(workers, "CGROUPS", tmp_path)
    monkeypatch.setattr(workers, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(workers, "usable_cores", lambda: 8)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=4_000_000_000))
    assert workers.number_of_workers(jobs=20, images=60_000, indexed=0) == expected
    assert workers.number_of_workers(jobs=20, images=2_000, indexed=60_000) == 1


def test_the_index_of_many_images_takes_the_memory_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 GB less 1.4 GB and 200 bytes for each of 1,281,167 images leave 0.34 GB: two processes of 0.15 GB."""
    monkeypatch.delenv(workers.WORKERS, raising=False)
    monkeypatch.setattr(workers, "usable_cores", lambda: 8)
    monkeypatch.setattr(workers, "usable_memory", lambda: 2_000_000_000)
    assert workers.number_of_workers(jobs=1252, images=1_281_167, indexed=1_281_167) == 2
    assert workers.number_of_workers(jobs=100, images=100_000, indexed=100_000) == 3


@pytest.mark.parametrize("value", ["none", "0", "9" * 5000])
def test_a_wrong_number_of_processes_is_one_line(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(workers.WORKERS, value)
    with pytest.raises(UserError, match=f"{workers.WORKERS}='{value[:9]}.* is not allowed: it must be 1 to"):
        workers.number_of_workers(jobs=20, images=60_000, indexed=0)


def test_the_memory_of_this_machine_is_read() -> None:
    assert 0 < workers.usable_memory() <= psutil.virtual_memory().total
