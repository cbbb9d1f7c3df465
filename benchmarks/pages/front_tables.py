"""The tables and the picture at the top of README.md: what condensing is good for, at a glance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from benchmarks.pages.markdown import Column, Results, Row, maybe, rows_of, table
from benchmarks.pages.paper_tables import published
from tasks.networks import CONDENSENETS
from tasks.report.published import PublishedModel

FORMS = ("plain", "lowered", "native")
SHOWN = ("mobilenet_v1", "condensenet-74-g8", "condensenet-74-g4", "mobilenet_v3_large", "resnet18", "densenet121")
PUBLISHED_KEYS = {"densenet121": "densenet-121"}  # where the latency table uses torchvision's name


@dataclass(frozen=True)
class Network:
    """One network at 224x224: what is published of it, and its latencies by form on one core, measured here."""

    key: str
    published: PublishedModel
    forms: dict[str, Row]

    @property
    def is_ours(self) -> bool:
        return self.key in CONDENSENETS

    @property
    def macs(self) -> float:
        return float(next(iter(self.forms.values()))["macs"])

    @property
    def error_pct(self) -> float:
        return self.published.figures["imagenet_error_pct"]


def networks(results: Results) -> list[Network]:
    """Every network that was timed on one thread and whose error is published, by multiply-adds."""
    entries: dict[str, PublishedModel] = {}
    for entry in published().table("imagenet"):
        if entry.key is not None:
            entries.setdefault(entry.key, entry)
    found: dict[str, Network] = {}
    for row in rows_of(results, "latency_table"):
        key = str(row["model"])
        entry_or_none = entries.get(PUBLISHED_KEYS.get(key, key))
        if entry_or_none is None or "imagenet_error_pct" not in entry_or_none.figures:
            continue
        if row["threads"] == row["batch"] == 1 and row["form"] in FORMS:
            found.setdefault(key, Network(key, entry_or_none, {})).forms[row["form"]] = row
    return sorted(found.values(), key=lambda network: network.macs)


def front(results: Results) -> str:
    """A row for each of a few well-known networks; ours in bold."""
    by_key = {network.key: network for network in networks(results)}

    def bold(network: Network, text: str) -> str:
        return f"**{text}**" if network.is_ours and text else text

    columns: Sequence[Column] = (
        ("Network, 224×224", lambda network: bold(network, network.published.model)),
        ("MACs, counted", lambda network: bold(network, f"{network.macs / 1e6:,.0f}M")),
        ("ImageNet error, published, %", lambda network: f"{network.error_pct:.1f}"),
        ("Plain export, measured, ms", latency("plain")),
        ("Lowered, ms", latency("lowered")),
        ("Native, ms", lambda network: bold(network, latency("native")(network))),
    )
    rows = [by_key[key] for key in SHOWN if key in by_key]
    if not rows:
        return table(columns, rows)
    row = next(iter(rows[0].forms.values()))
    return (
        table(columns, rows)
        + f"\nMilliseconds: {row['device']}, one thread, batch 1, ONNX Runtime {row['onnxruntime']}, "
        f"median of {row['rounds']} rounds; in parentheses, times MobileNetV1, which ran in turn with each file.\n"
        + training_line(results)
    )


def training_line(results: Results) -> str:
    """How fast a network is trained where every instruction set may be used, beside the authors' algorithm."""
    row = _unlimited(results)
    if row is None:
        return ""
    return (
        f"\nTraining {row['model'].replace('condensenet', 'CondenseNet')}: {row['ours_images_per_s']:.0f} images/s, "
        f"**{row['ratio']:.1f} times** the {row['authors_images_per_s']:.0f} of the authors' algorithm, which ran in "
        f"turn with it ({row['device']}, {row['instruction_set']}, batches of {row['batch_size']}, averaged over the "
        "schedule; [more](#studies-on-real-data)).\n"
    )


