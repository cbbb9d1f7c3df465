"""The maps of kept connections: layer by source, and every single input by group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.report.connections import LayerConnections, layer_connections, source_names
from tasks.report.figures import style
from tasks.report.figures.saving import ReportFigure
from tasks.report.results import SettingResult, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAP_COLOUR = (0x2F, 0x80, 0xC8)  # legible on white and on black: an image cannot follow the page's colour scheme
UNUSED = (128, 128, 128, 48)
CELL = 12  # pixels, one of them the gap to the next cell
MAX_LABELS = 20
LONG_STRIPS = 12  # layers


def connection_figures(study: Study) -> list[ReportFigure]:
    """For each setting the map of layers and sources, and the strips of all inputs."""
    return [figure for result in study.results if result.kept for figure in _setting_figures(result)]


def _setting_figures(result: SettingResult) -> list[ReportFigure]:
    layers = layer_connections(result.setting.model, result.kept)
    density = sum(layer.density for layer in layers) / len(layers)
    description = f"{result.name}: {len(layers)} layers keep {100 * density:.0f}% of their connections on average"
    layer_figure = ReportFigure(
        key=f"map-{result.name}",
        caption="Layer by source",
        label=f"Map of kept connections, layer by source. {description}",
        figure=layer_map(layers),
        setting=result.name,
    )
    if result.setting.model.condensation_factor == 1:  # every input is kept
        return [layer_figure]
    strips = ReportFigure(
        key=f"strips-{result.name}",
        caption="All inputs, by group",
        label=f"Kept inputs of every layer, a row for each group. {description}",
        figure=kept_strips(layers),
        setting=result.name,
        is_folded=len(layers) > LONG_STRIPS,
    )
    return [layer_figure, strips]


def layer_map(layers: Sequence[LayerConnections]) -> Figure:
    """Source by layer: the share of connections kept and, if known, the mean absolute weight.

    The stronger the colour, the more the layer (column) reads from the source (row). A grey cell is a source that was
    dropped entirely; no cell means that the source comes after the layer.
    """
    weights = [shares for layer in layers if (shares := layer.source_weights()) is not None]
    panels = [("share of connections kept (full colour: all)", [layer.source_densities() for layer in layers])]
    if len(weights) == len(layers):
        panels.append(("mean absolute weight (full colour: the layer's largest)", weights))
    size = min(4.6, 1.6 + 0.28 * len(layers))
    with style.figure_style():
        figure = style.new_figure((size + 0.55) * len(panels), size + 0.3)
        for axes, (title, values) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _draw_map(axes, layers, values)
            axes.set_title(title, weight="normal", fontsize=8.5)
    return figure


def _draw_map(axes: Axes, layers: Sequence[LayerConnections], values: Sequence[Sequence[float]]) -> None:
    names = source_names(list(layers))
    axes.imshow(_map_image(layers, names, values), interpolation="none", extent=(0, len(layers), len(names), 0))
    axes.set_aspect("equal")
    style.only_grid(axes, None)
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
    """The names of all layers and sources; of many only the first in each block."""
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
    """A strip for each layer, with a row for each group; an input channel is coloured where the group keeps it."""
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
    with style.figure_style():
        figure = style.new_figure(8.6, min(11.0, 0.75 + max(0.05 * height, 0.17 * len(layers))))
        axes = figure.subplots()
        axes.imshow(image, interpolation="none", aspect="auto", extent=(0, width, height, 0))
        _strip_axes(axes, layers, centres)
        _block_borders(axes, layers[-1])
    return figure


def _strip_axes(axes: Axes, layers: Sequence[LayerConnections], centres: Sequence[float]) -> None:
    """Layer names on the left."""
    style.only_grid(axes, None)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_yticks(centres, [layer.name for layer in layers], fontsize=8 if len(layers) <= 40 else 6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("input channel, in the order the network creates them")
    axes.set_ylabel("layer")


def _block_borders(axes: Axes, last: LayerConnections) -> None:
    """Where the features of each block begin, in a network that keeps all features to the end."""
    starts: dict[str, int] = {}
    for source in last.sources:
        starts.setdefault(source.name.split(".")[0], source.start)
    if "stem" not in starts:
        return
    edges = [*starts.values(), last.layer.in_channels]
    for (name, start), end in zip(starts.items(), edges[1:], strict=True):
        if start > 0:
            axes.axvline(start, color=style.MUTED, linewidth=0.6, linestyle=(0, (2, 2)))
        if end - start < 0.07 * edges[-1]:
            continue  # no room for its name
        axes.annotate(
            name if name == "stem" else f"block {name}",
            (start, 1),
            xycoords=("data", "axes fraction"),
            xytext=(2, 3),
            textcoords="offset points",
            fontsize=7.5,
            color=style.MUTED,
        )
