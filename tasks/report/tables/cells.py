"""What a table consists of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tasks.report import formats
from tasks.report.results import Json, SettingResult, Study

DASH = "–"


@dataclass(frozen=True)
class Cell:
    """A value as text, with smaller print below it; ``index`` is a setting's number, which picks its colour.

    Where there is only one line, a line break in ``detail`` becomes a comma.
    """

    text: str
    detail: str = ""
    index: int | None = None

    @property
    def is_missing(self) -> bool:
        return self.text == formats.NOT_RUN


@dataclass(frozen=True)
class Column:
    title: str
    unit: str = ""
    is_text: bool = False
    is_published: bool = False  # set apart from what was measured


@dataclass(frozen=True)
class Table:
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()


SETTING = Column("setting", is_text=True)
NOT_RUN = Cell(formats.NOT_RUN)


def make_cells(values: Iterable[Cell | str]) -> list[Cell]:
    return [value if isinstance(value, Cell) else Cell(value) for value in values]


def setting_rows(study: Study, values_of: Callable[[SettingResult], Iterable[Cell | str]]) -> list[list[Cell]]:
    """A row for each setting, with its name before ``values_of`` it."""
    return [[Cell(result.name, index=i), *make_cells(values_of(result))] for i, result in enumerate(study.results)]


def setting_groups(
    study: Study, width: int, rows_of: Callable[[SettingResult], Iterable[Iterable[Cell | str]]]
) -> list[list[Cell]]:
    """Several rows for each setting; a setting without any has one row of ``width`` cells that says "not run"."""
    not_run = [NOT_RUN] * (width - 1)
    return [
        [Cell(result.name, index=index), *make_cells(values)]
        for index, result in enumerate(study.results)
        for values in list(rows_of(result)) or [not_run]
    ]


def percentiles(row: Json | None, prefix: str, number_format: Callable[[float], str], suffix: str = "") -> str:
    """The 10th to 90th percentile of a latency's row: "0.304–0.352"."""
    if row is None:
        return ""
    return "–".join(number_format(row[f"{prefix}{edge}{suffix}"]) for edge in ("p10", "p90"))
