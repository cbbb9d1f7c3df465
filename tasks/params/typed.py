"""Checked dataclasses from YAML values, with one line that names the key, the value and what is allowed."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any, TypeVar, cast, get_type_hints

from pydantic import TypeAdapter, ValidationError

from condensenet.text import shown
from tasks.params.study import Setting
from tasks.plain_yaml import MAX_NAME

T = TypeVar("T")
EXPECTED = {  # for error types that pydantic words for Python programmers
    "string_pattern_mismatch": f"a letter, then letters, digits, - and _, at most {MAX_NAME} characters",
    "tuple_type": "it must be a list",
    "too_short": "it must not be empty",
}


def checked(kind: type[T], raw: object, key: str = "") -> T:
    """An instance of the dataclass ``kind`` from the YAML values ``raw`` at ``key``."""
    try:  # as JSON: pydantic's strict mode takes a list for a tuple, or a mapping for a dataclass, from JSON only
        instance: T = _adapter(cast("Any", kind)).validate_json(json.dumps(raw, default=str))
        return instance
    except ValidationError as error:
        first = min(error.errors(), key=lambda details: details["type"] == "missing")  # it may be a misspelt key
        raise ValueError(_message(first, kind, key)) from None


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _message(error: Any, kind: type, prefix: str) -> str:
    """One line about ``error``, one of those that pydantic reports when it checks ``kind``."""
    location = [str(part) for part in error["loc"]]
    of_model = kind is Setting and location[:1] == ["model"]  # a setting holds its model's keys
    own = location[1:] if of_model else location
    key = ".".join(part for part in (prefix, *own) if part)
    value = shown(error["input"])
    match error["type"]:
        case "missing":
            return f"{key} is missing"
        case "unexpected_keyword_argument":
            return f"unknown key {key}: allowed are {', '.join(_field_names(kind, location[:-1]))}"
        case "dataclass_type" | "dict_type":
            return f"{key or 'the file'} must be a mapping of keys to values, not {value}"
        case "json_invalid":
            return f"{key or 'the file'} is nested too deeply or has text that is not Unicode"
        case "value_error":
            return f"{key}: {error['ctx']['error']}"
    expected = EXPECTED.get(error["type"], error["msg"].replace("Input should", "it must"))
    subject = f"{location[0]}: name {value}" if "[key]" in location else f"{key}={value}"
    return f"{subject} is not allowed: {expected}"


def _field_names(kind: type, location: list[str]) -> list[str]:
    """The fields of the dataclass at ``location`` in the dataclass ``kind``."""
    for name in location:
        kind = get_type_hints(kind)[name]
    return [field.name for field in dataclasses.fields(kind)]
