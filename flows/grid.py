"""A sweep's points: every combination of some values, each a setting of one study."""

from __future__ import annotations

import copy
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from ruamel.yaml import YAML

from flows.parameters import keys_of
from tasks import params, plain_yaml
from tasks.errors import UserError

SHORT = {"model.groups_1x1": "g", "model.condensation_factor": "c", "train.learning_rate": "lr", "train.epochs": "e"}
KEYS = keys_of("model", "train")
MAX_POINTS = 200
Point = Mapping[str, Any]  # by dotted key


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The text of ``params.yaml`` with a setting for each point, and the points that no network can have, with why."""

    study: str
    text: str
    settings: Sequence[str]
    impossible: Mapping[str, str] = field(default_factory=dict)


def compose(text: str, grid: Mapping[str, Sequence[Any]], base: str | None, study: str | None) -> Sweep:
    """The sweep over ``grid`` of the study that ``text`` describes.

    Every point starts from the setting ``base``, or from what all settings share. The study is called ``study``, or
    like the one it is made from with ``-sweep`` added. Raises ``UserError`` if no point is possible.
    """
    raw = plain_yaml.parse(text)
    if base is not None and base not in raw["settings"]:
        raise UserError(f"base={base!r} is not allowed: {', '.join(raw['settings'])}")
    own = raw["settings"][base] if base is not None else {}
    raw["study"] = study or f"{raw['study'].removesuffix('-sweep')}-sweep"
    settings, impossible = {}, {}
    for name, point in _named(points(grid)).items():
        setting = _setting(own, point)
        try:
            params.parse({**raw, "settings": {name: setting}})
            settings[name] = setting
        except ValueError as error:
            impossible[name] = str(error)
    if not settings:
        raise UserError(f"no point of the grid is possible: {'; '.join(dict.fromkeys(impossible.values()))}")
    raw["settings"] = settings
    file = io.StringIO()
    YAML().dump(raw, file)
    return Sweep(study=raw["study"], text=file.getvalue(), settings=tuple(settings), impossible=impossible)


def points(grid: Mapping[str, Sequence[Any]]) -> Iterator[Point]:
    """Every combination, the last key changing fastest. Raises ``UserError`` for more than 200.

    The keys are taken in the order of the types of ``params.yaml``: a server with PostgreSQL returns them in another
    order than one with SQLite, and the points' names follow it.
    """
    grid = {key: grid[key] for key in sorted(grid, key=_place)}
    count = 1
    for values in grid.values():
        count *= len(values)
    if count > MAX_POINTS:
        raise UserError(f"a grid of {count} points is not allowed: at most {MAX_POINTS}")
    for values in product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _place(key: str) -> tuple[int, str]:
    return (KEYS.index(key) if key in KEYS else len(KEYS), key)


def point_name(point: Point) -> str:
    """``g4-c2``, ``lr0_1``, ``block_depths6-6-6``: a name that a setting may have."""
    return "-".join(SHORT.get(key, key.partition(".")[2]) + _slug(value) for key, value in point.items())


def _named(all_points: Iterator[Point]) -> dict[str, Point]:
    named: dict[str, Point] = {}
    for point in all_points:
        name = point_name(point)
        if name in named:
            raise UserError(f"two points of the grid are called {name}: a value stands twice in it")
        named[name] = point
    return named


def _slug(value: object) -> str:
    text = "-".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return re.sub(r"[^A-Za-z0-9_-]", "_", text)


def _setting(own: Mapping[str, Any], point: Point) -> dict[str, Any]:
    setting = copy.deepcopy(dict(own))
    for key, value in point.items():
        section, _, name = key.partition(".")
        target = setting if section == "model" else setting.setdefault("train", {})
        target[name] = value
    return setting
