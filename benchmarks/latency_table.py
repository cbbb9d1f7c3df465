"""How fast is a CondenseNet where it is deployed, beside MobileNets and others, and how far from what the CPU can do?

    python benchmarks/latency_table.py --json FILE     about 2 minutes on two cores
    python benchmarks/latency_table.py --quick         under 50 seconds on two cores

All networks at 224x224, batch 1, in ONNX Runtime, in one process: every round runs each of them once, right after
MobileNetV1, and the ratio to it is taken pair by pair. CondenseNet-74 stands there in every form that can be made here:
``plain`` (torch.onnx), ``lowered`` (standard operators, by the plan that ``--plan`` names), ``native`` (if there was a
compiler at installation) and ``int8``. ``share_of_peak`` is the multiply-adds a second as a share of those of a large
matrix product, which is timed in the same rounds. ``--quick``: one thread, the CondenseNets and MobileNetV1.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import STARTED

# isort: split

import numpy as np

from benchmarks import peak, second_runtime
from benchmarks.latency_files import (
    CONDENSENETS,
    FORMS,
    TORCHVISION,
    YARDSTICK,
    File,
    Plans,
    condensenet_files,
    peer_files,
)
from benchmarks.peak import Runner
from benchmarks.reporting import parser, start, table, write_rows
from condensenet.deploy.latency.measure import MIN_RUNS, input_shape, summarise
from condensenet.deploy.runtime import open_session, versions
from condensenet.machine import hardware, usable_cores
from tasks import paths

COLUMNS = (
    *("runtime", "model", "form", "threads", "median_ms", "ratio_to_mobilenet_v1", "ratio_p10", "ratio_p90"),
    *("million_macs", "gmacs_per_s", "share_of_peak"),
)
SIZE = 224
QUICK_S = 40.0
WARM_UP = 5
ORT = "ONNX Runtime"


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="condensenet-latency-") as folder:
        rows = run(options, Path(folder))
    first = rows[0]
    print(f"{first['device']}; ONNX Runtime {first['onnxruntime']}; {first['rounds']} rounds; plan: {first['plan']}")
    units = [{"million_macs": row["macs"] / 1e6, "gmacs_per_s": row["macs_per_s"] / 1e9} for row in rows]
    print(table([{**row, **own} for row, own in zip(rows, units, strict=True)], COLUMNS))
    for threads, (by, macs) in {row["threads"]: (row["peak_by"], row["peak_macs_per_s"]) for row in rows}.items():
        product = f"a product of {peak.SIZE}x{peak.SIZE} by {by}"
        print(f"peak, {threads} thread{'s' * (threads > 1)}: {macs / 1e9:.1f} GMAC/s, {product}")
    if not second_runtime.installed():
        print("OpenVINO is not installed: not timed")
    write_rows(options.json, rows)


def arguments() -> Namespace:
    options = parser(__doc__)
    options.add_argument(
        "--plan",
        nargs="+",
        default=["portable"],
        metavar="PLAN",
        help="of the lowered form: portable (default), measured, or files of plans, each used for its network",
    )
    options.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="default: all")
    options.add_argument("--rounds", type=int, default=100, help="default: %(default)s; at least 50")
    found = options.parse_args()
    if found.rounds < MIN_RUNS:
        raise ValueError(f"--rounds {found.rounds} is not allowed: at least {MIN_RUNS}")
    files = [] if found.plan in (["portable"], ["measured"]) else found.plan
    for name in files:
        if not Path(name).is_file():
            raise ValueError(f"--plan {name} is not allowed: portable, measured, or files of plans")
    return found


def run(options: Namespace, folder: Path) -> list[dict[str, Any]]:
    plans = Plans(options.plan, paths.plan_times())
    peers = (YARDSTICK,) if options.quick else (YARDSTICK, *TORCHVISION)
    files = list(peer_files(folder, SIZE, peers))
    for name in CONDENSENETS:
        files += condensenet_files(name, folder, plans, options.forms, SIZE)
    until = STARTED + QUICK_S if options.quick else float("inf")
    rows = []
    for threads in dict.fromkeys((1,) if options.quick else (1, usable_cores())):
        rows += timed(files, threads, options.rounds, folder, until)
    found = hardware()
    facts = {"device": f"{found['cpu']}, {found['cores']} cores", "plan": " ".join(options.plan), **versions()}
    return [{**row, **facts} for row in rows]


def timed(files: Sequence[File], threads: int, rounds: int, folder: Path, until: float) -> list[dict[str, Any]]:
    """A row a file and runtime, all of them timed in turn; ``files`` begin with the yardstick."""
    image = np.random.default_rng(0).standard_normal((1, *input_shape(files[0].path)), dtype=np.float32)
    by, product = peak.fastest(peak.products(threads, folder))
    sides = {ORT: [(file, by_onnxruntime(file.path, threads, image)) for file in files]}
    if second_runtime.installed():
        standard = [file for file in files if file.form != paths.NATIVE]  # whose operator is ONNX Runtime's
        sides["OpenVINO"] = [(file, second_runtime.runner(file.path, threads, image)) for file in standard]
    pairs = [(own[0][1], runner) for own in sides.values() for _, runner in own[1:]]
    peak_s, found = in_rounds(product, pairs, rounds, until)
    peak_macs_per_s = peak.MACS / float(np.median(peak_s))
    rows, rest = [], iter(found)
    for runtime, own in sides.items():
        times = [next(rest) for _ in own[1:]]
        times.insert(0, yardstick_times([before for before, _ in times]))
        rows += [
            row_of(runtime, file, threads, seconds, before, peak_macs_per_s)
            for (file, _), (before, seconds) in zip(own, times, strict=True)
        ]
    return [{**row, "peak_by": by, "rounds": len(peak_s)} for row in rows]


def yardstick_times(runs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(median of its round, seconds) of every run of the yardstick, so that the ratio of it all is 1."""
    seconds = np.stack(runs)
    return np.broadcast_to(np.median(seconds, axis=0), seconds.shape).ravel(), seconds.ravel()


