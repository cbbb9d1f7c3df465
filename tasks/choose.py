"""Choose the best measured setting of the study for a bound on cost, latency or error.

python -m tasks.choose --macs 20M                      # the lowest error within 20 million multiply-adds
python -m tasks.choose --latency 1.5                   # the lowest error within 1.5 ms
python -m tasks.choose --error 12                      # the lowest latency with at most 12% error
python -m tasks.choose --latency 8 --device pi4        # latencies that the flow benchmark-device measured there

Only settings that were trained, evaluated and timed take part, each as the file that ships (lowered). Errors are of the
test images: an interval says how far they can be told apart. Settings are timed one after the other, so their latencies
compare by the ratio to MobileNetV1, which ran in turn with each: that ratio, times the median of its milliseconds.

Exit status: 0 if a setting is within the bounds, 1 if none is or none has been measured, 2 for an argument that is not
allowed.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

from rich.console import Console

from tasks import params, tracking
from tasks.errors import UserError, run_main
from tasks.headline_metrics import as_number
from tasks.params import Params
from tasks.report import formats
from tasks.report.pareto import pareto
from tasks.report.results import SettingResult, read_study, wilson_interval_pct
from tasks.report.terminal_table import plain_table

UNITS = {"k": 1e3, "M": 1e6, "G": 1e9}
SHOWN: Mapping[str, Callable[[float], str]] = {
    "error": lambda value: f"error {formats.percent(value)}%",
    "latency": lambda value: f"latency {formats.milliseconds(value)} ms",
    "macs": lambda value: f"{formats.short_count(value)} multiply-adds",
}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What a setting is chosen by: top-1 error in %, its 95% interval, milliseconds at batch 1 on one thread, MACs.

    ``ratio`` is that to MobileNetV1, which took ``latency / ratio`` milliseconds.
    """

    name: str
    error: float
    interval: tuple[float, float]
    latency: float
    ratio: float
    macs: float


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The largest values allowed."""

    error: float = math.inf
    latency: float = math.inf
    macs: float = math.inf

    def allow(self, candidate: Candidate) -> bool:
        return all(getattr(candidate, name) <= getattr(self, name) for name in ("error", "latency", "macs"))

    @property
    def costs(self) -> tuple[str, ...]:
        """What a cheaper setting has less of: what is bounded, or both."""
        return tuple(name for name in ("latency", "macs") if getattr(self, name) < math.inf) or ("latency", "macs")

    @property
    def minimized(self) -> tuple[str, ...]:
        """What is made small within the bounds, the most important first: the error, unless it is bounded itself."""
        if self.error == math.inf:
            return ("error", "latency", "macs")
        return ("latency", "macs", "error") if self.latency == math.inf else ("macs", "latency", "error")


def main() -> None:
    options = arguments()
    loaded = params.load()
    bounds = Bounds(error=options.error, latency=options.latency, macs=options.macs)
    found = candidates(loaded, options.device)
    if not found:
        raise UserError(why_none(loaded, options.device))
    same = comparable(found)
    best = choose(same, bounds)
    print_candidates(same, best)
    for line in [*verdict(same, best, bounds), yardstick(found)]:
        Console(highlight=False, soft_wrap=True).print(line, markup=False)
    if best is None:
        sys.exit(1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tasks.choose", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--error", type=_positive, default=math.inf, metavar="PERCENT", help="largest top-1 error")
    parser.add_argument("--latency", type=_positive, default=math.inf, metavar="MS", help="at batch 1 on one thread")
    parser.add_argument("--macs", type=_count, default=math.inf, metavar="N", help="multiply-adds, such as 20M")
    parser.add_argument("--device", metavar="NAME", help="take the latencies of this device from MLflow")
    return parser.parse_args()


def _positive(text: str) -> float:
    if (value := _number(text)) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: a number above 0")
    return value


def _count(text: str) -> float:
    """``20M`` is 20e6."""
    number, unit = (text[:-1], UNITS[text[-1]]) if text[-1:] in UNITS else (text, 1.0)
    if (value := _number(number)) is None or value * unit == math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: a number above 0, or one with k, M or G")
    return value * unit


def _number(text: str) -> float | None:
    """None if it is not a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


def why_none(loaded: Params, device: str | None) -> str:
    """What is to be done where no setting has all figures."""
    evaluated = [result.run for result in read_study(loaded).results if result.run and result.evaluation]
    if device is None or not evaluated:
        return f"no setting of {loaded.study} is evaluated yet: run dvc repro benchmark"
    command = f"prefect deployment run benchmark-device/{device} --param run_id={evaluated[0].get('mlflow_run_id')}"
    return (
        f"no setting of {loaded.study} is timed on {device!r} yet: run the flow benchmark-device there, such as "
        f"{command} (docs/OPERATORS.md)"
    )


def candidates(loaded: Params, device: str | None = None) -> list[Candidate]:
    """The settings of the study that have all figures, in the order of ``params.yaml``."""
    maybe = (candidate(result, device) for result in read_study(loaded).results)
    return [found for found in maybe if found is not None]


def comparable(found: Sequence[Candidate]) -> list[Candidate]:
    """With latencies as if all had run while MobileNetV1 took the median of what it took beside each."""
    median_ms = statistics.median(mobilenet_ms(found))
    return [replace(one, latency=one.ratio * median_ms) for one in found]


