"""The figures of the report."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from tasks.report.figures import style
from tasks.report.figures.saving import to_svg
from tasks.report.figures.scatter import Point, scatter

REFERENCE = (0.62, "MobileNetV1")


def points(number: int) -> list[Point]:
    """Settings in four crowds, as in the studies on CIFAR."""
    random_ = random.Random(number)
    made = []
    for index in range(number):
        x, y = random_.uniform(0.9, 1.1) * (0.3 + 0.25 * (index % 4)), 5 + random_.uniform(-0.2, 0.4)
        whiskers = {"x_range": (0.95 * x, 1.2 * x), "y_range": (0.85 * y, 1.18 * y)}
        made.append(Point(name=f"densenet-bc-{index}", index=index, x=x, y=y, published=y + 0.1, **whiskers))
    return made


@pytest.mark.parametrize("number", [1, 4, 7, 12])
def test_labels_cover_neither_each_other_nor_a_mark(number: int) -> None:
    settings = points(number)
    with style.figure_style():
        figure = scatter(settings, x_label="latency, ms", reference=REFERENCE)
        figure.draw_without_rendering()
        (axes,) = figure.axes
        boxes = {text.get_text(): text.get_window_extent() for text in axes.texts}
        frame = axes.get_window_extent()
        marks = axes.transData.transform([(p.x, y) for p in settings for y in (p.y, p.published)])
    assert set(boxes) == {REFERENCE[1], *(point.name for point in settings)}
    assert [(one, other) for one, other in combinations(boxes, 2) if boxes[one].overlaps(boxes[other])] == []
    assert [name for name, box in boxes.items() for mark in marks if box.contains(*mark)] == []
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes.values())


def test_the_same_points_give_the_same_bytes() -> None:
    first, second = (to_svg(scatter(points(7), x_label="latency, ms", reference=REFERENCE), "a", "b") for _ in range(2))
    assert first == second
