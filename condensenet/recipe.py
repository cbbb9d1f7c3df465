"""All that decides the weights that a training ends with: parameters, data and code. Nothing here imports torch."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from condensenet.config import AugmentConfig, ModelConfig, TrainConfig

DIGITS = 12
WITHOUT_WEIGHT = {  # sources that a training does not run, or that only start it, keep it or look at it
    "__init__.py",
    "checkpoint.py",
    "convert.py",
    "cost.py",
    "data/__init__.py",
    "data/writing.py",  # the data's fingerprint stands for what it made
    "device.py",
    "export.py",
    "files.py",
    "interop/__init__.py",
    "interop/inference.py",
    "interop/layout.py",
    "interop/loading.py",
    "interop/saving.py",
    "latency.py",
    "machine.py",
    "models/__init__.py",
    "models/peers.py",
    "models/presets.py",
    "onnx_file.py",
    "quantize.py",
    "recipe.py",
    "resuming.py",
    "shapes.py",
    "storage.py",
    "yardstick.py",
}
FOLDERS_WITHOUT_WEIGHT = {"lowering", "native"}  # what is made of a trained network


def recipe(model: ModelConfig, train: TrainConfig, augment: AugmentConfig, data_fingerprint: str) -> dict[str, Any]:
    """Plain data by dotted name. A checkpoint is resumed under the recipe it was written under and no other.

    How often checkpoints are written is not part of it. The code is: a training that went on under other code would
    be that of neither.
    """
    parts = {"model": asdict(model), "train": asdict(train), "augment": asdict(augment)}
    flat = {f"{part}.{name}": value for part, fields in parts.items() for name, value in fields.items()}
    del flat["train.checkpoint_every_steps"]
    flat = {name: list(value) if isinstance(value, tuple) else value for name, value in flat.items()}
    return {**flat, "data.fingerprint": data_fingerprint, **training_code()}


def differences(now: dict[str, Any], before: dict[str, Any]) -> str:
    """What one recipe has and the other has not, on one line; empty if they are the same."""
    names = sorted(now.keys() | before.keys())
    return "; ".join(
        f"{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in names if now.get(name) != before.get(name)
    )


@cache
def training_code() -> dict[str, str]:
    """``code.<file>`` and the start of its sha256, for every source of this library that may decide weights."""
    root = Path(__file__).parent
    found = (path for path in sorted(root.rglob("*")) if path.suffix in (".py", ".c", ".h"))
    sources = {path.relative_to(root).as_posix(): path for path in found}
    return {
        f"code.{name}": hashlib.sha256(path.read_bytes()).hexdigest()[:DIGITS]
        for name, path in sources.items()
        if name not in WITHOUT_WEIGHT and name.partition("/")[0] not in FOLDERS_WITHOUT_WEIGHT
    }
