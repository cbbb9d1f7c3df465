"""Checks of a configuration's fields. Each failure is one line: the field, its value and what is allowed."""

from __future__ import annotations

from dataclasses import fields
from numbers import Integral, Real
from typing import Any, Literal, get_args, get_origin, get_type_hints

from condensenet.text import shown


def require(condition: bool, message: str) -> None:
    """Raise ``ValueError(message)`` unless ``condition`` holds."""
    if not condition:
        raise ValueError(message)


def between(low: float, high: float, **values: float) -> None:
    """Raise ``ValueError`` for the first of ``values`` that is not in [low, high]; NaN is not."""
    for name, value in values.items():
        allowed = f"it must be {low} or more" if value < low else f"it must be in [{low}, {high}]"
        require(low <= value <= high, f"{name}={shown(value)} is not allowed: {allowed}")


def _is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    """Convert NumPy numbers to Python's and lists to tuples, so that equal configurations compare and save alike."""
    if isinstance(value, (list, tuple)):
        return tuple(_plain(entry) for entry in value)
    if type(value) in (bool, int, float) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


KINDS = {  # by annotation: what a value must be, in words, and a function that checks it
    "int": ("a whole number", _is_integer),
    "float": ("a number", _is_number),
    "int | None": (
        "null or a whole number",
        lambda value: value is None or _is_integer(value),
    ),
    "float | None": ("null or a number", lambda value: value is None or _is_number(value)),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "tuple[int, ...]": (
        "a list of whole numbers",
        lambda value: isinstance(value, (list, tuple)) and all(_is_integer(entry) for entry in value),
    ),
}


def check_type(kind: type, name: str, value: object) -> None:
    """Raise ``ValueError`` if ``value`` does not have the type of the field ``name`` of the configuration ``kind``."""
    hint, annotation = get_type_hints(kind)[name], kind.__annotations__[name]
    if get_origin(hint) is Literal:
        *others, last = get_args(hint)
        allowed = f"{', '.join(others)} or {last}" if others else last
        require(value in get_args(hint), f"{name}={shown(value)} is not allowed: {allowed}")
    if annotation in KINDS:
        words, is_kind = KINDS[annotation]
        require(is_kind(value), f"{name}={shown(value)} is not allowed: it must be {words}")


def check_types(config: Any) -> None:
    """Raise ``ValueError`` for values that do not have their field's type. ``__post_init__`` calls this first."""
    for field in fields(config):
        value = getattr(config, field.name)
        check_type(type(config), field.name, value)
        if field.type in KINDS:
            object.__setattr__(config, field.name, _plain(value))
