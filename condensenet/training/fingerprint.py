"""All that decides the final weights of a training: parameters, data and code. Nothing here imports torch."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from condensenet.config import AugmentConfig, ModelConfig, TrainConfig
from condensenet.text import escaped, shown

DIGEST_LENGTH = 12
# In this library, as in dvc.yaml.
SOURCES = ("compiled.py", "config", "data", "models", "preprocessing.py", "simd", "training")


def fingerprint(
    model: ModelConfig, train: TrainConfig, augment: AugmentConfig, data_fingerprint: str
) -> dict[str, Any]:
    """Plain data by dotted name. A checkpoint is only resumed by a training with the same fingerprint.

    It leaves out how often checkpoints are written. It includes the code, since no single version of the code
    could reproduce a training that was resumed under another one.
    """
    parts = {"model": asdict(model), "train": asdict(train), "augment": asdict(augment)}
    flat = {f"{part}.{name}": value for part, fields in parts.items() for name, value in fields.items()}
    del flat["train.checkpoint_every_steps"]
    flat = {name: list(value) if isinstance(value, tuple) else value for name, value in flat.items()}
    return {**flat, "data.fingerprint": data_fingerprint, **training_code()}


def differences(now: dict[str, Any], before: dict[str, Any]) -> str:
    """How two fingerprints differ, on one line; empty if they are the same."""
    names = sorted(now.keys() | before.keys())
    return "; ".join(
        f"{escaped(name)} was {shown(before.get(name))}, is {shown(now.get(name))}"
        for name in names
        if now.get(name) != before.get(name)
    )


@cache
def training_code() -> dict[str, str]:
    """``code.<file>`` and the start of its sha256, for every source file of this library that can affect weights."""
    root = Path(__file__).parents[1]
    paths = [path for name in SOURCES for path in (root / name, *(root / name).rglob("*"))]
    return {
        f"code.{path.relative_to(root).as_posix()}": hashlib.sha256(path.read_bytes()).hexdigest()[:DIGEST_LENGTH]
        for path in sorted(paths)
        if path.suffix in (".py", ".c", ".h")
    }
