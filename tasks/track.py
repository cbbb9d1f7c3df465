"""Deliver to the tracking store what could not be delivered before.

python -m tasks.track              # everything that waits in state/outbox
python -m tasks.track --restore    # and runs that the store does not know, from the files that DVC tracks
"""

from __future__ import annotations

import argparse

from tasks.console import say
from tasks.errors import run_main
from tasks.tracking import attending, delivery, restoring


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tasks.track", description=__doc__.splitlines()[0])
    parser.add_argument("--restore", action="store_true", help="also make runs that the store does not know")
    parser.add_argument("--links", metavar="URL", help="print where the MLflow UI at URL compares settings")
    parser.add_argument("--attend", action="store_true", help=argparse.SUPPRESS)  # what tracking.courier() starts
    chosen = parser.parse_args()
    if chosen.attend:
        attending.attend()
        return
    if chosen.links:
        for line in delivery.links(chosen.links) or ["no study has run yet"]:
            say(line)
        return
    say(delivery.deliver_everything())
    if chosen.restore:
        say(restoring.restore_everything())


if __name__ == "__main__":
    run_main(main)
