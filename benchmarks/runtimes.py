"""Inference latency of CondenseNet-74 and MobileNetV1 in several runtimes, in turns.

    python -m benchmarks.runtimes --prepare            make the environments (several GB) and convert the files
    python -m benchmarks.runtimes --json FILE          time them, best when all is prepared
    python -m benchmarks.runtimes --quick              ONNX Runtime alone

An extra: the project needs none of these runtimes but ONNX Runtime. Each of the others is installed into an environment
of its own in ``--folder``, and runs in a process of its own. What cannot be installed, converted or loaded, or
computes something else than ONNX Runtime, is a row that says why.

Networks run at 224x224 with batch 1. In every round each runtime in turn runs its files once, each right after
MobileNetV1 in the same runtime. Forms of CondenseNet-74: ``plain`` (torch.onnx), ``lowered`` (the portable plan for
ONNX Runtime), ``autotuned`` (measured in ONNX Runtime), ``lowered for others`` (the portable plan for OpenVINO, LiteRT
and MNN), ``lowered for ncnn`` (without Gather), ``native`` (our operator, in ONNX Runtime alone).
"""

from __future__ import annotations

import hashlib
import json
import os
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.latency_table import mobilenet_times
from benchmarks.reporting import parser, start, table, write_rows
from benchmarks.runtime_environments import PACKAGES, Unavailable, Worker, environment
from condensenet import CondenseNet, count_cost, export_onnx
from condensenet.deploy.latency.measure import MIN_RUNS
from condensenet.deploy.lowering import Plan, lower, measure_plan, portable_plan
from condensenet.deploy.native.writing import write_native
from condensenet.deploy.runtime import open_session, operator_library
from condensenet.files import write_atomically
from condensenet.machine import hardware
from tasks.networks import CONDENSENETS, MOBILENET
from tasks.paths import LOWERED, NATIVE, PLAIN
from tasks.tables.network_files import File, converted, peer_file

COLUMNS = (
    *("runtime", "version", "model", "form", "threads", "median_ms", "ratio_to_mobilenet_v1", "ratio_p10", "ratio_p90"),
    *("ratio_to_onnxruntime", "difference", "note"),
)
REFERENCE = "onnxruntime"  # every output and time is compared with its
AUTOTUNED, FOR_OTHERS, FOR_NCNN = "autotuned", "lowered for others", "lowered for ncnn"
FORMS = (PLAIN, LOWERED, AUTOTUNED, FOR_OTHERS, FOR_NCNN, NATIVE)
SIZE = 224
TOLERANCE = 1e-3  # of the largest logit; a larger difference is another computation
INSTRUCTION_SETS = {"avx512f": "AVX-512", "avx2": "AVX2", "sse2": "SSE2", "asimd": "NEON"}


@dataclass(frozen=True)
class Started:
    """A runtime's worker with the files that it loaded, by path the difference of each, and why others are not."""

    worker: Worker
    version: str
    differences: Mapping[Path, float]
    notes: Mapping[Path, str]


def main() -> None:
    options = arguments()
    files = all_files(options.folder / "files", options.forms)
    started, notes = start_runtimes(options, files)
    rows = [{"runtime": name, "note": note} for name, note in notes.items()]
    try:
        if not options.prepare:
            times = in_rounds(started, files, options.rounds, options.clock)
            rows = rows_of(started, files, times, options.threads) + rows
    finally:
        for runtime in started.values():
            runtime.worker.close()
    if options.prepare:
        rows += [row for name, runtime in started.items() for row in note_rows(name, runtime, files)]
        print(table(rows, ("runtime", "model", "form", "note")) if rows else "every runtime takes every file")
        return
    machine = hardware()
    device = f"{machine['cpu']}, {machine['cores']} cores"
    facts = {"device": device, "instruction_set": instruction_set(), "rounds": options.rounds, "clock": options.clock}
    rows = [{**row, **facts} for row in rows]
    print(f"{device}, {instruction_set()}; {options.rounds} rounds, {options.clock} time")
    print(table(rows, COLUMNS))
    write_rows(options.json, rows)


