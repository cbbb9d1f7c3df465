"""Numbers as a reader wants them: units, few digits, "not run" where there is nothing."""

from __future__ import annotations

from math import sqrt

NOT_RUN = "not run"
Number = str | int | float | None


def count(value: Number) -> str:
    """65816394 -> "65.8 M"; 520202 -> "520 k"; three digits are kept."""
    return _in_units(value, ("G", "M", "k"), "")


def published_count(value: float) -> str:
    """As it was published, with no digit added: 65.8e6 -> "65.8 M", 4.2e6 -> "4.2 M", 9388e6 -> "9,388 M"."""
    return f"{value / 1e6:,.6g} M" if value < 1e9 else f"{value / 1e6:,.0f} M"


def file_size(value: Number) -> str:
    """Bytes in units of 1000: 152300 -> "152 kB"."""
    return _in_units(value, ("GB", "MB", "kB"), " B")


def percent(value: Number) -> str:
    return NOT_RUN if value is None else f"{float(value):.2f}"


def milliseconds(value: Number) -> str:
    """Three digits: 0.123, 1.23, 12.3, 123."""
    return NOT_RUN if value is None else _three_digits(float(value))


def ratio(value: Number) -> str:
    return NOT_RUN if value is None else f"{float(value):.2f}"


def grouped(value: Number) -> str:
    """The exact number with thousands separated: "65,816,394"."""
    return NOT_RUN if value is None else f"{int(value):,}"


def small(value: Number) -> str:
    """A tiny difference: "3.1e-07"; an exact zero is "0"."""
    if value is None:
        return NOT_RUN
    return "0" if float(value) == 0 else f"{float(value):.1e}"


def shorten(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def wilson_interval_pct(error_pct: float, images: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% interval of an error measured on ``images`` images, in percent.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    p = error_pct / 100
    centre = p + z * z / (2 * images)
    spread = z * sqrt(p * (1 - p) / images + z * z / (4 * images * images))
    scale = 1 + z * z / images
    return max(0.0, 100 * (centre - spread) / scale), min(100.0, 100 * (centre + spread) / scale)


def _three_digits(number: float) -> str:
    if number < 9.995:
        return f"{number:.3f}" if number < 0.9995 else f"{number:.2f}"
    return f"{number:.1f}" if number < 99.95 else f"{number:,.0f}"


def _in_units(value: Number, units: tuple[str, str, str], none: str) -> str:
    """Three digits and the largest of ``units`` (10**9, 10**6, 10**3) that fits; whole and with ``none`` below."""
    if value is None:
        return NOT_RUN
    number = float(value)
    for unit, size in zip(units, (1e9, 1e6, 1e3), strict=True):
        if number >= 0.9995 * size:
            return f"{_three_digits(number / size)} {unit}"
    return f"{number:.0f}{none}"
