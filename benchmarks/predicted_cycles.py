"""Predicted cycles of the native operator's innermost loops on cores that are not at hand, by static analysis.

    python -m benchmarks.predicted_cycles                         Arm cores; needs GCC for AArch64 and llvm-mca
    python -m benchmarks.predicted_cycles --target x86-64-v3      the same for AVX2, to compare with measured times

Nothing runs: GCC compiles the loops, and llvm-mca simulates a core that finds all data in its first-level cache. So a
result is a prediction, not a latency. ``mac_per_cycle`` counts multiply-adds of float32; ``share`` compares them with
``peak``, what the same model of the core reaches with independent multiply-adds alone.

The second table adds up the loops of a CondenseNet's dense blocks, and sets them against MobileNetV1 at the share of
the peak that ONNX Runtime's kernels were seen to reach elsewhere (``MOBILENET_SHARE``): a predicted ratio with its
range. Caches, memory, the stem, the classifier and the pooling are left out. For cortex-a72 and others LLVM has no
model of their own and uses a relative's: their rows are then the same.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.reporting import parser, start, table, write_rows
from condensenet import ModelConfig, presets

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ("-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", "-w")  # as in setup.py
ITERATIONS = 200
PREFIX = "loop_"  # of the functions in native_loops.c
NETWORKS = ("condensenet-74-g8", "condensenet-74-g4")
SIZE = 224
MOBILENET_MACS = 568.7e6  # MobileNetV1 at 224x224
MOBILENET_SHARE = (0.6, 0.75, 0.9)  # of the peak: low, likely, high; 0.75 on x86-64 (latency_table.py: share_of_peak)
NETWORK_COLUMNS = ("network", "core", "million_macs", "million_cycles", "share", "ratio", "ratio_low", "ratio_high")
COLUMNS = ("core", "loop", "macs", "cycles", "mac_per_cycle", "peak", "share")


@dataclass(frozen=True)
class Target:
    """A compiler and the cores whose code it makes."""

    gcc: str
    header: str
    triple: str
    lanes: int
    multiply_add: re.Pattern[str]  # an instruction
    independent: tuple[str, ...]  # multiply-adds that do not wait for one another
    cores: tuple[str, ...]


TARGETS = {
    "aarch64": Target(
        "aarch64-linux-gnu-gcc",
        "baseline.h",
        "aarch64-linux-gnu",
        4,
        re.compile(r"\tfmla\t"),
        tuple(f"\tfmla\tv{n}.4s, v30.4s, v31.4s" for n in range(24)),
        ("cortex-a55", "cortex-a57", "cortex-a72", "neoverse-n1", "neoverse-n2", "neoverse-v1"),
    ),
    "x86-64-v3": Target(
        "gcc",
        "avx2.h",
        "x86_64-linux-gnu",
        8,
        re.compile(r"\tvfmadd\w+ps\t.*%ymm\d+, %ymm\d+, %ymm\d+|\tvfmadd\w+ps\t.*\), %ymm\d+, %ymm\d+"),
        tuple(f"\tvfmadd231ps\t%ymm14, %ymm15, %ymm{n}" for n in range(12)),
        ("haswell", "skylake", "icelake-server", "znver3"),
    ),
}


def main() -> None:
    options = arguments()
    target = TARGETS[options.target]
    with tempfile.TemporaryDirectory(prefix="condensenet-cycles-") as folder:
        loops = innermost_loops(assembly(target, options.gcc or target.gcc, Path(folder)), target)
    rows = list(rows_of(target, loops, options))
    networks = [row for name in NETWORKS for row in network_rows(name, rows, target.lanes)]
    print(table(rows, COLUMNS))
    print(table(networks, NETWORK_COLUMNS))
    write_rows(options.json, [*rows, *networks])


def arguments() -> Namespace:
    options = parser(__doc__, quick=False)
    options.add_argument("--target", choices=sorted(TARGETS), default="aarch64", help="default: %(default)s")
    options.add_argument("--gcc", help="the compiler, if it is not on the path under its usual name")
    options.add_argument("--llvm-mca", default="llvm-mca", help="LLVM 17 or newer knows more cores")
    return options.parse_args()


def assembly(target: Target, gcc: str, folder: Path) -> str:
    """What GCC makes of native_loops.c. Raises ``ValueError`` without the compiler."""
    if shutil.which(gcc) is None:
        raise ValueError(f"--gcc {gcc} is not there: install it or name another")
    output = folder / "loops.s"
    header = f'-DSIMD="{ROOT / "condensenet/simd" / target.header}"'
    source = ROOT / "benchmarks/native_loops.c"
    subprocess.run([gcc, *FLAGS, header, "-S", str(source), "-o", str(output)], check=True)
    return output.read_text()


def innermost_loops(text: str, target: Target) -> dict[str, list[str]]:
    """For each function its loop with the most multiply-adds, as instructions; for a gather, its longest loop."""
    found: dict[str, list[str]] = {}
    for name, body in functions(text):
        if name.startswith(PREFIX) and (loops := list(loops_of(body))):
            found[name.removeprefix(PREFIX)] = max(loops, key=lambda loop: (count(loop, target), len(loop)))
    return found


def functions(text: str) -> Iterator[tuple[str, list[str]]]:
    for match in re.finditer(r"^(\w+):\n(.*?)^\t\.size\t\1,", text, re.MULTILINE | re.DOTALL):
        yield match[1], match[2].splitlines()


def loops_of(body: list[str]) -> Iterator[list[str]]:
    """Runs of instructions from a label to the branch back to it, without another loop inside."""
    labels = {line[:-1]: number for number, line in enumerate(body) if re.fullmatch(r"\.L\w+:", line)}
    spans = []
    for number, line in enumerate(body):
        branch = re.match(r"\t(?:b[.a-z]+|cbn?z|tbn?z|j[a-z]+)\t(?:.*, )?(\.L\w+)$", line)
        if branch and labels.get(branch[1], number) < number:
            spans.append((labels[branch[1]], number))
    for begin, end in spans:
        if not any(begin <= other[0] and other[1] <= end and other != (begin, end) for other in spans):
            yield [line for line in body[begin : end + 1] if re.match(r"\t[a-z]", line)]


def count(loop: list[str], target: Target) -> int:
    return sum(bool(target.multiply_add.match(line)) for line in loop)


def rows_of(target: Target, loops: dict[str, list[str]], options: Namespace) -> Iterator[dict[str, Any]]:
    for core in target.cores:
        peak_cycles = cycles(list(target.independent), core, target, options.llvm_mca)
        if peak_cycles is None:
            continue
        peak = len(target.independent) * target.lanes / peak_cycles
        for name, loop in loops.items():
            taken = cycles(loop, core, target, options.llvm_mca)
            macs = count(loop, target) * target.lanes
            row = {"core": core, "loop": name, "macs": macs, "cycles": taken, "peak": peak}
            if macs and taken:
                row |= {"mac_per_cycle": macs / taken, "share": macs / taken / peak}
            yield row


@dataclass(frozen=True)
class Work:
    """What the dense blocks of a network do in loops of one kind."""

    loop: str  # the beginning of its name
    macs: float
    idle: float  # the share of lanes that hold no pixel


def network_rows(name: str, rows: list[dict[str, Any]], lanes: int) -> Iterator[dict[str, Any]]:
    works = list(dense_blocks(presets[name], lanes))
    macs = sum(work.macs for work in works)
    for core in dict.fromkeys(row["core"] for row in rows):
        own = [row for row in rows if row["core"] == core]
        taken = sum(work.macs / (1 - work.idle) / best(own, work.loop) for work in works)
        taken += gathered_vectors(presets[name], lanes) / 3 * next(r["cycles"] for r in own if r["loop"] == "gather_3")
        peak = own[0]["peak"]
        low, likely, high = (taken / (MOBILENET_MACS / (share * peak)) for share in MOBILENET_SHARE)
        row = {"network": name, "core": core, "million_macs": macs / 1e6, "million_cycles": taken / 1e6}
        yield {**row, "share": macs / taken / peak, "ratio": likely, "ratio_low": low, "ratio_high": high}


def best(rows: list[dict[str, Any]], loop: str) -> float:
    """Multiply-adds a cycle of the fastest tile."""
    return max(row["mac_per_cycle"] for row in rows if row["loop"].startswith(loop))


def dense_blocks(config: ModelConfig, lanes: int) -> Iterator[Work]:
    """The multiply-adds of both convolutions of every block, grouped form, and the loops that the operator takes."""
    for rate, depth, inputs, width in shapes(config):
        outs, makes, pixels = config.bottleneck * rate // config.groups_1x1, rate // config.groups_3x3, width * width
        in_lanes = lanes >= 8 and outs % lanes == 0 and (makes % lanes == 0 or 2 * makes == lanes)
        idle = 0.0 if in_lanes else 1 - width / (-(-width // lanes) * lanes)
        tile = next(count for count in (4, 2, 1) if makes % count == 0 and (count < 4 or lanes != 8))
        loop_1x1 = "channels_1x1" if in_lanes else "clamped" if outs <= few_outputs(lanes) else "pointwise"
        macs_3x3 = depth * config.bottleneck * rate * makes * 9 * pixels
        yield Work(loop_1x1, inputs / config.condensation_factor * config.bottleneck * rate * pixels, idle)
        yield Work("channels_3x3" if in_lanes else f"spatial_{tile}", macs_3x3, idle)


def gathered_vectors(config: ModelConfig, lanes: int) -> float:
    """How many vectors of pixels the 1x1 convolutions gather, all groups together."""
    return sum(
        config.groups_1x1 * inputs / config.condensation_factor * width * -(-width // lanes)
        for rate, _, inputs, width in shapes(config)
        if config.bottleneck * rate // config.groups_1x1 > few_outputs(lanes)
    )


def few_outputs(lanes: int) -> int:
    """Outputs of a 1x1 group up to which its inputs are read where they lie: two tiles (native/pointwise.h)."""
    return 8 if lanes == 8 else 16


def shapes(config: ModelConfig) -> Iterator[tuple[int, int, int, int]]:
    """Of each block: growth rate, layers, the inputs of all its 1x1 convolutions before pruning, and width."""
    channels, width = 2 * config.growth_rates[0], SIZE // 2
    for depth, rate in zip(config.block_depths, config.growth_rates, strict=True):
        yield rate, depth, sum(channels + layer * rate for layer in range(depth)), width
        channels, width = channels + depth * rate, width // 2


def cycles(loop: list[str], core: str, target: Target, mca: str) -> float | None:
    """Cycles for one pass of the loop; None if this llvm-mca has no model of the core."""
    command = [mca, f"-mtriple={target.triple}", f"-mcpu={core}", f"-iterations={ITERATIONS}"]
    straight = [line for line in loop if not re.search(r"\.L\w+$", line)]  # its target would be undefined
    try:
        done = subprocess.run(command, input="\n".join(straight) + "\n", capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ValueError(f"--llvm-mca {mca} is not there: install LLVM or name another") from None
    match = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    return int(match[1]) / ITERATIONS if match else None


if __name__ == "__main__":
    start(main)
