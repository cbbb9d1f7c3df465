"""Errors that a user can cause, printed as one line without a traceback."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from condensenet.text import escaped, message_of


class UserError(Exception):
    """Its message is one line: what is wrong, with which value, and what is allowed."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; never empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def one_line() -> Iterator[None]:
    """Turn errors of the library about bad or missing input into a ``UserError``."""
    try:
        yield
    except (ValueError, ImportError, FileNotFoundError) as error:
        raise UserError(message_of(error)) from error


def run_main(main: Callable[[], None]) -> None:
    """Run a stage's ``main``; Ctrl-C becomes one line on stderr and exit status 130.

    A ``UserError``, or an error of the operating system (a disk that is full, a file where a folder should be), becomes
    one line and exit status 1; ``CONDENSENET_TRACEBACK`` shows where it came from.
    """
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except (UserError, OSError) as error:
        if os.environ.get("CONDENSENET_TRACEBACK"):
            raise
        sys.exit(f"error: {escaped(str(error))}")
