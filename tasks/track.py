"""Deliver to the tracking store what could not be delivered before: ``python -m tasks.track``."""

from __future__ import annotations

from tasks import tracking
from tasks.console import say
from tasks.errors import run_main


def main() -> None:
    say(tracking.deliver_everything())


if __name__ == "__main__":
    run_main(main)
