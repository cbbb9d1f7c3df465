"""Errors that a user can cause, printed as one line without a traceback."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable


class UserError(Exception):
    """Its message is one line: what is wrong, with which value, and what is allowed."""


def run_main(main: Callable[[], None]) -> None:
    """Run a stage's ``main``; a ``UserError`` becomes one line on stderr and exit status 1, Ctrl-C one and 130."""
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except UserError as error:
        if os.environ.get("CONDENSENET_TRACEBACK"):
            raise
        sys.exit(f"error: {error}")