def mobilenet_ms(found: Sequence[Candidate]) -> list[float]:
    """What MobileNetV1 took beside each, as measured."""
    return [one.latency / one.ratio for one in found]


def yardstick(found: Sequence[Candidate]) -> str:
    """What the milliseconds refer to, in a sentence."""
    beside = mobilenet_ms(found)
    least, median, most = map(formats.milliseconds, (min(beside), statistics.median(beside), max(beside)))
    return f"Latencies are for a machine on which MobileNetV1 takes {median} ms: it took {least} to {most} beside them."


def candidate(result: SettingResult, device: str | None) -> Candidate | None:
    """None if the setting has not been evaluated, or not been timed on ``device`` (None: here).

    Raises ``UserError`` for a figure that cannot be.
    """
    metrics = result.metrics
    latency, ratio = metrics.get("latency_ms"), metrics.get("latency_ratio")
    if device is not None:
        logged = tracking.metrics_of(result.run) if result.run else {}
        latency, ratio = (logged.get(f"latency/{name}_{device}") for name in ("ms", "ratio"))
    maybe = {
        "test error": metrics.get("test_error_pct"),
        "number of test images": as_number((result.evaluation or {}).get("images")),
        "latency": latency,
        "latency ratio": ratio,
        "number of multiply-adds": metrics.get("macs"),
    }
    figures = {name: value for name, value in maybe.items() if value is not None}
    if len(figures) < len(maybe):
        return None
    check_figures(result.name, figures)
    return Candidate(
        name=result.name,
        error=figures["test error"],
        interval=wilson_interval_pct(figures["test error"], int(figures["number of test images"])),
        latency=figures["latency"],
        ratio=figures["latency ratio"],
        macs=figures["number of multiply-adds"],
    )


def check_figures(setting: str, figures: Mapping[str, float]) -> None:
    """Raises ``UserError`` for a percentage that is none, and for another figure that is not finite and above 0."""
    for name, value in figures.items():
        if not (0 <= value <= 100 if name == "test error" else 0 < value < math.inf):
            raise UserError(
                f"{setting} cannot be compared: its {name} is {value:g}, which cannot be; run its stage again"
            )


def choose(found: Sequence[Candidate], bounds: Bounds) -> Candidate | None:
    """The best within ``bounds``; None if there is none."""
    allowed = [candidate for candidate in found if bounds.allow(candidate)]
    return min(allowed, key=lambda one: tuple(getattr(one, name) for name in bounds.minimized), default=None)


def verdict(found: Sequence[Candidate], best: Candidate | None, bounds: Bounds) -> list[str]:
    """The choice in a sentence, and the cheaper settings whose errors cannot be told from its own."""
    if best is None:
        return [_nearest(found, bounds)]
    lines = [
        f"{best.name}: error {formats.percent(best.error)}% ({best.interval[0]:.1f} to {best.interval[1]:.1f}), "
        f"{formats.milliseconds(best.latency)} ms ({best.ratio:.2f} times MobileNetV1), "
        f"{formats.short_count(best.macs)} multiply-adds"
    ]
    alike = [
        one.name
        for one in found
        if any(getattr(one, cost) < getattr(best, cost) for cost in bounds.costs)
        and all(getattr(one, cost) <= getattr(best, cost) for cost in bounds.costs)
        and one.interval[0] <= best.interval[1]
    ]
    if alike and bounds.error == math.inf:
        lines.append(f"Cheaper, with an error that the test images do not tell from it: {', '.join(alike)}.")
    return lines


def _nearest(found: Sequence[Candidate], bounds: Bounds) -> str:
    """Which bounds no setting meets, or that it takes different settings to meet them."""
    least = {name: min(found, key=attrgetter(name)) for name in SHOWN if getattr(bounds, name) < math.inf}
    unmet = [name for name, one in least.items() if getattr(one, name) > getattr(bounds, name)]
    named = ", ".join(f"{SHOWN[name](getattr(least[name], name))} ({least[name].name})" for name in unmet or least)
    if unmet:
        return f"No setting is within the bounds. The least of all: {named}."
    return f"No setting is within all bounds at once. Each bound alone can be met; the least of all: {named}."


def print_candidates(found: Sequence[Candidate], best: Candidate | None) -> None:
    """A row for each; an asterisk marks those that no other beats in error, latency and MACs at once."""
    front = pareto({one.name: (one.error, one.latency, one.macs) for one in found})
    table = plain_table()
    table.add_column("setting", no_wrap=True)
    for title in ("error\n%", "95% interval", "latency\nms", "times\nMobileNetV1", "MACs", "Pareto"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in sorted(found, key=lambda one: one.error):
        table.add_row(
            one.name,
            formats.percent(one.error),
            f"{one.interval[0]:.1f} to {one.interval[1]:.1f}",
            formats.milliseconds(one.latency),
            f"{one.ratio:.2f}",
            formats.short_count(one.macs),
            "*" if one.name in front else "",
            style="bold" if one is best else "",
        )
    Console(highlight=False).print(table)


if __name__ == "__main__":
    run_main(main)
