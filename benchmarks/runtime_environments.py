"""An environment for each inference runtime, made once, and the worker process that runs in it.

Nothing is ever installed outside these environments. That needs care: importing MNN calls ``pip install`` with whatever
pip is first on the PATH. So an environment's own programs come first on its worker's PATH, and its pip has no index.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("runtime_worker.py")
DONE = "requirements.done"
PATIENCE_S = 600.0  # for one answer: conversion takes up to a minute
INSTALL_S = 1800.0

Packages = Sequence[Sequence[str]]  # arguments of each call of pip install
PACKAGES: dict[str, Packages] = {
    "onnxruntime": (),  # none: the project's own environment
    "openvino": (("openvino", "numpy"),),
    "litert": (("litert-torch", "onnx"),),
    "mnn": (("MNN", "numpy"),),
    "ncnn": (("ncnn", "numpy"), ("--no-deps", "pnnx")),  # pnnx asks for torch, but its program does without
    "torch.compile": (),
    "executorch": (("executorch", "torch", "onnx", "numpy"),),
    "iree": (("iree-base-compiler[onnx]", "iree-base-runtime", "numpy"),),
}


class Unavailable(Exception):
    """A runtime that cannot be installed, or a worker that ended; the message is one line."""


def environment(folder: Path, packages: Packages) -> Path:
    """The Python of the environment in ``folder``, which is made first if it is not complete.

    Without packages it is the Python that runs this. Raises ``Unavailable`` with the reason in one line.
    """
    if not packages:
        return Path(sys.executable)
    python, done = folder / "bin" / "python", folder / DONE
    wanted = json.dumps(packages)
    if done.exists() and done.read_text() == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", folder])  # with a pip of its own, which the environment must have
    for arguments in packages:
        _run([*_installer(python), *arguments])
    done.write_text(wanted)
    return python


def _installer(python: Path) -> list[Any]:
    """uv if there is one: it is much faster."""
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--quiet", "--python", python]
    return [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]


def _run(command: Sequence[Any]) -> None:
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=INSTALL_S)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"installing took more than {INSTALL_S:.0f} s") from None
    if done.returncode:
        raise Unavailable(f"does not install: {reason(done.stderr)}")


def reason(printed: str) -> str:
    """The line of an installer's output that says why it failed."""
    lines = [line.strip(" ×╰─▶>│\t") for line in printed.splitlines() if line.strip(" ×╰─▶>│\t")]
    telling = [line for line in lines if "no version" in line.lower() or "error" in line.lower() or "not found" in line]
    return (telling or lines or ["no reason given"])[0][:200]


class Worker:
    """A process that answers requests; see ``benchmarks/runtime_worker.py``. Its output is in ``folder/log.txt``."""

    def __init__(self, runtime: str, python: Path, folder: Path, threads: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                [str(python), str(WORKER), runtime, str(folder), str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=worker_environment(os.environ, python, folder, threads),
            )
        assert self.process.stdout is not None
        self._answers = selectors.DefaultSelector()
        self._answers.register(self.process.stdout, selectors.EVENT_READ)

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer. Raises ``Unavailable`` if the process ends, or says nothing for ten minutes."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write((json.dumps(request) + "\n").encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, which the next lines notice
        if not self._answers.select(PATIENCE_S):
            self.close()
            raise Unavailable(f"no answer in {PATIENCE_S:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            raise Unavailable(f"its process ended with status {self.process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._answers.close()


def worker_environment(own: Mapping[str, str], python: Path, folder: Path, threads: int) -> dict[str, str]:
    """The variables of a worker: only its own environment's programs and packages, no pip that could install."""
    kept = {name: value for name, value in own.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    path = os.pathsep.join([str(python.parent), own.get("PATH", os.defpath)])
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    private = {"PATH": path, "PIP_NO_INDEX": "1", "PIP_REQUIRE_VIRTUALENV": "1", "CUDA_VISIBLE_DEVICES": ""}
    return {**kept, **limits, **private, "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
