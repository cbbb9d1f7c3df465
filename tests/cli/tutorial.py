"""Runs the commands of docs/TUTORIAL.md in order, on small pictures for a few epochs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

EPOCHS = 12
OPTIONS = {
    "train photos": f"--epochs {EPOCHS} --size 16",
    "train more": "--epochs 2 --size 16",
}  # else it takes minutes
BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)
SERVERS = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "CONDENSENET_RAY")


@dataclass(frozen=True)
class Tutorial:
    folder: Path
    outputs: dict[str, str]  # by command, as the page has it


def condensenet(folder: Path, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """``condensenet ARGUMENT...`` in ``folder``, as a process of its own."""
    return _run([sys.executable, "-m", "cli", *map(str, arguments)], folder, check)


def run_tutorial(checkout: Path, folder: Path) -> Tutorial:
    outputs = {}
    for block in BLOCK.findall((checkout / "docs/TUTORIAL.md").read_text(encoding="utf-8")):
        for line in block.splitlines():
            command = next((f"{line} {options}" for key, options in OPTIONS.items() if key in line), line)
            shell = f'condensenet() {{ "{sys.executable}" -m cli "$@"; }}\n{command}'
            outputs[line] = _run(["bash", "-ec", shell], folder, check=True).stdout
    return Tutorial(folder, outputs)


def _run(command: list[str], folder: Path, check: bool) -> subprocess.CompletedProcess[str]:
    checkout = str(Path(__file__).resolve().parents[2])
    environment = {key: value for key, value in os.environ.items() if key not in SERVERS}
    done = subprocess.run(
        command,
        cwd=folder,
        env={
            **environment,
            "PYTHONPATH": os.pathsep.join([checkout, os.environ.get("PYTHONPATH", "")]),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        },
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done
