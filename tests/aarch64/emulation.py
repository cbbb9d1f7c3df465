"""An AArch64 Linux with Python and ONNX Runtime on an x86-64 machine, by qemu's user-mode emulation.

    python tests/aarch64/emulation.py      # makes it and prints its folder

apt and pip fetch Debian's arm64 packages of Python and libc, the AArch64 wheels of NumPy and ONNX Runtime in the
versions installed here, qemu and a cross compiler. They are unpacked into the user's cache or the folder that
``CONDENSENET_AARCH64`` names. Nothing is installed, and root is not needed.

Emulation shows whether results are right. Its times say nothing about a real processor.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from condensenet import file_locks

CPU = "cortex-a72"  # of the Raspberry Pi 4; ARMv8.0 without dot products, the minimum of 64-bit boards
QEMU, GCC = "qemu-aarch64-static", "aarch64-linux-gnu-gcc"
WHEELS = ("numpy", "onnxruntime")
FLAGS = ("-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")  # those of setup.py
PLATFORMS = [f"manylinux_2_{glibc}_aarch64" for glibc in (28, 27, 17)]
SETUP_S = 150.0  # all of it takes about 20 s when the mirrors are near
# What the emulated machine finds in /proc/cpuinfo: the host's x86 file crashes ONNX Runtime's CPU detection.
CPUINFO = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""


class Unavailable(Exception):
    """Why there is no emulation here, in one line."""


@dataclass(frozen=True)
class Emulator:
    """``root`` holds the AArch64 system; other files are the host's."""

    qemu: Path
    root: Path

    def python(self, *arguments: str | Path, path: Sequence[Path] = (), timeout: float = 300) -> str:
        """Standard output of the emulated Python, its modules and those below ``path`` importable."""
        (interpreter,) = self.root.glob("usr/bin/python3.[0-9][0-9]")
        variables = {
            "PYTHONPATH": os.pathsep.join(map(str, [self.root / "site", *path])),
            "PYTHONPYCACHEPREFIX": str(self.root / "pycache"),
            "OMP_NUM_THREADS": "2",
            "PATH": "/usr/bin:/bin",
        }
        command = [self.qemu, "-cpu", CPU, "-L", self.root, interpreter, *arguments]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=timeout, check=False)
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@dataclass(frozen=True)
class CrossCompiler:
    """C to AArch64 shared libraries. ``root`` holds its libraries and AArch64's headers; None: it is installed."""

    gcc: Path
    root: Path | None

    def shared_library(self, sources: Sequence[Path], target: Path, *options: str) -> Path:
        command = [self.gcc, "-shared", "-fPIC", *FLAGS, *options, *sources, "-lm", "-o", target]
        variables = dict(os.environ)
        if self.root is not None:
            command.insert(1, f"--sysroot={self.root}")
            variables["LD_LIBRARY_PATH"] = os.pathsep.join(map(str, self.root.glob("usr/lib/*-linux-gnu")))
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return target


def cache() -> Path:
    named = os.environ.get("CONDENSENET_AARCH64")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(named) if named else home / "condensenet" / "aarch64"


def emulator(folder: Path) -> Emulator:
    """The one in ``folder``, made first if it does not exist. Raises ``Unavailable``."""
    _check_machine()
    qemu = shutil.which(QEMU) or _made(folder / "qemu", _make_qemu) / "usr/bin" / QEMU
    key = "-".join(f"{name}-{version(name)}" for name in WHEELS)
    return Emulator(Path(qemu), _made(folder / f"system-{key}", _make_system))


def cross_compiler(folder: Path) -> CrossCompiler:
    """The one in ``folder``, made first if it does not exist. Raises ``Unavailable``."""
    _check_machine()
    if installed := shutil.which(GCC):
        return CrossCompiler(Path(installed), None)
    root = _made(folder / "compiler", _make_compiler)
    (gcc,) = root.glob(f"usr/bin/{GCC}-[0-9][0-9]")
    return CrossCompiler(gcc, root)


def _check_machine() -> None:
    if platform.machine() != "x86_64" or not all(map(shutil.which, ("apt-get", "dpkg-deb", "tar"))):
        raise Unavailable("AArch64 can be emulated only on x86-64 Linux with apt-get and dpkg-deb")


