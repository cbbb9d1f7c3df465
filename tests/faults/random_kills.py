"""A sweep whose services are killed at random moments: `make kills-test`, or with another seed

    python -m tests.faults.random_kills [SEED]

It runs 3 x 3 points, one of them impossible, on a cluster of its own (`cluster.local`): once in peace, once while Ray's
raylet and head, the Prefect worker, both servers and the flow are killed with SIGKILL in turn. As an operator would, it
starts the deployment again when a run has ended without success. Then it compares: a point that was finished is not
made again, and all results are those of the undisturbed sweep. About 15 minutes on two cores.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time

from tests.faults.sweeps import (
    TARGETS,
    Sweep,
    cluster_of_its_own,
    differences,
    kill,
    missing_in_mlflow,
    say,
    wait_for,
)

GRID = {"model.growth_rates": [[4, 8, 8], [8, 8, 8], [8, 16, 16]], "model.condensation_factor": [1, 2, 8]}
POINTS = [f"growth_rates{'-'.join(map(str, rates))}-c{c}" for rates in GRID["model.growth_rates"] for c in (1, 2, 8)]
IMPOSSIBLE = "growth_rates4-8-8-c8"  # 8 does not divide the 12 inputs of its second layer
POSSIBLE = [point for point in POINTS if point != IMPOSSIBLE]
MOMENT_S = (2.0, 30.0)  # after the sweep is at work again


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.random_kills", description=__doc__.splitlines()[0])
    parser.add_argument("seed", nargs="?", type=int, default=0)
    seed = parser.parse_args().seed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the services end with us
    with cluster_of_its_own() as (workspace, cluster):
        calm = Sweep(workspace, cluster, "calm", GRID, POSSIBLE, 1)
        wild = Sweep(workspace, cluster, "wild", GRID, POSSIBLE, 3 * len(TARGETS))
        began = time.monotonic()
        calm.start()
        wait_for(calm.is_done, "the undisturbed sweep has not ended")
        say(f"calm: done in {time.monotonic() - began:.0f} s")
        began = time.monotonic()
        killed = disturb(wild, random.Random(seed))
        wait_for(wild.is_done, "the disturbed sweep has not ended")
        wild.look_at_finished()
        say(
            f"wild: done in {time.monotonic() - began:.0f} s; {len(wild.ended)} runs have ended otherwise: {wild.ended}"
        )
        wrong = [*differences(calm, wild), *missing_in_mlflow(wild), *(f"{each} twice" for each in wild.made_again)]
    say(f"seed {seed}: {killed} of {len(TARGETS)} were killed; wrong afterwards: {', '.join(wrong) or 'nothing'}")
    sys.exit(1 if wrong else 0)


def disturb(sweep: Sweep, moments: random.Random) -> int:
    """Kill each target once, in a random order, while the sweep is at work; stops if that is done before."""
    sweep.start()
    killed = 0
    for target in moments.sample(TARGETS, len(TARGETS)):
        wait_for(lambda: sweep.is_done() or sweep.is_at_work(), "no run begins")
        until = time.monotonic() + moments.uniform(*MOMENT_S)
        while time.monotonic() < until and not sweep.is_done():
            time.sleep(0.5)
        if sweep.is_done():
            say(f"done before {target} was killed")
            break
        sweep.look_at_finished()
        if kill(target, sweep):
            killed += 1
            say(f"killed {target} with {len(sweep.finished)} points finished")
        else:
            say(f"no {target} to kill")
    return killed


if __name__ == "__main__":
    main()
