"""The tables of docs/PAPER.md: what the paper reports, what is counted here, and what was measured here."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import pairwise
from math import sqrt
from statistics import mean, stdev

from benchmarks.corruptions import CLEAN, mean_error
from benchmarks.pages.markdown import NOT_MEASURED, ROOT, Column, Results, Row, rows_of, spread, table, text
from benchmarks.pages.speed_tables import as_json, published_figure
from condensenet import presets
from tasks import paths
from tasks.networks import CONDENSENETS
from tasks.report.pareto import pareto
from tasks.report.published import Published, PublishedModel, read_published
from tasks.tables.cost import counted

DASH = "–"
EXACT_PCT = 0.5  # a count may be so far from a published one, which has three or four digits
EPOCHS = {"condensenet-182": 600}  # of the published figures; 300 for the others
LONG = "not run: 300 epochs (182: 600) on a GPU"
IMAGENET = "not run: ImageNet, 120 epochs on 8 GPUs, `dvc exp run -S study=imagenet`"
SHORT, FEW = "study-cifar10-short", "study-cifar10-few"
HOURS = {SHORT: "two hours each", FEW: "half an hour each"}
CORRUPTIONS = "corruptions"


@cache
def published() -> Published:
    return read_published(ROOT / paths.PUBLISHED)


def cifar(results: Results) -> str:
    """The paper's networks on CIFAR."""
    columns: Sequence[Column] = (
        ("Network", lambda entry: entry.model),
        *count_columns("FLOPs", "paper_flops", 32),
        *count_columns("parameters", "params", 32),
        ("Published CIFAR-10 error, %", lambda entry: published_figure(entry, "cifar10_error_pct", "{:.2f}")),
        ("Measured CIFAR-10 error, %", lambda entry: trained_error(results, entry)),
        ("Published CIFAR-100 error, %", lambda entry: published_figure(entry, "cifar100_error_pct", "{:.2f}")),
        ("Counts", lambda entry: count_status(entry, 32)),
        ("Error", lambda entry: error_status(results, entry)),
    )
    return table(columns, [entry for entry in published().table("cifar") if entry.preset])


def others(results: Results) -> str:
    """Networks of other papers on CIFAR; none is run here."""
    columns: Sequence[Column] = (
        ("Network", lambda entry: entry.model),
        ("Published MACs", lambda entry: published_figure(entry, "macs", "{:g}M", 1e6)),
        ("Published parameters", lambda entry: published_figure(entry, "params", "{:g}M", 1e6)),
        ("Published CIFAR-10 error, %", lambda entry: published_figure(entry, "cifar10_error_pct", "{:.2f}")),
        ("Published CIFAR-100 error, %", lambda entry: published_figure(entry, "cifar100_error_pct", "{:.2f}")),
        ("Source", lambda entry: entry.source),
    )
    return table(columns, [entry for entry in published().table("cifar") if not entry.preset])


def imagenet(results: Results) -> str:
    """Every network at 224x224 that is here, beside its published figures."""
    columns: Sequence[Column] = (
        ("Network", lambda entry: entry.model),
        *count_columns("FLOPs", "paper_flops", 224),
        *count_columns("MACs", "macs", 224),
        *count_columns("parameters", "params", 224),
        ("Published top-1 / top-5 error, %", top_errors),
        ("Counts", lambda entry: count_status(entry, 224)),
        ("Error", lambda entry: IMAGENET if entry.key in CONDENSENETS else "not run: another paper's network"),
        ("Source", lambda entry: entry.source),
    )
    return table(columns, [entry for entry in published().table("imagenet") if entry.key])


def arm(results: Results) -> str:
    """The paper's seconds on an ARM core; the ratios measured here are of another machine and runtime."""
    rows = [row for row in rows_of(results, "latency_table") if row["threads"] == row["batch"] == 1]
    ratios = published().arm_ratios()
    columns: Sequence[Column] = (
        ("Network", lambda entry: entry.model),
        ("Published seconds, Jetson TX2", lambda entry: published_figure(entry, "arm_latency_s", "{:g}")),
        ("Published ratio to MobileNet", lambda entry: f"{ratios[entry.key]:.3g}"),
        ("Measured ratio, x86-64: plain", lambda entry: measured_ratio(rows, entry, "plain")),
        ("lowered", lambda entry: measured_ratio(rows, entry, "lowered")),
        ("native", lambda entry: measured_ratio(rows, entry, "native")),
        ("Status", lambda entry: "measured on another machine; an ARM core: not run, needs a board"),
    )
    return table(columns, published().table("arm"))


def count_columns(title: str, name: str, size: int) -> tuple[Column, Column]:
    return (
        (f"Published {title}", lambda entry: published_figure(entry, name, "{:g}M", 1e6)),
        (f"Counted {title}", lambda entry: f"{getattr(counted(entry.key, size), name) / 1e6:,.4g}M"),
    )


