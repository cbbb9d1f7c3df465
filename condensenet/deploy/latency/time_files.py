"""Time ONNX files on this machine, with Python, NumPy and ONNX Runtime alone.

    python -m condensenet.deploy.latency model.onnx [FILE ...]      # JSON on standard output

The reference model ("yardstick" in the JSON), MobileNetV1 for the same images, is written to a temporary file, so no
other file is needed. The pipeline's benchmark reports its latencies by the same ``as_facts`` and ``describe``.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from condensenet.deploy.latency.measure import MIN_RUNS, WARMUP, Latency, check_protocol, measure_latency
from condensenet.deploy.latency.mobilenet import MOBILENET, write_mobilenet_v1
from condensenet.deploy.runtime import open_session, versions
from condensenet.files import sha256
from condensenet.machine import hardware
from condensenet.preprocessing import MAX_PIXELS as MAX_SIDE
from condensenet.text import shown

MAX_METADATA = 200  # characters of a metadata value; longer ones are left out
MAX_CHANNELS = 2**17  # of the images, and logits: MobileNetV1 keeps 4 KiB for each of these
UNSTEADY = 2.0  # 90th percentile of a ratio over its 10th


def time_files(
    models: Mapping[str, str | Path],
    *,
    yardstick: str | Path | None = None,
    batch_sizes: Sequence[int] = (1,),
    threads: Sequence[int] = (1, 0),
    runs: int = MIN_RUNS,
    warmup: int = WARMUP,
) -> dict[str, Any]:
    """Latencies of the ONNX files ``models`` (name to path, at least one) and their conditions, ready for JSON.

    The first file must load. Others that do not, such as those whose custom operators are not built here, are listed
    in ``skipped`` with the reason. ``yardstick`` is a reference model for the same images; by default MobileNetV1 is
    written for them. Raises ``FileNotFoundError`` for a missing file, ``ValueError`` and ``ImportError`` as
    ``measure_latency`` does.
    """
    if not models or MOBILENET in models:
        raise ValueError(f"models={list(models)} is not allowed: at least one, and none called {MOBILENET}")
    check_protocol(batch_sizes, threads, runs, warmup)
    usable, skipped = _describe_files(models)
    shape, classes = (usable[next(iter(models))][key] for key in ("input_shape", "classes"))
    with tempfile.TemporaryDirectory() as folder:
        reference = yardstick or write_mobilenet_v1(Path(folder) / "yardstick.onnx", shape, classes)
        rows = measure_latency(
            {**{name: models[name] for name in usable}, MOBILENET: reference},
            yardstick=MOBILENET,
            batch_sizes=batch_sizes,
            threads=threads,
            runs=runs,
            warmup=warmup,
        )
    facts = as_facts(rows, shape, runs, warmup)
    facts["protocol"]["yardstick_file"] = None if yardstick is None else Path(yardstick).name
    return {**facts, "files": usable, "skipped": skipped}


def as_facts(rows: Sequence[Latency], image_shape: Sequence[int], runs: int, warmup: int) -> dict[str, Any]:
    """``rows`` measured on this machine in turn with MobileNetV1, with the machine and the protocol, ready for JSON.

    ``image_shape`` is (channels, height, width); ``runs`` and ``warmup`` are rounds.
    """
    return {
        "hardware": hardware(),
        "versions": versions(),
        "protocol": {
            "runs": runs,
            "warmup": warmup,
            "yardstick": MOBILENET,
            "input_size": list(image_shape),
            "order": "the files in turn: each once untimed, then the yardstick and the file",
            "spinning": False,
        },
        "rows": [dataclasses.asdict(row) for row in rows],
    }


def _describe_files(models: Mapping[str, str | Path]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """(a description of each usable file, the reason for each other one). The first must be usable: else it raises."""
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
    """What identifies the file, and its metadata. Raises ``ValueError`` if it does not load."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    session = open_session(path, 1)
    shape, classes = _image_and_classes(path, session)
    metadata = session.get_modelmeta().custom_metadata_map
    return {
        "bytes": path.stat().st_size,
        "sha256": sha256(path),
        "input_shape": shape,
        "classes": classes,
        "metadata": {key: value for key, value in sorted(metadata.items()) if len(value) <= MAX_METADATA},
    }


def _image_and_classes(path: Path, session: Any) -> tuple[list[int], int]:
    """(channels, height and width; the number of logits) if these are fixed numbers that MobileNetV1 can take too."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    image, logits = ([*each[0].shape] if each else [] for each in (inputs, outputs))
    numbers = [*image[1:], *logits[-1:]]
    if len(inputs) != 1 or len(image) != 4 or not logits or not all(isinstance(size, int) for size in numbers):
        raise ValueError(
            f"{path} takes images of shape {shown(image)} and gives logits of shape {shown(logits)}: fixed numbers are "
            "needed, one input (batch, channels, height, width), and (batch, classes) as the first output"
        )
    *shape, classes = numbers
    if min(numbers) < 1 or max(shape[1:]) > MAX_SIDE or max(shape[0], classes) > MAX_CHANNELS:
        raise ValueError(
            f"{path} takes images of shape {shape} and gives {shown(classes)} logits: sides of 1 to {MAX_SIDE} pixels, "
            f"1 to {MAX_CHANNELS} channels and 1 to {MAX_CHANNELS} logits can be timed"
        )
    return shape, classes


def describe(facts: Mapping[str, Any], name: str = "model") -> Iterator[str]:
    """A line about the machine, then one for each row, so no latency is printed without machine and reference model.

    ``name`` is the key of a row's name.
    """
    machine, protocol = facts["hardware"], facts["protocol"]
    yield (
        f"{machine['cpu']} ({machine['architecture']}), {machine['cores']} cores, {machine['os']}, "
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
    """Whether the ratios of a row vary so much that the machine must have had other work."""
    return any(row["ratio_p90"] > UNSTEADY * row["ratio_p10"] for row in facts["rows"])
