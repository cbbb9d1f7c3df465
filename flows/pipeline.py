"""The flow ``reproduce``: each stage of the DVC graph as one Prefect task, in parallel as far as the graph allows.

It gives the same files, the same ``dvc.lock`` and the same MLflow runs as ``dvc repro``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from prefect import flow, get_run_logger, tags, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, wait
from prefect.states import Cancelled, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows import study as studies
from flows.artifacts import publish
from flows.concurrency import StageSlots, own_ray
from flows.display import Display
from flows.dvc_recovery import recover
from flows.graph import TABLES, Graph, keep_settings, read_graph, setting_of, without
from flows.parameters import Overrides, Setting, Study, run_name
from flows.stage_process import DVC_LINE, StageFailed, StageLog, StageRunner, Stopped, push_results, signals_ignored
from tasks import params, tracking
from tasks.errors import UserError


@dataclass(frozen=True)
class FlowContext:
    """What the tasks of one flow run share. It stays in this process: task parameters would go to the server."""

    slots: StageSlots
    display: Display
    runner: StageRunner


TAG = "condensenet"  # of flow runs, by which Prefect's UI can filter; prefect.yaml gives it to deployments

context: ContextVar[FlowContext] = ContextVar("context")
display: ContextVar[Display] = ContextVar("display")


@task(task_run_name="{stage}", retries=0, cache_policy=NO_CACHE)
def run_stage(stage: str) -> Any:
    """Bring one stage up to date; its output goes to this run's log line by line."""
    log, shared = get_run_logger(), context.get()
    try:
        with shared.slots.acquire(stage, shared.runner), StageLog(stage) as file:

            def emit(line: str) -> None:
                log.info(line)
                file.write(line)
                if not DVC_LINE.match(line):
                    shared.display.line(stage, line.removeprefix(f"{setting_of(stage)}: "))

            shared.display.started(stage)
            started = time.monotonic()
            outcome = shared.runner.run(stage, emit)
    except StageFailed as error:
        shared.display.finished(stage, f"FAILED after {time.monotonic() - started:.1f} s, full output: {file.path}")
        return Failed(message=f"{stage}: {error}")
    except Stopped:
        shared.display.finished(stage, "stopped")
        return Cancelled(message=f"{stage}: stopped")
    shared.display.finished(stage, f"{outcome.status} in {outcome.duration_s:.1f} s")
    return outcome.status


THREAD_PER_STAGE = ThreadPoolTaskRunner[Any](max_workers=1000)  # a thread waits for upstream stages and for a slot


@flow(name="reproduce", flow_run_name=run_name, retries=0, task_runner=THREAD_PER_STAGE)  # type: ignore[arg-type]
def reproduce(
    study: Study | None = None,
    settings: list[Setting] | None = None,
    overrides: Overrides | None = None,
    tables: bool = False,
    remote: bool = False,
) -> Any:
    """Run the pipeline of ``params.yaml``.

    Args:
        study: Compose params.yaml anew from conf/study/<study>.yaml. Default: params.yaml as it is.
        settings: Run only the stages of these settings; stages that need all settings (the report) are left out.
        overrides: Values to change, {"train.epochs": 7} or ["train.epochs=7"].
        tables: Also count and time the paper's networks at full size, which takes three minutes.
        remote: Take what other runs have made from the DVC remote, and at the end send there what is new, also if a
            stage failed.
    """
    try:
        return _reproduce(study, settings, overrides, tables, remote)
    except UserError as error:
        return Failed(message=str(error))


def _reproduce(
    study: str | None, settings: list[str] | None, overrides: studies.Overrides, tables: bool, remote: bool
) -> Any:
    log = get_run_logger()
    text = studies.compose_params(study, overrides, settings)
    left_out = () if tables else (TABLES,)
    pipeline = run_pipeline(text, composed=study is not None, settings=settings, left_out=left_out, remote=remote)
    with pipeline as (loaded, graph, errors):
        if errors:
            return Failed(message="; ".join(errors))
        full_graph = without(read_graph(), *left_out)
        if len(graph) == len(full_graph):
            publish(loaded)
        else:
            log.info("left out: %s", ", ".join(stage for stage in full_graph if stage not in graph))
        return f"{loaded.study}: {len(graph)} stages are up to date"


@contextmanager
def run_pipeline(
    text: str,
    *,
    composed: bool,
    settings: Collection[str] | None = None,
    at_once: int | None = None,
    left_out: Collection[str] = (TABLES,),
    remote: bool = False,
    variables: Callable[[], Mapping[str, str]] = dict,
) -> Iterator[tuple[params.Params, Graph, list[str]]]:
    """Run the stages of ``params.yaml`` with the content ``text``, which stays in force inside the block.

    Yields the parameters, the stages that were to run, and an error line for each that failed. ``composed``: the text
    is another study's, which may not replace uncommitted edits. ``at_once`` limits the trainings; ``left_out`` are
    verbs whose stages are not run. ``variables`` gives what is added to the environment of the stages, and is called
    once the text is in force.
    """
    log, screen = get_run_logger(), display.get(Display())

    def note(line: str) -> None:
        log.info(line)
        screen.note(line)

    with studies.params_in_use(text, composed=composed) as changed_keys:
        if changed_keys:
            log.info("params.yaml changed: %s (the previous file is in state/params)", ", ".join(changed_keys))
        loaded = params.load()
        recover(note)
        graph = keep_settings(without(read_graph(), *left_out), loaded.settings, settings or loaded.settings)

        with (
            tracking.uploader(note),  # else every stage would import MLflow
            own_ray(loaded) as ray,  # else every training would start its own
        ):
            own, lifeline = (ray.variables, ray.lifeline) if ray else ({}, None)
            runner = StageRunner({**variables(), **own}, lifeline, ["--pull"] if remote else [])
            context.set(FlowContext(StageSlots.for_machine(loaded, graph, at_once), screen, runner))
            errors = _run_graph(graph, loaded.study)
        if remote:
            errors += push_results(log.info)
        yield loaded, graph, errors


def _run_graph(graph: Graph, study: str) -> list[str]:
    """Run all stages and return an error line for each that failed. Only stages that need a failed one are skipped.

    The tags of a stage's run are its study and its setting.
    """
    futures: dict[str, PrefectFuture[Any]] = {}
    try:
        for stage, upstream in graph.items():
            setting = setting_of(stage)
            with tags(study, *([setting] if setting else [])):
                futures[stage] = run_stage.submit(
                    stage=stage, wait_for=[futures[name] for name in sorted(upstream)], return_state=False
                )
        wait(list(futures.values()))
    except BaseException:
        with signals_ignored():  # a second one would cut the stop short and leave stages running
            context.get().runner.stop()
        raise
    states: Mapping[str, Any] = {stage: future.state for stage, future in futures.items()}
    return [state.message or stage for stage, state in states.items() if state.is_failed() or state.is_crashed()]