def count_status(entry: PublishedModel, size: int) -> str:
    """Whether FLOPs and MACs are as published, else by how much they differ."""
    cost = counted(str(entry.key), size)
    off = {
        name: 100 * (getattr(cost, name) / entry.figures[name] - 1)
        for name in ("paper_flops", "macs")
        if name in entry.figures
    }
    if not off:
        return DASH
    worst = max(off.values(), key=abs)
    return "exact" if abs(worst) < EXACT_PCT else f"{worst:+.1f}%"


def error_status(results: Results, entry: PublishedModel) -> str:
    if not entry.figures.keys() & {"cifar10_error_pct", "cifar100_error_pct"}:
        return DASH
    return LONG if trained_error(results, entry) == NOT_MEASURED else "measured"


def trained_error(results: Results, entry: PublishedModel) -> str:
    """Our mean test error; only whole trainings on all images of CIFAR-10, original or as JPEG, count."""
    config = as_json(presets[str(entry.preset)])
    epochs = EPOCHS.get(str(entry.preset), 300)
    for row in rows_of(results, "fidelity"):
        is_our_mean = row["side"] == "ours" and row["seed"] == "mean" and row["model"] == config
        all_images = row["train_images"] > 50_000 - row["batch_size"] and row["test_images"] == 10_000  # full batches
        if is_our_mean and row["epochs"] >= epochs and all_images and row["data"] in ("cifar10", "cifar10-jpeg"):
            return f"{row['error_pct']:.2f}"
    return NOT_MEASURED


def top_errors(entry: PublishedModel) -> str:
    figures = (published_figure(entry, f"imagenet_{name}error_pct", "{:.1f}") for name in ("", "top5_"))
    return " / ".join(figures)


def measured_ratio(rows: Sequence[Row], entry: PublishedModel, form: str) -> str:
    ratios = (row["ratio_to_mobilenet_v1"] for row in rows if (row["model"], row["form"]) == (entry.key, form))
    return next((f"{ratio:.2f}" for ratio in ratios), DASH)


def study(file: str, *settings: str) -> Callable[[Results], str]:
    """Some settings of the study whose rows are in ``file``: the mean over their seeds, and its standard error."""

    def render(results: Results) -> str:
        columns: Sequence[Column] = (
            ("Setting", lambda name: name),
            ("G", lambda name: str(runs[name][0]["model"]["groups_1x1"])),
            ("C", lambda name: str(runs[name][0]["model"]["condensation_factor"])),
            ("MACs, computed", lambda name: f"{runs[name][0]['macs'] / 1e6:.1f}M"),
            ("Parameters, computed", lambda name: f"{runs[name][0]['params'] / 1e3:.0f}k"),
            ("Measured test error, %", lambda name: with_standard_error(runs[name])),
            ("Seeds", lambda name: str(len(runs[name]))),
            ("Status", lambda name: f"measured small: {runs[name][0]['train']['epochs']} epochs, {day(runs[name])}"),
        )
        runs = runs_of(rows_of(results, file), settings)
        missing = [name for name in settings if name not in runs]
        note = f"Not run yet: {', '.join(missing)}; [{HOURS[file]}](#measure-it-yourself).\n"
        return "\n".join([*([table(columns, list(runs))] if runs else []), *([note] if missing else [])])

    return render


def runs_of(rows: Sequence[Row], settings: Sequence[str]) -> dict[str, list[Row]]:
    """The runs of each setting, whatever their seed, in the order of ``settings``.

    Raises ``ValueError`` for rows of different studies or images, and for runs of a setting that differ in anything but
    their seeds.
    """
    if len({(row["study"], row["data_fingerprint"]) for row in rows}) > 1:
        raise ValueError(f"rows of different studies or images: {', '.join(row['setting'] for row in rows)}")
    runs = {name: [row for row in rows if re.fullmatch(rf"{name}(-seed\d+)?", row["setting"])] for name in settings}
    for name, own in runs.items():
        recipes = {json.dumps([row["model"], {**row["train"], "seed": None}], sort_keys=True) for row in own}
        seeds = [row["train"]["seed"] for row in own]
        if len(recipes) > 1 or len(set(seeds)) < len(seeds):
            raise ValueError(
                f"{name}: its runs must have one recipe and different seeds, not {len(recipes)} and {seeds}"
            )
    return {name: own for name, own in runs.items() if own}


def with_standard_error(runs: Sequence[Row]) -> str:
    """``12.34 ± 0.10``: the mean over the seeds and its standard error; of one seed that of the test images alone."""
    errors = [run["test_error_pct"] for run in runs]
    if len(errors) == 1:
        (error,), images = errors, runs[0]["test_images"]
        return f"{error:.2f} ± {sqrt(error * (100 - error) / images):.2f}"
    return f"{mean(errors):.2f} ± {stdev(errors) / sqrt(len(errors)):.2f}"