def arguments() -> Namespace:
    options = parser(__doc__)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "condensenet" / "runtimes"
    options.add_argument("--folder", type=Path, default=cache, help="of environments and files; default: user's cache")
    options.add_argument("--runtimes", nargs="+", choices=PACKAGES, default=list(PACKAGES), help="default: all")
    options.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="default: all")
    options.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    options.add_argument("--rounds", type=int, default=MIN_RUNS, help="default: %(default)s")
    options.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: on a machine with other work")
    options.add_argument("--prepare", action="store_true", help="install and convert only, time nothing")
    parsed = options.parse_args()
    for name in ("threads", "rounds"):
        if getattr(parsed, name) < 1:
            raise ValueError(f"--{name} {getattr(parsed, name)} is not allowed: at least 1")
    if parsed.clock == "cpu" and parsed.threads > 1:
        raise ValueError("--clock cpu is not allowed with several threads: it would add up their times")
    others = [] if parsed.quick else [name for name in parsed.runtimes if name != REFERENCE]
    parsed.runtimes, parsed.folder = [REFERENCE, *others], parsed.folder.resolve()
    return parsed


def all_files(folder: Path, forms: Sequence[str]) -> list[File]:
    """MobileNetV1, then CondenseNet-74 in ``forms``. Files that the same code wrote before are reused."""
    index, code = folder / "index.json", digest_of_code()
    if not index.exists() or (known := json.loads(index.read_text()))["code"] != code:
        files = list(write_files(folder, FORMS))
        known = {"code": code, "files": [{**asdict(file), "path": file.path.name} for file in files]}
        write_atomically(index, json.dumps(known).encode())
    files = [File(**{**entry, "path": folder / entry["path"]}) for entry in known["files"]]
    return [file for file in files if file.model == MOBILENET or file.form in forms]


def digest_of_code() -> str:
    """Of all that decides what the files hold."""
    root = Path(__file__).resolve().parents[1]
    sources = [*(root / "condensenet").rglob("*.py"), root / "tasks" / "tables" / "network_files.py", Path(__file__)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(sources))).hexdigest()


