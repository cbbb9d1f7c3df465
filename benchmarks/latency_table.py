"""Inference latency of CondenseNets, MobileNets and others in ONNX Runtime, and their share of the CPU's peak.

    python -m benchmarks.latency_table --json FILE     about 3 minutes on two cores
    python -m benchmarks.latency_table --quick         under 50 seconds on two cores

All networks run at 224x224 in one process, ``--batch`` images at a time (default: one). Every round runs each of them
once untimed, then MobileNetV1 and the network again, and takes the ratio within this pair: each of the two finds the
caches as the other leaves them. CondenseNet-74 appears in every form available
here: ``plain`` (torch.onnx), ``lowered`` (standard operators, by the plan given as ``--plan``), ``native`` (if there
was a compiler at installation) and ``int8``. ``share_of_peak`` compares multiply-adds per second with those of a large
matrix product, timed in the same rounds. ``--quick``: only one thread, the CondenseNets and MobileNetV1.
"""

from __future__ import annotations

import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import STARTED, peak
from benchmarks.latency_plans import Plans
from benchmarks.peak import Runner
from benchmarks.reporting import parser, start, table, write_rows
from benchmarks.rounds import in_time
from condensenet.deploy.latency.measure import MIN_RUNS, input_shape, summarise
from condensenet.deploy.runtime import open_session, versions
from condensenet.machine import hardware, usable_cores
from tasks import paths
from tasks.networks import CONDENSENETS, MOBILENET, TORCHVISION
from tasks.tables.network_files import FORMS, File, files_of

COLUMNS = (
    *("runtime", "model", "form", "threads", "median_ms", "ratio_to_mobilenet_v1", "ratio_p10", "ratio_p90"),
    *("million_macs", "gmacs_per_s", "share_of_peak"),
)
SIZE = 224
QUICK_S = 40.0
WARM_UP = 5


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="condensenet-latency-") as folder:
        rows = run(options, Path(folder))
    first = rows[0]
    print(f"{first['device']}; ONNX Runtime {first['onnxruntime']}; {first['rounds']} rounds; plan: {first['plan']}")
    units = [{"million_macs": row["macs"] / 1e6, "gmacs_per_s": row["macs_per_s"] / 1e9} for row in rows]
    print(table([{**row, **own} for row, own in zip(rows, units, strict=True)], COLUMNS))
    for threads, (peak_by, macs) in {row["threads"]: (row["peak_by"], row["peak_macs_per_s"]) for row in rows}.items():
        product = f"a {peak.SIZE}x{peak.SIZE} matrix product by {peak_by}"
        print(f"peak, {threads} thread{'s' * (threads > 1)}: {macs / 1e9:.1f} GMAC/s, {product}")
    write_rows(options.json, rows)


def arguments() -> Namespace:
    options = parser(__doc__)
    options.add_argument(
        "--plan",
        nargs="+",
        default=["portable"],
        metavar="PLAN",
        help="of the lowered form: portable (default), measured, or plan files, each used for its network",
    )
    options.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="default: all")
    options.add_argument("--rounds", type=int, default=60, help="default: %(default)s; at least 50")
    options.add_argument("--batch", type=int, default=1, help="images at a time; default: %(default)s")
    parsed = options.parse_args()
    if parsed.batch < 1:
        raise ValueError(f"--batch {parsed.batch} is not allowed: 1 or more")
    if parsed.rounds < MIN_RUNS:
        raise ValueError(f"--rounds {parsed.rounds} is not allowed: at least {MIN_RUNS}")
    files = [] if parsed.plan in (["portable"], ["measured"]) else parsed.plan
    for name in files:
        if not Path(name).is_file():
            raise ValueError(f"--plan {name} is not allowed: portable, measured, or plan files")
    return parsed


