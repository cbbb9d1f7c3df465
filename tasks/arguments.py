"""The command line of a stage: a setting's name, or nothing."""

from __future__ import annotations

import sys
from pathlib import Path

from tasks import params
from tasks.errors import UserError
from tasks.params import Params, Setting


def no_arguments() -> None:
    """For a stage that has no setting: ``--help`` shows what it does, and any argument is an error."""
    names = Path(sys.argv[0]).with_suffix("").parts
    inside = names[len(names) - names[::-1].index("tasks") :] if "tasks" in names else names[-1:]
    usage = f"usage: python -m {'.'.join(('tasks', *inside)).removesuffix('.__main__')}"
    _help(usage)
    if sys.argv[1:]:
        raise UserError(f"{usage}, without {' '.join(sys.argv[1:])}")


def stage_arguments() -> tuple[Params, Setting]:
    """The parameters and the setting that the command line names."""
    usage = f"usage: python -m tasks.{Path(sys.argv[0]).stem} SETTING"
    _help(usage)
    study = params.load()
    if len(sys.argv) != 2:
        raise UserError(f"{usage}, one of {', '.join(study.settings)}")
    return study, study.setting(sys.argv[1])


def _help(usage: str) -> None:
    if set(sys.argv[1:]) & {"-h", "--help"}:
        print(f"{usage}\n\n{sys.modules['__main__'].__doc__}")
        sys.exit()
