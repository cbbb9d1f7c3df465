"""The flow ``sweep``: every combination of some values as a setting of one study, at most some of them at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.states import Failed
from pydantic import Field

from flows import grid as grids
from flows import study as studies
from flows.artifacts import artifact_key, legible
from flows.graph import BENCHMARK, REPORT, TABLES, setting_of
from flows.parameters import Grid, Overrides, Setting, Study, sweep_name
from flows.pipeline import THREAD_PER_STAGE, run_pipeline
from tasks import outputs, params, paths, tracking
from tasks.errors import UserError
from tasks.report.pareto import pareto
from tasks.report.results import read_setting
from tasks.report.summary import Value, make_row

COLUMNS = ("setting", "test_error_pct", "macs", "params", "latency_ms")
NOT_OF_POINTS = (TABLES, BENCHMARK, REPORT)
TRADE_OFF = ("test_error_pct", "macs")
Row = dict[str, Value]


@flow(name="sweep", flow_run_name=sweep_name, retries=0, task_runner=THREAD_PER_STAGE)  # type: ignore[arg-type]
def sweep(
    grid: Grid,
    study: Study | None = None,
    base: Setting | None = None,
    overrides: Overrides | None = None,
    at_once: Annotated[int, Field(ge=1)] | None = None,
    name: Setting | None = None,
    points: Annotated[list[Setting], Field(min_length=1)] | None = None,
    remote: bool = False,
) -> Any:
    """Run the pipeline for every combination of the values in ``grid``, and show the trade-off.

    Finished points stay when another fails; the same sweep goes on from there.

    Args:
        grid: Values by key, {"model.groups_1x1": [1, 2, 4], "model.condensation_factor": [1, 2, 4]}.
        study: What the points share, from conf/study/<study>.yaml. Default: params.yaml as it is.
        base: The setting of that study that every point starts from. Default: none.
        overrides: Values to change for all points, {"train.epochs": 7} or ["train.epochs=7"].
        at_once: At most so many trainings at once. Default: what suits the machine or the cluster.
        name: The sweep's own study, under which its outputs are. Default: <study>-sweep.
        points: Only these, ["g4-c2"], as far as they need no others: without benchmark, for which all are timed on one
            machine, and without the trade-off. Several machines can so share a sweep, with ``remote``.
        remote: Take what other runs have made from the DVC remote, and send there what is new.
    """
    try:
        composed = grids.compose(studies.compose_params(study, overrides), grid, base, name)
        _check(points, composed)
        return _run(composed, grid, points, at_once, remote)
    except UserError as error:
        return Failed(message=str(error))


def _check(points: Sequence[str] | None, sweep: grids.Sweep) -> None:
    for point in points or ():
        if point not in sweep.settings:
            why = sweep.impossible.get(point, ", ".join(sweep.settings))
            raise UserError(f"points: {point!r} is not allowed: {why}")


def _run(
    sweep: grids.Sweep, grid: Mapping[str, Any], points: Sequence[str] | None, at_once: int | None, remote: bool
) -> Any:
    log = get_run_logger()
    for point, reason in sweep.impossible.items():
        log.warning("%s is impossible: %s", point, reason)
    parent = _Parent(sweep.study, grid, sweep.text)
    try:
        with run_pipeline(
            sweep.text,
            composed=True,
            settings=points,
            at_once=at_once,
            left_out=NOT_OF_POINTS if points else (TABLES,),
            remote=remote,
            variables=parent.start,
        ) as (loaded, _, errors):
            if not points:
                publish(loaded, results(loaded, errors), sweep.impossible)
            parent.status = "FAILED" if errors else "RUNNING" if points else "FINISHED"
    finally:
        parent.end()
    if errors:
        return Failed(message="; ".join(errors))
    done, impossible = len(points or sweep.settings), len(sweep.impossible)
    return f"{loaded.study}: {done} points are up to date" + (f", {impossible} are impossible" if impossible else "")


@dataclass
class _Parent:
    """The MLflow run above the points' own. There is none before the sweep's parameters are in force."""

    study: str
    grid: Mapping[str, Any]
    text: str
    execution: str | None = None
    status: str = "FAILED"

    def start(self) -> dict[str, str]:
        """Returns the variable by which a point's run finds it."""
        self.execution = tracking.start_sweep(self.study, self.grid, self.text)
        return {tracking.SWEEP: self.execution}

    def end(self) -> None:
        if self.execution is not None:
            table = paths.StudyPaths(self.study).root / paths.SWEEP
            tracking.record_sweep(self.execution, self.study, self.grid, [table], status=self.status)


def results(loaded: params.Params, errors: Sequence[str]) -> list[Row]:
    """A row for each point that is up to date, those on the Pareto front marked; ``errors`` are of failed stages."""
    failed = {setting_of(line.partition(":")[0]) for line in errors}
    settings = (setting for name, setting in loaded.settings.items() if name not in failed)
    made = (make_row(read_setting(loaded, setting)) for setting in settings)
    rows = [row for row in made if all(row[name] is not None for name in TRADE_OFF)]
    front = pareto({str(row["setting"]): [float(row[name] or 0) for name in TRADE_OFF] for row in rows})
    return [{**{name: row[name] for name in COLUMNS}, "pareto": int(row["setting"] in front)} for row in rows]


def publish(loaded: params.Params, rows: list[Row], impossible: Mapping[str, str]) -> None:
    """The table as a file and as an artifact of the run."""
    if not rows:
        return
    outputs.write_csv(loaded.paths.root / paths.SWEEP, rows)
    refused = [{"setting": name, "impossible": why} for name, why in impossible.items()]
    create_table_artifact(
        key=artifact_key(loaded.study, "pareto"),
        table=[legible(row) for row in rows] + refused,
        description="Points of the sweep; pareto = 1: no other has both a lower error and fewer MACs.",
    )
