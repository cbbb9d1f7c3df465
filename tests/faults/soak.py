"""Flows in a loop while services are killed or hang and the disk is full, for an hour: `make soak`

    python -m tests.faults.soak [--minutes 60] [--seed 0] [--log state/soak.jsonl] [--json benchmarks/results/soak.json]

Each round is a small sweep on a cluster of its own (``cluster.local``), and one trouble strikes at a random moment. As
an operator would, it starts the deployment again when a run has ended without success. Then it looks for what was lost:
results that differ from those of an undisturbed sweep, finished points that were made again, sweeps that did not end,
runs that MLflow lacks. What happens is appended to the log, and the counts come from the log alone. The full disk needs
root.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from condensenet import machine
from tests.faults.sweeps import (
    CHECKOUT,
    TARGETS,
    Sweep,
    cluster_of_its_own,
    differences,
    kill,
    missing_in_mlflow,
    say,
    service,
    wait_for,
)

GRID = {"model.condensation_factor": [1, 2]}
POINTS = ["c1", "c2"]
KILLED = tuple(f"{target} killed" for target in TARGETS)
HUNG = ("mlflow hangs", "prefect hangs")
FULL = "disk full"
TROUBLES = (*KILLED, *HUNG, FULL)
DISK_MB = 1024
MOMENT_S = (1.0, 40.0)  # after the flow is at work
LASTS_S = (5.0, 30.0)  # a full disk, or a server that hangs
ATTEMPTS = 6
Event = dict[str, Any]


def main() -> None:
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the services end with us
    options.log.parent.mkdir(parents=True, exist_ok=True)
    options.log.write_text("")
    troubles = TROUBLES if os.geteuid() == 0 else TROUBLES[:-1]
    soak(options.log, options.minutes, troubles, random.Random(options.seed))
    events = read(options.log)
    rows = counts(events, options.minutes, options.seed)
    for row in rows:
        say(f"{row['trouble']}: struck {row['struck']} times, {row['runs_ended']} runs ended, {row['lost']} lost")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    sys.exit(1 if any(row["lost"] for row in rows) else 0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=60, help="of disturbed sweeps; the last one is finished")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, default=CHECKOUT / "state" / "soak.jsonl")
    parser.add_argument("--json", type=Path, help="where the counts go")
    return parser.parse_args()


def soak(log: Path, minutes: float, troubles: Sequence[str], chance: random.Random) -> None:
    with cluster_of_its_own(DISK_MB if FULL in troubles else None) as (workspace, cluster):
        calm = Sweep(workspace, cluster, "calm", GRID, POINTS, 1)
        calm.start()
        wait_for(calm.is_done, "the undisturbed sweep has not ended")
        until = time.monotonic() + 60 * minutes
        for number, trouble in enumerate(in_turn(troubles, chance)):
            if time.monotonic() > until:
                return
            wild = Sweep(workspace, cluster, f"soak-{number}", GRID, POINTS, ATTEMPTS)
            round_of(calm, wild, trouble, chance, lambda event, number=number: append(log, {"round": number, **event}))
            workspace.run("rm", "-rf", str(wild.out), ".dvc/cache")  # else the disk is full by itself some day


def in_turn(troubles: Sequence[str], chance: random.Random) -> Iterator[str]:
    """All of them in a random order, then all again in another."""
    while True:
        yield from chance.sample(troubles, len(troubles))


def round_of(calm: Sweep, wild: Sweep, trouble: str, chance: random.Random, note: Callable[[Event], None]) -> None:
    note({"event": "begins", "trouble": trouble})
    try:
        wild.start()
        wait_for(lambda: wild.is_done() or wild.is_at_work(), "no run begins")
        time.sleep(chance.uniform(*MOMENT_S))
        wild.look_at_finished()
        if wild.is_at_work() and strike(trouble, wild, chance.uniform(*LASTS_S)):
            note({"event": "struck"})
            say(f"{wild.name}: {trouble}")
        wait_for(wild.is_done, "the sweep has not ended")
        wild.look_at_finished()
        lost = [*differences(calm, wild), *missing_in_mlflow(wild), *(f"{each} made again" for each in wild.made_again)]
    except (AssertionError, OSError) as error:
        lost = [f"{type(error).__name__}: {error}"[:500]]
    for how in wild.ended:
        note({"event": "run ended", "how": how})
    for each in lost:
        note({"event": "lost", "what": each})
        say(f"{wild.name}: lost: {each}")
    note({"event": "ends"})


def strike(trouble: str, sweep: Sweep, seconds: float) -> bool:
    """Whether there was something to strike at; a trouble that lasts is over when this returns."""
    if trouble in KILLED:
        return kill(trouble.removesuffix(" killed"), sweep)
    if trouble == FULL:
        fill(sweep.workspace.path / "state" / "filling", seconds)
        return True
    victim = service(sweep.cluster, trouble.removesuffix(" hangs"))
    if victim is None:
        return False
    family = [victim, *victim.children(recursive=True)]
    for process in family:
        process.suspend()
    time.sleep(seconds)
    for process in family:
        process.resume()
    return True


def fill(path: Path, seconds: float) -> None:
    """Leave no room on the disk of ``path`` for ``seconds``, whatever others delete meanwhile."""
    until = time.monotonic() + seconds
    with path.open("wb", buffering=0) as file:
        while time.monotonic() < until:
            with suppress(OSError):
                while file.write(bytes(1 << 16)):
                    pass
            time.sleep(0.05)
    path.unlink()


def append(log: Path, event: Event) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"at": time.strftime("%Y-%m-%dT%H:%M:%S"), **event}) + "\n")


def read(log: Path) -> list[Event]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def counts(events: Sequence[Event], minutes: float, seed: int) -> list[dict[str, Any]]:
    """A row for each trouble. What began and did not end, because the soak itself was killed, counts as lost."""
    trouble_of = {each["round"]: each["trouble"] for each in events if each["event"] == "begins"}

    def number(trouble: str, event: str) -> int:
        return sum(each["event"] == event and trouble_of[each["round"]] == trouble for each in events)

    return [
        {
            "trouble": trouble,
            "sweeps": number(trouble, "begins"),
            "struck": number(trouble, "struck"),
            "runs_ended": number(trouble, "run ended"),
            "lost": number(trouble, "lost") + number(trouble, "begins") - number(trouble, "ends"),
            "minutes": minutes,
            "seed": seed,
            "device": machine.hardware()["cpu"],
        }
        for trouble in TROUBLES
        if trouble in trouble_of.values()
    ]


if __name__ == "__main__":
    main()
