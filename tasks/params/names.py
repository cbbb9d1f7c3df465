"""The names of studies and settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from condensenet.config.checks import require
from tasks.plain_yaml import MAX_NAME

# Names become parts of file names, which may have 255 characters, and stand in YAML files without quotes: a YAML parser
# reads 010, 1e5 and, by version 1.1, "no" as something else than text.
NAME_PATTERN = f"^[A-Za-z][A-Za-z0-9_-]{{0,{MAX_NAME - 1}}}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
NOT_NAMES = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")


def check_name(name: str, key: str) -> None:
    is_text = name.casefold() not in NOT_NAMES
    require(is_text, f"{key}={name!r} is not allowed: without quotes it would be a truth value or null in YAML")


def check_names(names: Iterable[str]) -> None:
    """Some file systems do not tell ``A`` from ``a``, and the outputs of each setting need a folder."""
    seen: dict[str, str] = {}
    for name in names:
        check_name(name, "settings: name")
        other = seen.setdefault(name.casefold(), name)
        differs = "is not allowed: they differ in case only"
        require(other == name, f"settings: name {name!r} beside {other!r} {differs}")
