"""Numbers as text: units, few digits, and "not run" for what was not measured."""

from __future__ import annotations

NOT_RUN = "not run"
Number = str | int | float | None


def short_count(value: Number) -> str:
    """Three digits: 65816394 -> "65.8 M", 520202 -> "520 k"."""
    return _with_unit(value, ("G", "M", "k"), "")


def exact_count(value: Number) -> str:
    """All digits: "65,816,394"."""
    return NOT_RUN if value is None else f"{int(value):,}"


def published_count(value: float) -> str:
    """No more digits than were published: 65.8e6 -> "65.8 M", 4.2e6 -> "4.2 M", 9388e6 -> "9,388 M"."""
    return f"{value / 1e6:,.6g} M" if value < 1e9 else f"{value / 1e6:,.0f} M"


def file_size(value: Number) -> str:
    """Bytes in units of 1000: 152300 -> "152 kB"."""
    return _with_unit(value, ("GB", "MB", "kB"), " B")


def percent(value: Number) -> str:
    return NOT_RUN if value is None else f"{float(value):.2f}"


ratio = percent  # two decimals as well


def milliseconds(value: Number) -> str:
    """Three digits: 0.123, 1.23, 12.3, 123."""
    return NOT_RUN if value is None else _three_digits(float(value))


def small_difference(value: Number) -> str:
    """ "3.1e-07"; an exact zero is "0"."""
    if value is None:
        return NOT_RUN
    return "0" if float(value) == 0 else f"{float(value):.1e}"


def _three_digits(number: float) -> str:
    if number < 9.995:
        return f"{number:.3f}" if number < 0.9995 else f"{number:.2f}"
    return f"{number:.1f}" if number < 99.95 else f"{number:,.0f}"


def _with_unit(value: Number, units: tuple[str, str, str], no_unit: str) -> str:
    """The value in the largest of ``units`` (10**9, 10**6, 10**3) that fits, else whole with ``no_unit``."""
    if value is None:
        return NOT_RUN
    number = float(value)
    for unit, size in zip(units, (1e9, 1e6, 1e3), strict=True):
        if number >= 0.9995 * size:
            return f"{_three_digits(number / size)} {unit}"
    return f"{number:.0f}{no_unit}"
