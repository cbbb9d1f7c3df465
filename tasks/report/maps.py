"""The maps of kept connections: layer by source, and every single input by group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tasks.report import drawing
from tasks.report.connections import LayerConnections, source_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STRIP_COLOUR = (0x3B, 0x82, 0xC4)  # legible on white and on black: an image cannot follow the page's scheme
MAX_LABELS = 20


def layer_map(layers: Sequence[LayerConnections]) -> Figure:
    """Source by layer: the share of connections kept and, if known, the mean absolute weight.

    The darker a cell, the more the layer (column) reads of the source (row); an empty cell is a source that the
    layer cannot see or has dropped whole.
    """
    weights = [layer.weights() for layer in layers]
    panels = [("share of connections kept", [layer.kept_shares() for layer in layers])]
    if all(values is not None for values in weights):
        panels.append(("mean absolute weight, relative to the layer's largest", weights))  # type: ignore[arg-type]
    size = min(4.6, 1.6 + 0.28 * len(layers))
    with drawing.style():
        figure = drawing.new_figure((size + 0.55) * len(panels), size + 0.3)
        for axes, (title, values) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _draw_map(axes, layers, values)
            axes.set_title(title, weight="normal", fontsize=8.5)
    return figure


def _draw_map(axes: Axes, layers: Sequence[LayerConnections], values: Sequence[Sequence[float]]) -> None:
    from matplotlib.patches import Rectangle

    names = source_names(list(layers))
    row_of = {name: row for row, name in enumerate(names)}
    for column, (layer, shares) in enumerate(zip(layers, values, strict=True)):
        for source, share in zip(layer.sources, shares, strict=True):
            corner = (column + 0.04, row_of[source.name] + 0.04)
            axes.add_patch(Rectangle(corner, 0.92, 0.92, facecolor=drawing.GRID, alpha=0.45, linewidth=0))
            if share > 0:
                opacity = round(0.08 + 0.92 * share, 2)
                axes.add_patch(Rectangle(corner, 0.92, 0.92, facecolor=drawing.SERIES[0], alpha=opacity, linewidth=0))
    axes.set_xlim(0, len(layers))
    axes.set_ylim(len(names), 0)
    axes.set_aspect("equal")
    drawing.only_grid(axes, None)
    for spine in axes.spines.values():
        spine.set_visible(False)
    _name_ticks(axes, [layer.name for layer in layers], names)


def _name_ticks(axes: Axes, layers: Sequence[str], sources: Sequence[str]) -> None:
    """Name every layer, or with many of them the first one of each block."""
    axes.set_xlabel("layer (block.layer)")
    axes.set_ylabel("source of its inputs")
    for axis, names in ((axes.xaxis, layers), (axes.yaxis, sources)):
        shown = [i for i, name in enumerate(names) if len(names) <= MAX_LABELS or _is_first(name)]
        axis.set_ticks([i + 0.5 for i in shown], [names[i] for i in shown])
        axis.set_tick_params(length=0)
    if any(len(name) > 3 for name in layers):
        axes.tick_params(axis="x", labelrotation=90)


def _is_first(name: str) -> bool:
    return name.endswith(".1") or not name[-1].isdigit() or name.startswith("t")


def kept_strips(layers: Sequence[LayerConnections]) -> Figure:
    """A strip a layer, a row a group in it, a column an input channel; coloured where the group keeps the input."""
    import numpy as np

    gap = 2
    width = max(layer.layer.in_channels for layer in layers)
    height = sum(len(layer.layer.kept) + gap for layer in layers) - gap
    image = np.zeros((height, width, 4), dtype=np.uint8)
    centres, top = [], 0
    for layer in layers:
        groups = len(layer.layer.kept)
        image[top : top + groups, : layer.layer.in_channels] = (128, 128, 128, 48)
        for row, channels in enumerate(layer.layer.kept, top):
            image[row, list(channels)] = (*STRIP_COLOUR, 255)
        centres.append(top + groups / 2)
        top += groups + gap
    with drawing.style():
        figure = drawing.new_figure(8.6, min(11.0, 0.75 + max(0.05 * height, 0.17 * len(layers))))
        axes = figure.subplots()
        axes.imshow(image, interpolation="none", aspect="auto", extent=(0, width, height, 0))
        _strip_axes(axes, layers, centres)
        _block_borders(axes, layers[-1])
    return figure


def _strip_axes(axes: Axes, layers: Sequence[LayerConnections], centres: Sequence[float]) -> None:
    """Layers by name on the left, block borders of the input channels along the bottom."""
    drawing.only_grid(axes, None)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_yticks(centres, [layer.name for layer in layers], fontsize=8 if len(layers) <= 40 else 6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("input channel, in the order in which the network makes them")
    axes.set_ylabel("layer (a row for each group)")


def _block_borders(axes: Axes, last: LayerConnections) -> None:
    """Where the features of each block begin; only in a network whose features keep their place to the end."""
    starts: dict[str, int] = {}
    for source in last.sources:
        starts.setdefault(source.name.split(".")[0], source.start)
    if "stem" not in starts:
        return
    for name, start in starts.items():
        if start > 0:
            axes.axvline(start, color=drawing.MUTED, linewidth=0.6, linestyle=(0, (2, 2)))
        label = name if name == "stem" else f"block {name}"
        axes.annotate(
            label,
            (start, 1),
            xycoords=("data", "axes fraction"),
            xytext=(2, 3),
            textcoords="offset points",
            fontsize=7.5,
            color=drawing.MUTED,
        )
