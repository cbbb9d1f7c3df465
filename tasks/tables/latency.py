"""How long the networks take on this machine, each in turn with MobileNetV1."""

from __future__ import annotations

from typing import Any

from condensenet.deploy import latency
from condensenet.deploy.latency.measure import measure_latency
from condensenet.temporary import temporary_folder
from tasks import locks
from tasks.errors import one_line
from tasks.networks import MOBILENET
from tasks.params import TablesParams
from tasks.paths import LOWERED, NATIVE, PLAIN
from tasks.tables.network_files import File, files_of

FORMS = (PLAIN, LOWERED, NATIVE)
WARMUP = 5
THREADS = 1  # as in the paper's table
CHANNELS = 3


def time_networks(params: TablesParams) -> dict[str, Any]:
    """Machine, protocol, and a row for each network and form, MobileNetV1 first; batch 1 on one thread."""
    size = params.image_size
    with temporary_folder("condensenet-tables-") as folder, one_line():
        with locks.shared_machine():
            names = dict.fromkeys((MOBILENET, *params.networks))
            reference, *files = (file for name in names for file in files_of(name, folder, size, FORMS))
        with locks.quiet_machine():
            timed = measure_latency(
                {MOBILENET: reference.path, **{file.path.stem: file.path for file in files}},
                yardstick=MOBILENET,
                threads=(THREADS,),
                runs=params.rounds,
                warmup=WARMUP,
            )
    facts = latency.as_facts(timed, (CHANNELS, size, size), params.rounds, WARMUP)
    rows = [_as_row(file, row) for file, row in zip(files, facts["rows"], strict=True)]
    return {**facts, "rows": [_reference_row(reference, rows), *rows] if rows else []}


def _as_row(file: File, row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "model": file.model, "form": file.form, "macs": file.macs}


def _reference_row(file: File, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """MobileNetV1's own row: its times in the first pair, which are like those in all others."""
    times = {name: rows[0][f"yardstick_{name}"] for name in ("median_ms", "p10_ms", "p90_ms")}
    ratios = dict.fromkeys(("ratio", "ratio_p10", "ratio_p90"), 1.0)
    same = {name: rows[0][name] for name in ("batch", "threads")}
    return {"model": file.model, "form": file.form, "macs": file.macs, **same, **times, **ratios}
