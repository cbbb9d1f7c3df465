"""YAML 1.2 files of plain data, as DVC reads them (1e-4 is a number, 010 is ten), whoever wrote them.

What a file will take is known before anything is made of it: a few aliases can stand for billions of values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, NodeEvent

from condensenet.config.checks import require
from condensenet.files import read_regular
from condensenet.text import MAX_BITS, message_of, shown

MAX_BYTES = 2**18  # the parser reads some 200 kB in a second; the largest study in conf/ has 4 kB
MAX_VALUES = 10_000  # aliases count as often as they are used
MAX_DEPTH = 32  # of lists and mappings within one another
MAX_NAME = 100  # characters of a key
MAX_TEXT = 4_096  # characters of any other text, among them paths (Linux: PATH_MAX)
REFERENCE = "${"  # to another value or the environment: Hydra would replace it where the file is overridden
MAX_REASON = 300  # characters of the parser's own message


def load(path: Path) -> Any:
    """The content of the file at ``path``; raises ``OSError`` and, in one line that names it, ``ValueError``."""
    content = read_regular(path, MAX_BYTES)
    try:
        return parse(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parse(content: bytes | str) -> Any:
    """The content of a YAML file; raises ``ValueError`` in one line."""
    require(len(content) <= MAX_BYTES, f"it has more than {MAX_BYTES} bytes")
    try:
        text = content if isinstance(content, str) else content.decode()
        problem = _problem(text)
        value = None if problem else YAML(typ="safe", pure=True).load(text)
    except Exception as error:  # a tag that contradicts its value ends the parser with errors of many kinds
        reason = message_of(error)[:MAX_REASON]
        raise ValueError(f"it is not valid YAML: {reason}") from None
    if problem:
        raise ValueError(problem)
    return value


def _problem(text: str) -> str | None:
    """Why the file is not to be read: how deep it is and how many values it holds with all aliases resolved."""
    sizes: dict[str, int] = {}  # of anchored values
    open_: list[tuple[str | None, int]] = []  # (anchor, values so far) of the collections around the current event
    total = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        if isinstance(event, CollectionStartEvent):
            open_.append((event.anchor, 0))
            if len(open_) > MAX_DEPTH:
                return f"it is nested too deeply: at most {MAX_DEPTH} lists and mappings within one another"
            continue
        if isinstance(event, CollectionEndEvent):
            anchor, size = open_.pop()
        elif isinstance(event, AliasEvent):
            anchor, size = None, sizes.get(event.anchor, MAX_VALUES)  # unknown: it holds itself
        elif isinstance(event, NodeEvent):
            anchor, size = event.anchor, 0
        else:
            continue
        size += 1
        if anchor is not None:
            sizes[anchor] = size
        if open_:
            open_[-1] = (open_[-1][0], open_[-1][1] + size)
        total = max(total, size)
        if max(total, *(inner for _, inner in open_), 0) > MAX_VALUES:
            return f"it has more than {MAX_VALUES} values"
    return None


def check_plain(raw: object) -> None:
    """Raise ``ValueError`` for keys other than short strings and for values that no parameter can have, by its key."""
    pending: list[tuple[str, object]] = [("", raw)]
    count = 0
    while pending:
        key, value = pending.pop()
        count += 1
        require(count <= MAX_VALUES, f"it has more than {MAX_VALUES} values")
        if isinstance(value, dict):
            for name in value:
                require(isinstance(name, str), f"key {shown(name)} is not allowed: it must be a string")
                fits = name.isprintable() and len(name) <= MAX_NAME
                require(fits, f"key {shown(name)} is not allowed: at most {MAX_NAME} characters, all printable")
            pending.extend((f"{key}.{name}" if key else name, item) for name, item in value.items())
        elif isinstance(value, list):
            pending.extend((f"{key}.{index}", item) for index, item in enumerate(value))
        elif isinstance(value, str):
            fits = value.isprintable() and len(value) <= MAX_TEXT
            require(fits, f"{key}={shown(value)} is not allowed: at most {MAX_TEXT} characters, all printable")
            require(REFERENCE not in value, f"{key}={shown(value)} is not allowed: ${{...}} is not replaced here")
        elif isinstance(value, int):
            require(value.bit_length() <= MAX_BITS, f"{key}={shown(value)} is not allowed: it is too large")
