"""The hardware and software that a latency is always printed with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def hardware(latency: Mapping[str, Any]) -> str:
    """From ``latency.json``: "Xeon (x86_64), 2 cores, 8 GiB memory, Linux"."""
    facts = latency.get("hardware", {})
    cpu = " ".join(str(facts.get("cpu", "unknown processor")).split())
    if facts.get("architecture"):
        cpu += f" ({facts['architecture']})"
    parts = [cpu]
    if facts.get("cores"):
        parts.append(f"{facts['cores']} cores")
    if facts.get("memory_gib"):
        parts.append(f"{facts['memory_gib']:.0f} GiB memory")
    if facts.get("os"):
        parts.append(str(facts["os"]))
    return ", ".join(parts)


def runtime(latency: Mapping[str, Any]) -> str:
    """From ``latency.json``: "ONNX Runtime 1.31.1, Python 3.11.2"."""
    versions = latency.get("versions", {})
    names = {"onnxruntime": "ONNX Runtime", "python": "Python", "numpy": "NumPy", "torch": "PyTorch"}
    order = sorted(versions, key=lambda key: (key != "onnxruntime", key))
    return ", ".join(f"{names.get(key, key)} {versions[key]}" for key in order)


def machine_notes(rows: Iterable[Mapping[str, object]]) -> list[str]:
    """Runtime and hardware of the rows that have a latency; settings are named only if their machines differ."""
    settings: dict[str, list[str]] = {}
    for row in rows:
        if row["latency_ms"] is not None:
            settings.setdefault(f"{row['runtime']}; {row['hardware']}.", []).append(str(row["setting"]))
    return [f"{', '.join(names)}: {line}" if len(settings) > 1 else line for line, names in settings.items()]
