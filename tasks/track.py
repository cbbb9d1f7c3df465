"""Make the tracking store match what the stages made.

python -m tasks.track              # upload every snapshot that waits in state/tracking
python -m tasks.track --restore    # and make runs that the store does not know from the files that DVC tracks
"""

from __future__ import annotations

import argparse

from tasks.console import say
from tasks.errors import run_main
from tasks.tracking import reconcile
from tasks.tracking.upload_process import serve


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tasks.track", description=__doc__.splitlines()[0])
    parser.add_argument("--restore", action="store_true", help="also make runs that the store does not know")
    parser.add_argument("--links", metavar="URL", help="print where the MLflow UI at URL compares settings")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)  # what tracking.uploader() starts
    chosen = parser.parse_args()
    if chosen.serve:
        serve()
        return
    if chosen.links:
        for line in reconcile.links(chosen.links) or ["no study has run yet"]:
            say(line)
        return
    say(reconcile.upload_everything())
    if chosen.restore:
        say(reconcile.restore_everything())


if __name__ == "__main__":
    run_main(main)