class Deadline:
    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def run(self, *command: str | Path) -> str:
        """Standard output; ``Unavailable`` if it fails, or when the time for all commands together is up."""
        left = self.end - time.monotonic()
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=max(left, 0.1), check=True, stdin=subprocess.DEVNULL
            )
        except subprocess.CalledProcessError as error:
            last = (error.stderr.strip() or error.stdout.strip() or "no message").splitlines()[-1]
            raise Unavailable(f"{command[0]} failed: {last}") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"{command[0]}: {error}") from error
        return done.stdout


def _made(folder: Path, make) -> Path:  # type: ignore[no-untyped-def]
    """``folder``, filled by ``make`` if it does not exist: completely or not at all, by one process at a time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder.parent / "lock"):
        if not folder.is_dir():
            partial = folder.with_name(f".{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                make(partial, Deadline(SETUP_S))
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return folder


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        file_locks.lock(file)
        yield


def _make_qemu(root: Path, deadline: Deadline) -> None:
    for archive in _fetch(root / "apt", ["qemu-user-static"], deadline):  # it emulates fifty machines
        only = f'dpkg-deb --fsys-tarfile "$0" | tar -x -C "$1" --wildcards "./usr/bin/{QEMU}*"'
        deadline.run("sh", "-c", only, archive, root)
    shutil.rmtree(root / "apt")


def _make_compiler(root: Path, deadline: Deadline) -> None:
    for archive in _fetch(root / "apt", ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"], deadline):
        deadline.run("dpkg-deb", "-x", archive, root)
    shutil.rmtree(root / "apt")


def _make_system(root: Path, deadline: Deadline) -> None:
    for archive in _fetch(root / "apt", ["python3", "libstdc++6", "libgomp1"], deadline, "arm64"):
        deadline.run("dpkg-deb", "-x", archive, root)
    shutil.rmtree(root / "apt")
    (python,) = root.glob("usr/bin/python3.[0-9][0-9]")
    wheels = root / "wheels"
    names = [f"{name}=={version(name)}" for name in WHEELS]
    where = [f"--platform={name}" for name in PLATFORMS]
    quick = ["--retries=0", "--timeout=20", "--disable-pip-version-check", "--quiet", "--no-deps"]
    what = ["--only-binary=:all:", f"--python-version={python.name.removeprefix('python')}", f"--dest={wheels}"]
    deadline.run(sys.executable, "-m", "pip", "download", *quick, *what, *where, *names)
    for wheel in wheels.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(root / "site")
    shutil.rmtree(wheels)
    shown = {"proc/cpuinfo": CPUINFO} | {f"sys/devices/system/cpu/{name}": "0\n" for name in ("possible", "present")}
    for name, content in shown.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def _fetch(state: Path, packages: Sequence[str], deadline: Deadline, architecture: str | None = None) -> list[Path]:
    """Debian packages with all that they need and this machine has not installed; all of it for another
    ``architecture``. apt keeps its own state in ``state``: the machine's is left alone."""
    for folder in ("lists/partial", "archives/partial"):
        (state / folder).mkdir(parents=True)
    options: dict[str, object] = {
        "Dir::State::lists": state / "lists",
        "Dir::Cache": state,
        "Dir::Cache::archives": state / "archives",
        "Debug::NoLocking": 1,
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Acquire::Retries": 0,
        "Acquire::http::Timeout": 20,
        "Acquire::https::Timeout": 20,
    }
    if architecture is not None:
        (state / "status").touch()
        options |= {"Dir::State::status": state / "status"}
        options |= {"APT::Architecture": architecture, "APT::Architectures::": architecture}
    apt = ["apt-get", *(f"-o{name}={value}" for name, value in options.items())]
    deadline.run(*apt, "update")
    deadline.run(*apt, "install", "--yes", "--download-only", "--no-install-recommends", *packages)
    return sorted((state / "archives").glob("*.deb"))


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python tests/aarch64/emulation.py", description=__doc__.splitlines()[0]).parse_args()
    try:
        print(emulator(cache()), cross_compiler(cache()), sep="\n")
    except Unavailable as error:
        sys.exit(f"error: {error}")
