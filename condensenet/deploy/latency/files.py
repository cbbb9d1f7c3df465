"""Time ONNX files on the machine at hand, which needs Python, NumPy and ONNX Runtime alone.

    python -m condensenet.deploy.latency model.onnx [FILE ...]      # JSON on standard output

The yardstick, MobileNetV1 for the same images, is written on the spot: no other file has to be there.
The pipeline's benchmark keeps and tells its latencies by the same ``as_facts`` and ``describe``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from condensenet.deploy.latency.measure import MIN_RUNS, Latency, check_protocol, measure_latency
from condensenet.deploy.latency.mobilenet import NAME, write_mobilenet_v1
from condensenet.deploy.runtime import open_session, versions
from condensenet.machine import hardware

WARMUP = 10
LONGEST = 200  # characters of a metadata value that the report takes over
UNSTEADY = 2.0  # a ratio's 90th percentile this many times its 10th


def time_files(
    models: Mapping[str, str | Path],
    *,
    yardstick: str | Path | None = None,
    batch_sizes: Sequence[int] = (1,),
    threads: Sequence[int] = (1, 0),
    runs: int = MIN_RUNS,
    warmup: int = WARMUP,
) -> dict[str, Any]:
    """Latencies of the ONNX files ``models`` (name to path, at least one) with all that they depend on, ready for JSON.

    The first model must load; others may not (custom operators whose library is not here) and are listed in
    ``skipped`` with the reason. ``yardstick`` is a file for the same images; left out, MobileNetV1 is written for
    them. Raises ``FileNotFoundError`` for any that is missing, ``ValueError`` and ``ImportError`` as
    ``measure_latency`` does.
    """
    if not models or NAME in models:
        raise ValueError(f"models={list(models)} is not allowed: at least one, and none called {NAME}")
    check_protocol(batch_sizes, threads, runs, warmup)
    usable, skipped = _describe_files(models)
    shape, classes = (usable[next(iter(models))][key] for key in ("input_shape", "classes"))
    with tempfile.TemporaryDirectory() as folder:
        reference = yardstick or write_mobilenet_v1(Path(folder) / "yardstick.onnx", shape, classes)
        rows = measure_latency(
            {**{name: models[name] for name in usable}, NAME: reference},
            yardstick=NAME,
            batch_sizes=batch_sizes,
            threads=threads,
            runs=runs,
            warmup=warmup,
        )
    facts = as_facts(rows, shape, runs, warmup)
    facts["protocol"]["yardstick_file"] = None if yardstick is None else Path(yardstick).name
    return {**facts, "files": usable, "skipped": skipped}


def as_facts(rows: Sequence[Latency], image_shape: Sequence[int], runs: int, warmup: int) -> dict[str, Any]:
    """``rows`` of this machine beside MobileNetV1, with all that a latency depends on, ready for JSON.

    ``image_shape`` is (channels, height, width) of an image; ``runs`` and ``warmup`` are rounds.
    """
    return {
        "hardware": hardware(),
        "versions": versions(),
        "protocol": {
            "runs": runs,
            "warmup": warmup,
            "yardstick": NAME,
            "input_size": list(image_shape),
            "order": "the files in turn, each right after a run of the yardstick",
            "spinning": False,
        },
        "rows": [dataclasses.asdict(row) for row in rows],
    }


def _describe_files(models: Mapping[str, str | Path]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """What is known of each file, and why those do not load that do not. Raises ``ValueError`` for the first one."""
    usable: dict[str, dict[str, Any]] = {}
    skipped = {}
    for name, path in models.items():
        try:
            usable[name] = _describe_file(Path(path))
        except ValueError as error:
            if not usable:
                raise
            skipped[name] = str(error)
    return usable, skipped


def _describe_file(path: Path) -> dict[str, Any]:
    """What tells one file from another, and what its metadata say of it. Raises ``ValueError`` if it does not load."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    session = open_session(path, 1)
    shape, classes = session.get_inputs()[0].shape[1:], session.get_outputs()[0].shape[-1]
    if not all(isinstance(size, int) for size in (*shape, classes)) or len(shape) != 3:
        raise ValueError(f"{path} takes images of shape {shape} and gives {classes} logits: fixed numbers are needed")
    content = path.read_bytes()
    metadata = session.get_modelmeta().custom_metadata_map
    return {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "input_shape": list(shape),
        "classes": classes,
        "metadata": {key: value for key, value in sorted(metadata.items()) if len(value) <= LONGEST},
    }


def describe(facts: Mapping[str, Any], name: str = "model") -> Iterator[str]:
    """The machine, then a line a row: no latency is printed without what it was taken on and in turn with.

    ``name`` is the key under which a row says what was timed.
    """
    found, protocol = facts["hardware"], facts["protocol"]
    yield (
        f"{found['cpu']} ({found['architecture']}), {found['cores']} cores, {found['os']}, "
        f"ONNX Runtime {facts['versions']['onnxruntime']}: median of {protocol['runs']} runs (10th to 90th percentile)"
    )
    for row in facts["rows"]:
        yield (
            f"{row[name]}, batch {row['batch']}, threads {row['threads']}: {row['median_ms']:.3f} ms "
            f"({row['p10_ms']:.3f} to {row['p90_ms']:.3f}), {row['ratio']:.2f} times {protocol['yardstick']}'s "
            f"{row['yardstick_median_ms']:.3f} ms ({row['ratio_p10']:.2f} to {row['ratio_p90']:.2f})"
        )
    for skipped, reason in facts.get("skipped", {}).items():
        yield f"{skipped} was not timed: {reason}"
    if is_unsteady(facts):
        yield "the machine was not quiet, as the spread of the ratios shows"


def is_unsteady(facts: Mapping[str, Any]) -> bool:
    """Whether the ratios of a row spread so far that other work must have been on the machine."""
    return any(row["ratio_p90"] > UNSTEADY * row["ratio_p10"] for row in facts["rows"])
