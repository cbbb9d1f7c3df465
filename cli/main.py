"""The entry point. A user's mistake is one line on stderr and exit status 1."""

from __future__ import annotations

import os
import sys


def main() -> None:
    try:
        from cli.app import app
    except ImportError as error:
        sys.exit(f"error: the command needs typer: pip install 'condensenet[cli]' ({error})")
    from tasks.errors import UserError

    try:
        app()
    except (UserError, ValueError, ImportError, OSError) as error:  # the library's errors are one line too
        if os.environ.get("CONDENSENET_TRACEBACK"):
            raise
        from condensenet.text import message_of

        if isinstance(error, ModuleNotFoundError) and error.name:  # else it says itself what it lacks
            sys.exit(f"error: the command needs {error.name}: pip install 'condensenet[pipeline]'")
        sys.exit(f"error: {message_of(error)}")


if __name__ == "__main__":
    main()