def write_files(folder: Path, forms: Sequence[str]) -> Iterator[File]:
    """All files are for one image, because not every runtime takes a free batch size."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [peer_file(MOBILENET, folder, SIZE)]
    for name in CONDENSENETS:
        model = converted(name)
        macs = count_cost(model, SIZE).macs
        for form in forms:
            path = folder / f"{name}-{form.replace(' ', '-')}.onnx"
            if form != NATIVE or operator_library() is not None:
                write_form(model, form, path)
                files.append(File(model=name, form=form, path=path, macs=macs))
    for file in files:
        fix_batch(file.path)
        yield file


def write_form(model: CondenseNet, form: str, path: Path) -> None:
    if form == PLAIN:
        export_onnx(model, path, SIZE)
    elif form == NATIVE:
        write_native(model, path, SIZE)
    else:
        lower(model, path, SIZE, plan=plan_for(model, form, path.with_suffix(".plan.json")))


def plan_for(model: CondenseNet, form: str, saved: Path) -> Plan:
    if form != AUTOTUNED:
        runtimes = {LOWERED: "onnxruntime", FOR_OTHERS: "openvino", FOR_NCNN: "ncnn"}
        return portable_plan(model, SIZE, runtime=runtimes[form])
    if not saved.exists():
        measure_plan(model, SIZE, threads=1, cache=saved.with_name("plan_times.json")).save(saved)
    return Plan.load(saved)


def fix_batch(path: Path) -> None:
    import onnx

    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    del model.graph.value_info[:]  # shapes inside, which have the free batch size
    onnx.save(model, path)


def start_runtimes(options: Namespace, files: Sequence[File]) -> tuple[dict[str, Started], dict[str, str]]:
    """The runtimes that work, and for each of the others why it does not."""
    image = np.random.default_rng(0).standard_normal((1, 3, SIZE, SIZE), dtype=np.float32)
    np.save(options.folder / "image.npy", image)
    for file in files:
        if file.form in (PLAIN, NATIVE):  # the forms of a network compute the same
            np.save(expected_path(options.folder, file), open_session(file.path, 1).run(None, {"image": image})[0])
    started, notes = {}, {}
    for name in options.runtimes:
        try:
            python = environment(options.folder / "environments" / name, PACKAGES[name])
            started[name] = start_runtime(name, python, options, files)
        except Unavailable as error:
            notes[name] = str(error)
    return started, notes


def expected_path(folder: Path, file: File) -> Path:
    return folder / f"{file.model}.npy"


def start_runtime(name: str, python: Path, options: Namespace, files: Sequence[File]) -> Started:
    """A worker with all files that it can load. One that ends while it loads a file is replaced, without that file.

    Raises ``Unavailable`` if MobileNetV1 cannot be loaded: nothing could be compared with it.
    """
    notes: dict[Path, str] = {}
    while True:
        worker = Worker(name, python, options.folder / "converted" / name, options.threads)
        differences: dict[Path, float] = {}
        version = ""
        for file in files:
            if file.path in notes or (file.form == NATIVE and name != REFERENCE):
                continue
            expected, image = expected_path(options.folder, file), options.folder / "image.npy"
            try:
                answer = worker.ask(load=str(file.path), image=str(image), expected=str(expected))
            except Unavailable as error:
                notes[file.path] = str(error)
                break
            version = answer.get("version", version)
            if note := why_not(answer):
                notes[file.path] = note
            else:
                differences[file.path] = answer["difference"]
        else:
            break
        worker.close()
        if files[0].path in notes:
            break
    if files[0].path in notes:
        worker.close()
        raise Unavailable(notes[files[0].path])
    return Started(worker, version, differences, notes)


def why_not(answer: Mapping[str, Any]) -> str | None:
    """Why a file is not timed; None if it is."""
    if "error" in answer:
        return str(answer["error"])
    difference = answer["difference"]
    return None if difference <= TOLERANCE else f"computes something else: off by {difference:.2g} of the largest logit"


def in_rounds(
    started: Mapping[str, Started], files: Sequence[File], rounds: int, clock: str
) -> dict[str, dict[Path, np.ndarray]]:
    """By runtime and file, (rounds, 2): milliseconds of MobileNetV1 and of the file right after it."""
    yardstick = str(files[0].path)
    times: dict[str, dict[Path, list[list[float]]]] = {
        name: {path: [] for path in runtime.differences} for name, runtime in started.items()
    }
    for _ in range(rounds):
        for name, runtime in started.items():
            runtime.worker.ask(time=[yardstick] * 2, clock=clock)  # untimed: other runtimes had the caches
            for path, pairs in times[name].items():
                pairs.append(runtime.worker.ask(time=[yardstick, str(path)], clock=clock)["ms"])
    return {name: {path: np.array(pairs) for path, pairs in own.items()} for name, own in times.items()}


def rows_of(
    started: Mapping[str, Started],
    files: Sequence[File],
    times: Mapping[str, Mapping[Path, np.ndarray]],
    threads: int,
) -> list[dict[str, Any]]:
    """A row for each runtime and file, MobileNetV1 first; a file that is not timed has a note instead of times."""
    reference_ms = np.median([pairs[:, 0] for pairs in times[REFERENCE].values()], axis=0)  # (rounds,)
    rows: list[dict[str, Any]] = []
    for name, runtime in started.items():
        facts = {"runtime": name, "version": runtime.version, "threads": threads, "batch": 1}
        for file in files:
            if file.path not in times[name]:
                continue
            mobilenet_ms, ms = times[name][file.path].T
            if file is files[0]:
                mobilenet_ms, ms = mobilenet_times([pairs[:, 0] for pairs in times[name].values()])
            reference = np.resize(reference_ms, len(ms))
            measured = {**spread("median_ms", ms, "p10_ms", "p90_ms"), **ratios(ms, mobilenet_ms, reference)}
            rows.append({**facts, **identity(file), **measured, "difference": runtime.differences[file.path]})
        rows += [{**facts, **row} for row in note_rows(name, runtime, files)]
    return rows


def ratios(ms: np.ndarray, mobilenet_ms: np.ndarray, reference_ms: np.ndarray) -> dict[str, float]:
    """To MobileNetV1 in the same runtime and in ONNX Runtime, each within its round."""
    own = spread("ratio_to_mobilenet_v1", ms / mobilenet_ms, "ratio_p10", "ratio_p90")
    to_reference = ms / reference_ms
    return {
        **own,
        **spread("ratio_to_onnxruntime", to_reference, "ratio_to_onnxruntime_p10", "ratio_to_onnxruntime_p90"),
    }


def spread(name: str, values: np.ndarray, low: str, high: str) -> dict[str, float]:
    p10, median, p90 = np.percentile(values, [10, 50, 90]).tolist()
    return {name: median, low: p10, high: p90}


def note_rows(name: str, runtime: Started, files: Sequence[File]) -> list[dict[str, Any]]:
    return [
        {"runtime": name, **identity(file), "note": runtime.notes[file.path]}
        for file in files
        if file.path in runtime.notes
    ]


def identity(file: File) -> dict[str, Any]:
    return {"model": file.model, "form": file.form, "macs": file.macs}


def instruction_set() -> str:
    """The widest that the processor has, of those that ``INSTRUCTION_SETS`` names."""
    try:
        words = set(Path("/proc/cpuinfo").read_text(errors="replace").split())
    except OSError:
        words = set()
    return next((name for flag, name in INSTRUCTION_SETS.items() if flag in words), "unknown")


if __name__ == "__main__":
    start(main)
