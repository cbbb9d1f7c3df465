"""The maps of kept connections: layer by source, and every single input by group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.report import drawing
from tasks.report.connections import LayerConnections, source_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAP_COLOUR = (0x2F, 0x80, 0xC8)  # legible on white and on black: an image cannot follow the page's scheme
UNUSED = (128, 128, 128, 48)
CELL = 12  # pixels, one of them the gap to the next cell
MAX_LABELS = 20


def layer_map(layers: Sequence[LayerConnections]) -> Figure:
    """Source by layer: the share of connections kept and, if known, the mean absolute weight.

    The stronger a cell, the more the layer (column) reads of the source (row); a grey cell is a source that was
    dropped whole, and where there is none the source comes after the layer.
    """
    weights = [layer.weights() for layer in layers]
    panels = [("share of connections kept (full colour: all)", [layer.kept_shares() for layer in layers])]
    if all(values is not None for values in weights):
        panels.append(("mean absolute weight (full colour: the layer's largest)", weights))  # type: ignore[arg-type]
    size = min(4.6, 1.6 + 0.28 * len(layers))
    with drawing.style():
        figure = drawing.new_figure((size + 0.55) * len(panels), size + 0.3)
        for axes, (title, values) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _draw_map(axes, layers, values)
            axes.set_title(title, weight="normal", fontsize=8.5)
    return figure


def _draw_map(axes: Axes, layers: Sequence[LayerConnections], values: Sequence[Sequence[float]]) -> None:
    names = source_names(list(layers))
    axes.imshow(_map_image(layers, names, values), interpolation="none", extent=(0, len(layers), len(names), 0))
    axes.set_aspect("equal")
    drawing.only_grid(axes, None)
    for spine in axes.spines.values():
        spine.set_visible(False)
    _name_ticks(axes, [layer.name for layer in layers], names)


def _map_image(layers: Sequence[LayerConnections], names: Sequence[str], values: Sequence[Sequence[float]]) -> Any:
    """The cells as pixels, (height, width, RGBA): an image, since a deep network has thousands of cells."""
    import numpy as np

    row_of = {name: row for row, name in enumerate(names)}
    image = np.zeros((len(names) * CELL, len(layers) * CELL, 4), dtype=np.uint8)
    for column, (layer, shares) in enumerate(zip(layers, values, strict=True)):
        for source, share in zip(layer.sources, shares, strict=True):
            top, left = row_of[source.name] * CELL, column * CELL
            colour = (*MAP_COLOUR, round(255 * (0.1 + 0.9 * share))) if share > 0 else UNUSED
            image[top : top + CELL - 1, left : left + CELL - 1] = colour
    return image


def _name_ticks(axes: Axes, layers: Sequence[str], sources: Sequence[str]) -> None:
    """Name every layer, or with many of them the first one of each block."""
    axes.set_xlabel("layer (block.layer)")
    axes.set_ylabel("source of its inputs")
    for axis, names in ((axes.xaxis, layers), (axes.yaxis, sources)):
        shown = [i for i, name in enumerate(names) if len(names) <= MAX_LABELS or _is_first(name)]
        axis.set_ticks([i + 0.5 for i in shown], [names[i] for i in shown])
        axis.set_tick_params(length=0)
    if any(len(label.get_text()) > 3 for label in axes.get_xticklabels()):
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
        image[top : top + groups, : layer.layer.in_channels] = UNUSED
        for row, channels in enumerate(layer.layer.kept, top):
            image[row, list(channels)] = (*MAP_COLOUR, 255)
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
    axes.set_ylabel("layer")


def _block_borders(axes: Axes, last: LayerConnections) -> None:
    """Where the features of each block begin; only in a network whose features keep their place to the end."""
    starts: dict[str, int] = {}
    for source in last.sources:
        starts.setdefault(source.name.split(".")[0], source.start)
    if "stem" not in starts:
        return
    edges = [*starts.values(), last.layer.in_channels]
    for (name, start), end in zip(starts.items(), edges[1:], strict=True):
        if start > 0:
            axes.axvline(start, color=drawing.MUTED, linewidth=0.6, linestyle=(0, (2, 2)))
        if end - start < 0.07 * edges[-1]:
            continue  # no room for its name
        axes.annotate(
            name if name == "stem" else f"block {name}",
            (start, 1),
            xycoords=("data", "axes fraction"),
            xytext=(2, 3),
            textcoords="offset points",
            fontsize=7.5,
            color=drawing.MUTED,
        )
