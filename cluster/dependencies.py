"""Print what pyproject.toml asks for, without the project itself, so that an image can install it before the code.

    python cluster/dependencies.py pipeline cluster kubernetes > requirements.txt

Needs nothing but Python: it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(prog="python cluster/dependencies.py", description=__doc__.splitlines()[0])
    parser.add_argument("extras", nargs="*", metavar="EXTRA")
    extras = parser.parse_args().extras
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    print(*dict.fromkeys(dependencies(project, extras)), sep="\n")


def dependencies(project: dict[str, Any], extras: list[str]) -> Iterator[str]:
    """The requirements of ``project`` with ``extras``; an extra of its own is replaced by what that asks for."""
    yield from project["dependencies"]
    for extra in extras:
        for requirement in project["optional-dependencies"][extra]:
            own = re.fullmatch(rf"{project['name']}\[(.+)\]", requirement)
            yield from dependencies(project, own[1].split(",")) if own else (requirement,)


if __name__ == "__main__":
    main()
