"""Metrics as the store has them: grouped by a prefix, which MLflow's UI folds, and with the digits that mean something.

The outputs of the stages keep the plain names and every digit.
"""

from __future__ import annotations

GROUPS = ("test", "train", "validation", "latency")
NAMES = {
    "macs": "cost/macs",
    "paper_flops": "cost/paper_flops",
    "params": "cost/params",
    "file_bytes": "export/file_bytes",
    "max_relative_difference": "export/max_relative_difference",
    "seconds": "train/epoch_seconds",
    "train_seconds": "train/seconds",
}
DIGITS = 4  # of what is measured by a clock, and of losses


def in_store(name: str) -> str:
    """The name of a metric in the store: ``test_error_pct`` -> ``test/error_pct``; one with a group stays as it is."""
    if "/" in name:
        return name
    group, _, rest = name.partition("_")
    return NAMES.get(name) or (f"{group}/{rest}" if group in GROUPS else f"train/{name}")


def rounded(name: str, value: float) -> float:
    """Percentages with two decimals, counts and the learning rate as they are, anything else with four digits."""
    if "_pct" in name:
        return round(value, 2)
    is_exact = float(value).is_integer() or name == "learning_rate"
    return value if is_exact else float(f"{value:.{DIGITS}g}")