def day(runs: Sequence[Row]) -> str:
    return max(str(run["started_at"]) for run in runs)[:10]


def jumps(results: Results) -> str:
    """The training loss of every epoch and what it did at each drop, at G=C=4. The study holds no images out."""
    rows = [row for row in rows_of(results, SHORT) if row["setting"] == "g4-c4"]
    if not rows:
        return "Not run yet: g4-c4.\n"
    columns: Sequence[Column] = (
        ("Epoch", lambda epoch: f"{epoch[0]:.0f}"),
        ("Condensing stage", lambda epoch: f"{epoch[1]:.0f}"),
        ("Training loss", lambda epoch: f"{epoch[2]:.3f}"),
        ("Test error, %", lambda epoch: f"{epoch[4]:.2f}"),
        ("Kept connections, %", lambda epoch: f"{epoch[5]:.0f}"),
    )
    return f"{table(columns, rows[0]['curve'])}\n{at_the_drops(rows[0]['curve'])}\n"


def at_the_drops(curve: Sequence[Sequence[float]]) -> str:
    """What the training loss did in the epoch after each drop, in a sentence."""
    drops = [(before, after) for before, after in pairwise(curve) if after[1] > before[1]]
    rises = [
        f"drop {after[1]:.0f}, {before[2]:.3f} to {after[2]:.3f}" for before, after in drops if after[2] > before[2]
    ]
    named = f" ({'; '.join(rises)})" if rises else ""
    return f"In the epoch after a drop the loss is higher than before at {len(rises)} of {len(drops)} drops{named}."


def choices(results: Results) -> str:
    """Error, MACs and latency of every setting that was timed, and which of them no other beats."""
    rows = [row for row in rows_of(results, SHORT) if row.get("latency")]
    if not rows:
        return "Not run yet: `dvc repro benchmark`.\n"
    ratio = spread("ratio", "{:.2f}")
    front = pareto({row["setting"]: (row["test_error_pct"], row["macs"], row["latency"]["ratio"]) for row in rows})
    columns: Sequence[Column] = (
        ("Setting", text("setting")),
        ("Measured test error, %", lambda row: with_standard_error([row])),
        ("MACs, computed", lambda row: f"{row['macs'] / 1e6:.1f}M"),
        ("Measured ratio to MobileNetV1 (p10 to p90)", lambda row: ratio(row["latency"])),
        ("Unbeaten", lambda row: "yes" if row["setting"] in front else "no"),
    )
    by_error = sorted(rows, key=lambda row: float(row["test_error_pct"]))
    device = ", ".join(dict.fromkeys(str(row["latency"]["device"]) for row in rows))
    return f"{table(columns, by_error)}\n{device}, one thread, batch 1.\n"


def corrupted(results: Results) -> str:
    """Error and calibration error on clean and on corrupted test images, each corruption's mean over its severities."""
    rows = rows_of(results, CORRUPTIONS)
    if not rows:
        return "Not run yet: `python -m benchmarks.corruptions --settings g4-c1 g4-c4`.\n"

    def figure(setting: str, *corruptions: str, name: str = "error_pct") -> str:
        return f"{mean(mean_error(rows, setting, corruption, name) for corruption in corruptions):.2f}"

    names = [name for name in dict.fromkeys(row["corruption"] for row in rows) if name != CLEAN]
    columns: Sequence[Column] = (
        ("Setting", str),
        ("Clean test error, %", lambda setting: figure(setting, CLEAN)),
        *((name, partial(lambda name, setting: figure(setting, name), name)) for name in names),
        ("Mean corrupted error, %", lambda setting: figure(setting, *names)),
        ("Clean calibration error, %", lambda setting: figure(setting, CLEAN, name="calibration_error_pct")),
        ("Mean corrupted calibration error, %", lambda setting: figure(setting, *names, name="calibration_error_pct")),
    )
    return table(columns, list(dict.fromkeys(row["setting"] for row in rows)))


TABLES: dict[str, Callable[[Results], str]] = {
    "paper-cifar": cifar,
    "paper-others": others,
    "paper-imagenet": imagenet,
    "paper-arm": arm,
    "short-condensation": study(SHORT, "g4-c1", "g4-c2", "g4-c4", "g4-c8"),
    "short-groups": study(SHORT, "g1-c4", "g2-c4", "g4-c4", "g8-c4"),
    "short-learned": study(SHORT, "g4-c4", "random", "one-shot", "lasso"),
    "short-ablation": study(SHORT, "densenet-bc", "learned-groups", "increasing-growth", "g4-c4"),
    "short-choices": choices,
    "short-jumps": jumps,
    "few-labels": study(FEW, "g4-c1", "g4-c4"),
    "short-corruptions": corrupted,
}
