"""``condensenet doctor``: what works on this machine. Nothing is changed, and no server is started."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from condensenet import __version__, operator_library
from condensenet.machine import hardware
from condensenet.models import kernels
from condensenet.text import escaped
from tasks import server_addresses

NEEDED = ("torch", "torchvision", "numpy")
EXTRAS = {
    "onnxruntime": "export",
    "onnx": "export",
    "ray": "pipeline",
    "mlflow": "pipeline",
    "prefect": "pipeline",
    "dvc": "pipeline",
    "timm": "timm",
    "huggingface_hub": "hub",
}
PROBE_S = 3.0
SERVERS = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "RAY_ADDRESS")
FLAGS = ("avx512f", "avx2", "amx_bf16", "avx512_bf16", "asimd")
Status = Literal["ok", "note", "broken"]


@dataclass(frozen=True)
class Finding:
    """``note``: it works without, less well; ``broken``: something does not work as it is set up."""

    status: Status
    subject: str
    detail: str


def run(as_json: bool) -> int:
    """Print all findings; returns 1 if something is broken, else 0."""
    findings = [*_versions(), *_machine(), *_compiled(), *_gpu(), *_servers()]
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            print(f"{finding.status:<6}  {finding.subject:<20}  {escaped(finding.detail)}")
    return int(any(finding.status == "broken" for finding in findings))


def _versions() -> Iterator[Finding]:
    yield Finding("ok", "condensenet", f"{__version__}, Python {platform.python_version()}")
    for package in NEEDED:
        found = _version(package)
        yield Finding("ok" if found else "broken", package, found or "not installed")
    for package, extra in EXTRAS.items():
        found = _version(package)
        yield Finding("ok" if found else "note", package, found or f"not installed: pip install 'condensenet[{extra}]'")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _machine() -> Iterator[Finding]:
    facts = hardware()
    yield Finding("ok", "CPU", f"{facts['cpu']}, {facts['cores']} usable cores, {facts['memory_gib']} GiB of memory")
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text(errors="replace").split()) if cpuinfo.is_file() else set()
    yield Finding("ok", "instruction set", ", ".join(flag for flag in FLAGS if flag in flags) or facts["architecture"])


def _compiled() -> Iterator[Finding]:
    remedy = (
        "a C compiler with OpenMP is needed at installation: pip install again, or python setup.py build_ext --inplace"
    )
    try:
        training, native = kernels.instruction_set(), operator_library() is not None
    except ValueError as error:  # of CONDENSENET_KERNELS or CONDENSENET_LANES
        yield Finding("broken", "compiled code", str(error))
        return
    if training != "none":
        yield Finding("ok", "training kernels", f"in use, {training}")
    elif os.environ.get(kernels.SWITCH) == "off":
        yield Finding("note", "training kernels", f"turned off by {kernels.SWITCH}=off")
    else:
        yield Finding("note", "training kernels", f"not built, training on CPUs is slower: {remedy}")
    if native:
        yield Finding("ok", "native operator", "built")
    else:
        yield Finding("note", "native operator", f"not built, ONNX files in native form do not run: {remedy}")


def _gpu() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        yield Finding("note", "GPU", "none that PyTorch can use: training runs on the CPU")
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Finding("ok", f"GPU {index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")


def _servers() -> Iterator[Finding]:
    for variable in SERVERS:
        given = os.environ.get(variable)
        if not given:
            yield Finding("ok", variable, "not set: everything runs on this machine")
            continue
        host = _host(given)
        if host is None:
            yield Finding(
                "note", variable, f"{server_addresses.without_secrets(given)}: not checked, it names no host and port"
            )
        elif server_addresses.listens(*host, PROBE_S):
            yield Finding("ok", variable, f"{server_addresses.without_secrets(given)}: something listens there")
        else:
            yield Finding("broken", variable, f"{server_addresses.without_secrets(given)}: nothing answers there")


def _host(address: str) -> tuple[str, int] | None:
    """Host and port of ``address``; None for a file, or ``auto``, by which Ray finds a cluster of this machine."""
    try:
        parts = urlsplit(address if "://" in address else f"tcp://{address}")
        port = parts.port or server_addresses.PORTS.get(parts.scheme)
    except ValueError:  # such as a port that is no number
        return None
    return None if parts.hostname is None or port is None else (parts.hostname, port)