def row_of(
    runtime: str, file: File, threads: int, seconds: np.ndarray, yardstick: np.ndarray, peak_macs_per_s: float
) -> dict[str, Any]:
    found = summarise(file.model, 1, threads, 1000 * seconds, 1000 * yardstick)
    macs_per_s = 1000 * file.macs / found.median_ms
    return {
        "runtime": runtime,
        "model": file.model,
        "form": file.form,
        "threads": threads,
        "batch": 1,
        "median_ms": found.median_ms,
        "p10_ms": found.p10_ms,
        "p90_ms": found.p90_ms,
        "ratio_to_mobilenet_v1": found.ratio,
        "ratio_p10": found.ratio_p10,
        "ratio_p90": found.ratio_p90,
        "macs": file.macs,
        "macs_per_s": macs_per_s,
        "share_of_peak": macs_per_s / peak_macs_per_s,
        "peak_macs_per_s": peak_macs_per_s,
        "yardstick_median_ms": found.yardstick_median_ms,
    }


def by_onnxruntime(path: Path, threads: int, image: np.ndarray) -> Runner:
    session = open_session(path, threads)
    return lambda: session.run(None, {"image": image})


def in_rounds(
    product: Runner, pairs: Sequence[tuple[Runner, Runner]], rounds: int, until: float
) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Seconds of ``product`` and of each of ``pairs`` in every round, run one after the other after a warm-up.

    Ends early, but not before the first round, when another round would not end before ``until``.
    """
    found: list[list[float]] = []
    longest = 0.0
    for turn in range(-WARM_UP, rounds):
        started = time.monotonic()
        if turn > 0 and started + longest > until:
            break
        seconds = [_timed(product)]
        pairs[0][0]()  # the product leaves the caches as none of the others does
        seconds += [_timed(runner) for runner in itertools.chain(*pairs)]
        longest = max(longest, time.monotonic() - started)
        if turn >= 0:
            found.append(seconds)
    first, *rest = np.array(found).T
    return first, list(zip(rest[::2], rest[1::2], strict=True))


def _timed(runner: Runner) -> float:
    begun = time.perf_counter()
    runner()
    return time.perf_counter() - begun


if __name__ == "__main__":
    start(main)
