"""The training curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tasks.colours import SERIES
from tasks.report import formats
from tasks.report.figures import style
from tasks.report.figures.saving import ReportFigure
from tasks.report.results import SettingResult, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PER_FIGURE = 4  # settings
DASHES = (0, (2, 2))


def curve_figures(study: Study) -> list[ReportFigure]:
    """Loss and error by epoch, four settings in a figure, with the same axes in all of them."""
    results = [result for result in study.results if result.history]
    losses, top_error = _loss_range(results), _top_error(results)
    figures = []
    for start in range(0, len(results), PER_FIGURE):
        shown = results[start : start + PER_FIGURE]
        ends = "; ".join(map(_end_of_training, shown))
        figures.append(
            ReportFigure(
                key=f"curves-{start}",
                caption="Training curves" if start == 0 else "Training curves, continued",
                label=f"Loss and error by epoch. {ends}",
                figure=training_curves(shown, losses, top_error),
            )
        )
    return figures


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


def training_curves(results: Sequence[SettingResult], losses: tuple[float, float], top_error: float) -> Figure:
    """Loss (logarithmic) above error, a column for each setting, with a line wherever connections were dropped."""
    with style.figure_style():
        figure = style.new_figure(0.6 + 2.35 * len(results), 4.1)
        grid = figure.subplots(2, len(results), squeeze=False, sharex="col", sharey="row")
        for (loss, error), result in zip(grid.T, results, strict=True):
            loss.set_title(formats.shorten(result.name, 26), pad=18)
            _draw_curves(loss, result, "loss")
            _draw_curves(error, result, "error_pct")
            _name_condensing_stages(loss, result)
            error.set_xlabel("epoch")
            error.set_xlim(0, max(row["epoch"] for row in result.history) * 1.02)
        first_loss, first_error = grid[:, 0]
        first_loss.set(yscale="log", ylim=losses, ylabel="loss")
        first_loss.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        first_error.set(ylim=(0, top_error), ylabel="error (top-1), %")
        _draw_legend(figure, results)
    return figure


def _draw_curves(axes: Axes, result: SettingResult, quantity: str) -> None:
    epochs = [row["epoch"] for row in result.history]
    dots = "o" if len(epochs) == 1 else ""
    for colour, split in zip(SERIES, ("train", "validation"), strict=False):
        values = [row[f"{split}_{quantity}"] for row in result.history]
        axes.plot(epochs, values, marker=dots, markersize=4, color=colour)
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


def _draw_legend(figure: Figure, results: Sequence[SettingResult]) -> None:
    from matplotlib.lines import Line2D

    splits = " or ".join(sorted({result.validation_split for result in results}))
    handles = [
        Line2D([], [], color=SERIES[0], label="training images"),
        Line2D([], [], color=SERIES[1], label=f"{splits} images"),
    ]
    if any(result.dropping_epochs for result in results):
        label = "condensing stage (its number)"
        handles.append(Line2D([], [], color=style.MUTED, linewidth=0.9, linestyle=DASHES, label=label))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles) if len(results) > 1 else 1)
