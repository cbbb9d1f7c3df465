"""The flow ``reproduce``: every stage of the DVC graph as one Prefect task, as wide as the graph allows.

    python -m flows.reproduce                          # params.yaml as it is
    python -m flows.reproduce --study cifar10          # another study
    python -m flows.reproduce --setting g4-c4          # that setting's stages alone
    python -m flows.reproduce --set train.epochs=7     # on top of params.yaml

It gives the same files, the same ``dvc.lock`` and the same MLflow runs as ``dvc repro``.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, wait
from prefect.states import Cancelled, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows import study as studies
from flows.artifacts import publish
from flows.graph import keep_settings, read_graph, setting_of
from flows.running import DVC_LINE, StageFailed, StageLog, StageRunner, Stopped
from flows.terminal import Silent, Watcher
from flows.width import Widths
from tasks import params, tracking
from tasks.errors import UserError


@dataclass(frozen=True)
class Session:
    """What the tasks of one flow run share; it stays in the process and is no task parameter."""

    widths: Widths
    watcher: Watcher
    runner: StageRunner = field(default_factory=StageRunner)


session: ContextVar[Session] = ContextVar("session")
watcher: ContextVar[Watcher] = ContextVar("watcher")


@task(task_run_name="{stage}", retries=0, cache_policy=NO_CACHE)
def run_stage(stage: str) -> Any:
    """Bring one stage up to date, its output line by line in this run's log."""
    log, here = get_run_logger(), session.get()
    try:
        with here.widths.turn(stage, here.runner), StageLog(stage) as file:

            def emit(line: str) -> None:
                log.info(line)
                file.write(line)
                if not DVC_LINE.match(line):
                    here.watcher.line(stage, line.removeprefix(f"{setting_of(stage)}: "))

            here.watcher.started(stage)
            begun = time.monotonic()
            outcome = here.runner.run(stage, emit)
    except StageFailed as error:
        here.watcher.finished(stage, f"FAILED after {time.monotonic() - begun:.1f} s, all it said: {file.path}")
        return Failed(message=f"{stage}: {error}")
    except Stopped:
        here.watcher.finished(stage, "stopped")
        return Cancelled(message=f"{stage}: stopped")
    here.watcher.finished(stage, f"{outcome.how} in {outcome.seconds:.1f} s")
    return outcome.how


A_THREAD_EACH = ThreadPoolTaskRunner[Any](max_workers=1000)  # a stage's thread waits for its upstream and its turn


@flow(name="reproduce", retries=0, task_runner=A_THREAD_EACH)  # type: ignore[arg-type]
def reproduce(
    study: str | None = None,
    settings: list[str] | None = None,
    overrides: dict[str, Any] | list[str] | None = None,
) -> Any:
    """Run the pipeline of ``params.yaml``.

    Args:
        study: Compose params.yaml anew from conf/study/<study>.yaml. Left out: params.yaml as it is.
        settings: Only the stages of these settings; what needs all settings (the report) is left out then.
        overrides: Values to change, {"train.epochs": 7} or ["train.epochs=7"].
    """
    try:
        return _reproduce(study, settings, overrides)
    except UserError as error:
        return Failed(message=str(error))


def _reproduce(study: str | None, settings: list[str] | None, overrides: studies.Overrides) -> Any:
    log = get_run_logger()
    text = studies.plan(study, overrides, settings)
    with studies.in_force(text, composed=study is not None) as changed:
        if changed:
            log.info("params.yaml changed: %s (what was there: state/params)", ", ".join(changed))
        in_force = params.load()
        wanted = [in_force.setting(name).name for name in settings or in_force.settings]
        everything = read_graph()
        graph = keep_settings(everything, in_force.settings, wanted)
        screen = watcher.get(Silent())
        session.set(Session(Widths.of(in_force, graph), screen))

        def note(line: str) -> None:
            log.info(line)
            screen.note(line)

        with tracking.uploader(note):  # else every stage would import MLflow
            failed = _run_graph(graph)
        if failed:
            return Failed(message="; ".join(failed))
        if len(graph) == len(everything):
            publish(in_force)
        else:
            log.info("left out: %s", ", ".join(name for name in everything if name not in graph))
        return f"{in_force.study}: {len(graph)} stages are up to date"


def _run_graph(graph: dict[str, frozenset[str]]) -> list[str]:
    """Run all stages; a line for each that failed. Those that need a failed one are not run, the others are."""
    futures: dict[str, PrefectFuture[Any]] = {}
    try:
        for stage, upstream in graph.items():
            futures[stage] = run_stage.submit(
                stage=stage, wait_for=[futures[name] for name in sorted(upstream)], return_state=False
            )
        wait(list(futures.values()))
    except BaseException:
        session.get().runner.stop()
        raise
    ended = [(stage, future.state) for stage, future in futures.items()]
    return [state.message or stage for stage, state in ended if state.is_failed() or state.is_crashed()]


if __name__ == "__main__":
    from flows.cli import main
    from tasks.errors import run_main

    run_main(main)
