"""The training curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tasks.colours import SERIES
from tasks.report.figures import saving, style
from tasks.report.figures.saving import ReportFigure
from tasks.report.results import SettingResult, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHES = (0, (2, 2))


def curve_figures(study: Study) -> list[ReportFigure]:
    """Loss and error by epoch, a figure for each setting, with the same axes in all of them."""
    results = [result for result in study.results if result.history]
    losses, top_error = _loss_range(results), _top_error(results)
    return [
        ReportFigure(
            key=f"curves-{result.name}",
            caption=result.name,
            label=f"Loss and error by epoch. {_end_of_training(result)}",
            figure=training_curves(result, losses, top_error),
            setting=result.name,
        )
        for result in results
    ]


def _end_of_training(result: SettingResult) -> str:
    error = result.history[-1]["validation_error_pct"]
    return f"{result.name} ends at {error:.2f}% on {result.validation_split} images"


def _sorted_values(results: Sequence[SettingResult], quantity: str) -> list[float]:
    names = (f"train_{quantity}", f"validation_{quantity}")
    values = [row[name] for result in results for row in result.history for name in names]
    return sorted(value for value in values if 0 <= value < float("inf"))


def _loss_range(results: Sequence[SettingResult]) -> tuple[float, float]:
    """The limits of the logarithmic loss axis."""
    values = [value for value in _sorted_values(results, "loss") if value > 1e-6] or [0.1, 1.0]
    return values[0] / 1.3, values[-1] * 1.3


def _top_error(results: Sequence[SettingResult]) -> float:
    """The upper limit of the error axis: the first epochs, near chance, must not flatten all the rest."""
    values = _sorted_values(results, "error_pct") or [100.0]
    return min(100.0, max(1.3 * values[int(0.88 * (len(values) - 1))], 2.0))


def training_curves(result: SettingResult, losses: tuple[float, float], top_error: float) -> Figure:
    """Loss (logarithmic) above error, with a line wherever connections were dropped."""
    with style.figure_style():
        figure = style.new_figure(3.2, 4.4)
        loss, error = figure.subplots(2, 1, sharex=True)
        _draw_curves(loss, result, "loss")
        _draw_curves(error, result, "error_pct")
        _name_condensing_stages(loss, result)
        loss.set(yscale="log", ylim=losses, ylabel="loss")
        loss.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        error.set(ylim=(0, top_error), xlabel="epoch", ylabel="error (top-1), %")
        error.set_xlim(0, max(row["epoch"] for row in result.history) * 1.02)
        _draw_legend(figure, result)
    return figure


def _draw_curves(axes: Axes, result: SettingResult, quantity: str) -> None:
    epochs = [row["epoch"] for row in result.history]
    dots = "o" if len(epochs) == 1 else ""
    for colour, split in zip(SERIES, ("train", "validation"), strict=False):
        values = [row[f"{split}_{quantity}"] for row in result.history]
        name = "training" if split == "train" else result.validation_split
        unit = "%" if quantity == "error_pct" else ""
        (line,) = axes.plot(epochs, values, marker=dots, markersize=4, color=colour)
        saving.explain(line, f"{name} {quantity.removesuffix('_pct')}, last epoch: {values[-1]:.4g}{unit}")
    for epoch, _ in result.dropping_epochs:  # a line in the middle of the epoch
        axes.axvline(epoch - 0.5, color=style.MUTED, linewidth=0.9, linestyle=DASHES, zorder=0)
    style.only_grid(axes, "y")


def _name_condensing_stages(axes: Axes, result: SettingResult) -> None:
    """The number of the condensing stage above the line of each epoch that dropped connections."""
    for epoch, condensing_stage in result.dropping_epochs:
        axes.annotate(
            str(condensing_stage),
            (epoch - 0.5, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
            color=style.MUTED,
        )


def _draw_legend(figure: Figure, result: SettingResult) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=SERIES[0], label="training images"),
        Line2D([], [], color=SERIES[1], label=f"{result.validation_split} images"),
    ]
    if result.dropping_epochs:
        label = "condensing stage (its number)"
        handles.append(Line2D([], [], color=style.MUTED, linewidth=0.9, linestyle=DASHES, label=label))
    figure.legend(handles=handles, loc="outside lower center", ncols=1)
