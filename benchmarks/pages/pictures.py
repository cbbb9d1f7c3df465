"""What a drawn SVG file says, whatever fonts were installed where it was drawn."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

SVG = "{http://www.w3.org/2000/svg}"
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")
COLOUR = re.compile(r"\b(?:fill|stroke): ?[^;]+")
TOLERANCE = 0.002  # of the axes' width and height: an arrow's head, in points, is a larger share of smaller axes


class Shape(NamedTuple):
    """A line, a marker or an arrow: its colours, and its points as shares of the axes' width and height."""

    colours: tuple[str, ...]
    points: np.ndarray


def is_same(drawn: bytes, kept: bytes) -> bool:
    """Whether two pictures by matplotlib have the same texts, and the same shapes at the same places of their axes."""
    try:
        one, other = (ElementTree.fromstring(picture) for picture in (drawn, kept))
        ours, theirs = list(_shapes(one)), list(_shapes(other))
    except (ElementTree.ParseError, ValueError):  # no XML, or a place that is no number
        return False
    return (
        _texts(one) == _texts(other)
        and len(ours) == len(theirs)
        and all(_is_alike(a, b) for a, b in zip(ours, theirs, strict=True))
    )


def _is_alike(one: Shape, other: Shape) -> bool:
    return (
        one.colours == other.colours
        and one.points.shape == other.points.shape
        and np.allclose(one.points, other.points, rtol=0, atol=TOLERANCE)
    )


def _texts(picture: ElementTree.Element) -> list[str]:
    return ["".join(text.itertext()) for text in picture.iter(f"{SVG}text")]


def _shapes(picture: ElementTree.Element) -> Iterator[Shape]:
    """Those of all axes, in drawing order; the first path of axes is their frame."""
    for axes in picture.iter(f"{SVG}g"):
        if axes.get("id", "").startswith("axes_"):
            defined = {id(path) for group in axes.iter(f"{SVG}defs") for path in group.iter()}
            shapes = [shape for element in axes.iter() if id(element) not in defined for shape in _shape(element)]
            if shapes:
                low, high = shapes[0].points.min(axis=0), shapes[0].points.max(axis=0)
                yield from (shape._replace(points=(shape.points - low) / (high - low)) for shape in shapes)


def _shape(element: ElementTree.Element) -> list[Shape]:
    """The shape that an element draws, in the picture's units, if it draws one."""
    if element.tag == f"{SVG}path":
        numbers = NUMBER.findall(element.get("d", ""))
    elif element.tag == f"{SVG}use":
        numbers = [element.get("x", "0"), element.get("y", "0")]
    else:
        return []
    points = np.array(numbers, dtype=float).reshape(-1, 2)
    return [Shape(tuple(COLOUR.findall(element.get("style", ""))), points)]