def latency(form: str) -> Callable[[Network], str]:
    """Milliseconds and, in parentheses, times MobileNetV1; empty for a form that the network lacks."""

    def cell(network: Network) -> str:
        row = network.forms.get(form)
        return "" if row is None else f"{row['median_ms']:.2f} ({row['ratio_to_mobilenet_v1']:.2f}×)"

    return cell


def training_speed(results: Results) -> str:
    """Our training over the authors' algorithm, averaged over the schedule: a row for each instruction set."""
    shown = _unlimited(results)
    rows = [row for row in _schedules_on_cpus(results) if shown and row["device"] == shown["device"]]
    columns: Sequence[Column] = (
        ("Vectors", lambda row: str(row["instruction_set"])),
        ("With compiled kernels", lambda row: f"{row['ratio']:.1f}×"),
        ("Without them", lambda row: maybe(_without_kernels(row), "{:.1f}×")),
    )
    return table(columns, sorted(rows, key=lambda row: -float(row["ratio"])))


def _schedules_on_cpus(results: Results) -> list[Row]:
    rows = [row for row in rows_of(results, "train_throughput") if row["phase"] == "schedule"]
    return [row for row in rows if row["instruction_set"] is not None]


def _unlimited(results: Results) -> Row | None:
    """The first file's row in which a CPU was free to use all its instructions: one machine stands for the project."""
    return next((row for row in _schedules_on_cpus(results) if "limited" not in row["instruction_set"]), None)


def _without_kernels(row: Row) -> float | None:
    return None if row.get("kernels_ratio") is None else row["ratio"] / row["kernels_ratio"]


def draw(results: Results) -> bytes:
    """An SVG file: published error against counted multiply-adds, and against milliseconds measured here."""
    from tasks.report.figures import style

    drawn = networks(results)
    with style.figure_style():
        figure = style.new_figure(9.0, 4.0)
        by_macs, by_ms = figure.subplots(1, 2, sharey=True)
        for network in drawn:
            _point(by_macs, network, network.macs / 1e6)
            _forms(by_ms, network)
        by_macs.set(
            xscale="log", xlabel="multiply-adds, millions (counted)", ylabel="ImageNet top-1 error, % (published)"
        )
        by_ms.set(xscale="log", xlabel="ms on one core (measured): plain → lowered → native")
        for axes, ticks in ((by_macs, (100, 300, 1000, 3000)), (by_ms, (5, 10, 20, 50))):
            axes.margins(x=0.28, y=0.1)
            axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
            axes.minorticks_off()
        file = BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None}, facecolor="white")
    return file.getvalue()


def _look(network: Network) -> dict[str, Any]:
    from tasks.report.figures import style

    return {"color": style.colour(0) if network.is_ours else "0.45", "marker": "o" if network.is_ours else "s"}


def _point(axes: Any, network: Network, x: float, name: bool = True, **look: Any) -> None:
    axes.plot([x], [network.error_pct], linestyle="none", **{**_look(network), **look})
    if name:
        axes.annotate(
            network.published.model.replace(" (", "\n("),
            (x, network.error_pct),
            xytext=(-7, 0) if network.is_ours else (0, 6),
            textcoords="offset points",
            ha="right" if network.is_ours else "center",
            va="center" if network.is_ours else "bottom",
            fontsize=7,
            weight="bold" if network.is_ours else "normal",
        )


def _forms(axes: Any, network: Network) -> None:
    ms = [network.forms[form]["median_ms"] for form in FORMS if form in network.forms]
    if len(ms) > 1:
        axes.annotate(
            "",
            (ms[-1], network.error_pct),
            xytext=(ms[0], network.error_pct),
            arrowprops={"arrowstyle": "->", "color": _look(network)["color"]},
        )
    for value in ms[:-1]:
        _point(axes, network, value, name=False, markerfacecolor="white")
    _point(axes, network, ms[-1])


TABLES: dict[str, Callable[[Results], str]] = {"front": front, "training-speed": training_speed}
