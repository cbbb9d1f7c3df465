"""`make env`, interrupted or killed anywhere: the next one makes a whole environment. With packages of a few bytes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from workspaces import end_group, start

UV = Path(sys.executable).with_name("uv")
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "tiny"
version = "1.0"

[project.optional-dependencies]
dev = ["needed"]
"""
BACKEND = """
import pathlib, zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
    metadata = "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1.0\\nProvides-Extra: dev\\n"
    metadata += "Requires-Dist: needed; extra == 'dev'\\n"
    files = {"tiny.pth": str(pathlib.Path.cwd()), "tiny-1.0.dist-info/METADATA": metadata}
    files["tiny-1.0.dist-info/WHEEL"] = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    files["tiny-1.0.dist-info/RECORD"] = "".join(f"{name},,\\n" for name in files)
    with zipfile.ZipFile(pathlib.Path(folder) / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return "tiny-1.0-py3-none-any.whl"
"""
COMPILING = """
import pathlib, time

end = time.monotonic() + 60
while pathlib.Path("hold").exists() and time.monotonic() < end:  # until it is killed
    time.sleep(0.01)
pathlib.Path("compiled").touch()
"""
MOMENTS = {  # what has just appeared in the environment
    "python is being installed": "pyvenv.cfg",
    "pip is being installed": "lib/python3*/site-packages/pip",
    "uv is there": "bin/uv",
    "packages are being installed": "lib/python3*/site-packages/needed",
    "C code is being compiled": ".done",
}
ENDS: dict[str, Callable[[subprocess.Popen[str]], None]] = {
    "Ctrl-C": lambda make: os.killpg(make.pid, signal.SIGINT),
    "all killed": lambda make: os.killpg(make.pid, signal.SIGKILL),
}


def write_wheel(folder: Path, name: str, files: dict[str, str], version: str = "1.0") -> None:
    info = f"{name}-{version}.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for file, text in files.items():
            entry = zipfile.ZipInfo(file)
            entry.external_attr = 0o100755 << 16  # one of them is a program
            wheel.writestr(entry, text)


@pytest.fixture
def project(tmp_path: Path, checkout: Path) -> Path:
    """Our Makefile, a project of a few bytes, and wheels of what its environment needs."""
    if shutil.which("make") is None or not UV.exists():
        pytest.skip("make or uv is missing")
    project, wheels = tmp_path / "project", tmp_path / "wheels"
    project.mkdir()
    wheels.mkdir()
    shutil.copy(checkout / "Makefile", project)
    texts = {
        "pyproject.toml": PROJECT,
        "backend.py": BACKEND,
        "setup.py": COMPILING,
        "constraints.txt": "needed==1.0\n",
    }
    for name, text in texts.items():
        (project / name).write_text(text)
    write_wheel(wheels, "uv", {"uv-1.0.data/scripts/uv": f'#!/bin/sh\nexec "{UV}" "$@"\n'})
    write_wheel(wheels, "needed", {f"needed/part{number}.py": "" for number in range(500)})
    return project


def environment(project: Path) -> dict[str, str]:
    """Where pip and uv find nothing but the wheels."""
    wheels = str(project.parent / "wheels")
    theirs = ("PIP_", "UV_", "MAKE", "MFLAGS", "VIRTUAL_ENV", "PYTHONPATH")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1"}
    uv = {"UV_NO_INDEX": "1", "UV_FIND_LINKS": wheels, "UV_NO_CONFIG": "1", "UV_CACHE_DIR": str(project.parent / "uv")}
    return {**inherited, **pip, **uv}


def appeared(folder: Path, pattern: str, since: float) -> bool:
    """Whether there is such a file now, not one that an earlier attempt has left."""
    with suppress(FileNotFoundError):  # --clear removes them meanwhile
        return any(path.stat().st_ctime >= since for path in folder.glob(pattern))
    return False


def test_the_next_one_makes_it_whole(project: Path) -> None:
    command = ["make", f"PYTHON={Path(sys.executable).resolve()}", "env"]
    ends, hold = list(ENDS), project / "hold"
    hold.touch()
    for number, (moment, appears) in enumerate(MOMENTS.items()):
        started = time.time()
        make = start(command, project, environment(project), stderr=subprocess.STDOUT)
        while not appeared(project / ".venv", appears, started):
            assert make.poll() is None, f"{moment}: {make.stdout and make.stdout.read()}"
            time.sleep(0.005)
        ENDS[ends[number % len(ends)]](make)
        make.wait(60)
        assert make.returncode != 0, moment
        end_group(make)
        assert subprocess.run([*command, "--question"], cwd=project, check=False).returncode != 0, moment
    hold.unlink()
    done = subprocess.run(command, cwd=project, env=environment(project), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr
    imported = "import backend, needed.part499"  # the project itself, and what it needs
    subprocess.run([project / ".venv/bin/python", "-c", imported], cwd="/", check=True)
    assert (project / "compiled").exists()
    assert subprocess.run([*command, "--question"], cwd=project, check=False).returncode == 0


def test_a_whole_one_is_updated_in_place(project: Path) -> None:
    """What uses it meanwhile goes on: other commits are checked out while something is trained."""
    command = ["make", f"PYTHON={Path(sys.executable).resolve()}", "env"]

    def make() -> str:
        done = subprocess.run(
            command, cwd=project, env=environment(project), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def installed() -> int:
        code = "import needed.part0; print(needed.part0.version)"
        return int(subprocess.check_output([project / ".venv/bin/python", "-c", code]))

    write_wheel(project.parent / "wheels", "needed", {"needed/part0.py": "version = 1"})
    assert "creating the environment" in make()
    in_use = project / ".venv/lib/in use"
    in_use.touch()
    (project / "pyproject.toml").touch()
    assert "install" not in make()
    assert subprocess.run([*command, "--question"], cwd=project, check=False).returncode == 0
    write_wheel(project.parent / "wheels", "needed", {"needed/part0.py": "version = 2"}, version="2.0")
    assert installed() == 1
    (project / "constraints.txt").write_text("needed==2.0\n")
    assert "creating" not in make()
    assert (installed(), in_use.exists()) == (2, True)


def test_what_a_link_leads_to_is_not_cleared(project: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "of others").touch()
    (project / ".venv").symlink_to(shared)
    command = ["make", f"PYTHON={Path(sys.executable).resolve()}", "env"]
    refused = subprocess.run(
        command, cwd=project, env=environment(project), capture_output=True, text=True, check=False
    )
    assert refused.returncode != 0
    assert "error: .venv is a link" in refused.stdout
    assert [path.name for path in shared.iterdir()] == ["of others"]
