"""A stage where disk, account, locale or network are not as usual: in a namespace of its own, which needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ALONE = ("unshare", "--mount", "--net", "bash", "-euc")
PREPARE = f"{sys.executable} -m tasks.prepare"


@pytest.fixture
def folder(tmp_path: Path, checkout: Path) -> Path:
    """One with the parameters of the digits, whose path has spaces and letters beyond ASCII."""
    reason = subprocess.run([*ALONE, "true"], capture_output=True, text=True, check=False)
    if reason.returncode != 0:
        pytest.skip(f"no namespaces here: {reason.stderr.strip()}")
    folder = tmp_path / "ein Ordner für 北京"
    folder.mkdir()
    shutil.copy(checkout / "params.yaml", folder)
    return folder


def run(script: str, folder: Path, checkout: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(checkout), **variables}
    return subprocess.run([*ALONE, script], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def test_no_network_no_room_at_home_and_a_turkish_locale(folder: Path, checkout: Path, tmp_path: Path) -> None:
    home, locales = tmp_path / "home", tmp_path / "locales"
    home.mkdir()
    locales.mkdir()
    made = subprocess.run(["localedef", "-i", "tr_TR", "-f", "UTF-8", locales / "tr_TR.utf8"], check=False)
    script = f"""
    mount -t tmpfs -o size=64k none {home}
    head -c 64k /dev/zero > {home}/full
    {PREPARE}
    ! echo > {home}/one-more-byte || test ! -s {home}/one-more-byte
    """
    turkish = {"LOCPATH": str(locales), "LC_ALL": "tr_TR.UTF-8"} if made.returncode == 0 else {"LC_ALL": "C"}
    done = run(script, folder, checkout, HOME=str(home), **turkish)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("out/digits/data: 1257 train, 180 validation, 360 test")


def test_a_checkout_that_cannot_be_written(folder: Path, checkout: Path) -> None:
    done = run(f'mount --bind . . && mount -o remount,ro,bind "$PWD" && cd "$PWD" && {PREPARE}', folder, checkout)
    assert "Read-only file system: " in one_line(done)


def test_a_full_disk_keeps_no_half_of_the_data(folder: Path, checkout: Path) -> None:
    done = run(
        f"mkdir out && mount -t tmpfs -o size=64k none out && {PREPARE} || {{ find out; exit 1; }}", folder, checkout
    )
    assert "No space left on device" in one_line(done)
    assert set(done.stdout.split()) <= {"out", "out/digits"}


def test_a_checkout_of_another_user(folder: Path, checkout: Path) -> None:
    """Who may read it alone is told so; python has to be where that account reaches it."""
    python = Path(sys.executable).resolve().parents[1]
    home = Path.home()
    script = f"""
    hidden={home}; python={python}
    mount -t tmpfs -o mode=755 none /mnt && mkdir /mnt/checkout /mnt/python
    mount --bind . /mnt/checkout && cd /mnt/checkout
    if [[ $python/ == $hidden/* ]]; then
        mount --bind "$python" /mnt/python
        mount -t tmpfs -o mode=755 none "$hidden" && mkdir -p "$python" && mount --bind /mnt/python "$python"
    fi
    exec setpriv --reuid=65534 --regid=65534 --clear-groups {PREPARE}
    """
    assert "Permission denied: " in one_line(run(script, folder, checkout, HOME="/nonexistent"))