def run(options: Namespace, folder: Path) -> list[dict[str, Any]]:
    plans = Plans(options.plan, paths.plan_times())
    peers = (MOBILENET,) if options.quick else (MOBILENET, *TORCHVISION)
    names = (*peers, *CONDENSENETS)
    files = [file for name in names for file in files_of(name, folder, SIZE, options.forms, plans.of)]
    until = STARTED + QUICK_S if options.quick else float("inf")
    rows = []
    for threads in dict.fromkeys((1,) if options.quick else (1, usable_cores())):
        rows += timed(files, threads, options.batch, options.rounds, folder, until)
    machine = hardware()
    facts = {"device": f"{machine['cpu']}, {machine['cores']} cores", "plan": " ".join(options.plan), **versions()}
    return [{**row, **facts} for row in rows]


def timed(
    files: Sequence[File], threads: int, batch: int, rounds: int, folder: Path, until: float
) -> list[dict[str, Any]]:
    """A row for each file, all timed alternately; the first of ``files`` is MobileNetV1."""
    images = np.random.default_rng(0).standard_normal((batch, *input_shape(files[0].path)), dtype=np.float32)
    peak_by, product = peak.fastest(peak.products(threads, folder))
    mobilenet, *networks = [by_onnxruntime(file.path, threads, images) for file in files]
    peak_s, times = in_rounds(product, [(mobilenet, network) for network in networks], rounds, until)
    peak_macs_per_s = peak.MACS / float(np.median(peak_s))
    times.insert(0, mobilenet_times([mobilenet_s for mobilenet_s, _ in times]))
    rows = [
        row_of(file, threads, batch, seconds, mobilenet_s, peak_macs_per_s)
        for file, (mobilenet_s, seconds) in zip(files, times, strict=True)
    ]
    return [{**row, "peak_by": peak_by, "rounds": len(peak_s)} for row in rows]


def mobilenet_times(runs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(median of its round, seconds) of every run of MobileNetV1, so its own ratio is 1."""
    seconds = np.stack(runs)
    return np.broadcast_to(np.median(seconds, axis=0), seconds.shape).ravel(), seconds.ravel()


def row_of(
    file: File,
    threads: int,
    batch: int,
    seconds: np.ndarray,
    mobilenet_s: np.ndarray,
    peak_macs_per_s: float,
) -> dict[str, Any]:
    latency = summarise(file.model, batch, threads, 1000 * seconds, 1000 * mobilenet_s)
    macs_per_s = 1000 * batch * file.macs / latency.median_ms
    return {
        "model": file.model,
        "form": file.form,
        "threads": threads,
        "batch": batch,
        "median_ms": latency.median_ms,
        "p10_ms": latency.p10_ms,
        "p90_ms": latency.p90_ms,
        "ratio_to_mobilenet_v1": latency.ratio,
        "ratio_p10": latency.ratio_p10,
        "ratio_p90": latency.ratio_p90,
        "macs": file.macs,
        "macs_per_s": macs_per_s,
        "share_of_peak": macs_per_s / peak_macs_per_s,
        "peak_macs_per_s": peak_macs_per_s,
        "mobilenet_v1_median_ms": latency.yardstick_median_ms,
    }


def by_onnxruntime(path: Path, threads: int, images: np.ndarray) -> Runner:
    session = open_session(path, threads)
    return lambda: session.run(None, {"image": images})


def in_rounds(
    product: Runner, pairs: Sequence[tuple[Runner, Runner]], rounds: int, until: float
) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Seconds of ``product`` and of each of ``pairs`` in every round, run one after the other after a warm-up.

    ``until``: see ``in_time``.
    """
    times: list[list[float]] = []
    for number in in_time(range(-WARM_UP, rounds), until):
        seconds = [_time(product)]
        for mobilenet, network in pairs:
            network()  # untimed, so that neither of the two comes after a third
            seconds += [_time(mobilenet), _time(network)]
        if number >= 0:
            times.append(seconds)
    product_s, *pair_s = np.array(times).T
    return product_s, list(zip(pair_s[::2], pair_s[1::2], strict=True))


def _time(runner: Runner) -> float:
    started = time.perf_counter()
    runner()
    return time.perf_counter() - started


if __name__ == "__main__":
    start(main)
