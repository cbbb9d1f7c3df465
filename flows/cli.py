"""``python -m flows.reproduce``: the flow in this process, one table at its end."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from typing import Any

from flows import study as studies
from flows.server import server_for_this_flow
from flows.terminal import at_terminal
from tasks import params, paths
from tasks.console import say
from tasks.errors import UserError
from tasks.report.results import read_setting
from tasks.report.summary import make_row, read_table
from tasks.report.terminal import print_table


def main() -> None:
    options = _arguments()
    studies.plan(options.study, options.set, options.setting)  # a mistake is told before a server is started
    begun = time.monotonic()
    try:
        state = _run(options)
    except KeyboardInterrupt:
        raise UserError("interrupted: the same command goes on from here") from None
    if not state.is_completed():
        raise UserError(state.message or "the flow did not finish")
    _tell(params.load(), options.setting, time.monotonic() - begun)


def _tell(in_force: params.Params, settings: list[str], seconds: float) -> None:
    """The table, and where to look next."""
    report = in_force.paths.report
    say("")
    if set(settings or in_force.settings) == set(in_force.settings):
        print_table(read_table(report / paths.TABLE))
        say(f"\n{in_force.study} in {seconds:.0f} s. Where to look next:")
        say(f"  {report / paths.REPORT_HTML}   the report: table, curves, kept connections")
    else:
        print_table([make_row(read_setting(in_force, in_force.setting(name))) for name in settings])
        say(f"\n{', '.join(settings)} in {seconds:.0f} s; the report needs all settings. Where to look next:")
    say("  make ui            every run's parameters, metrics, models and figures, in the MLflow UI")
    say("  make prefect-ui    the flow's graph, logs and artifacts, in the Prefect UI")
    say("  dvc metrics show   and dvc plots show, dvc params diff: the same figures from DVC")


def _run(options: argparse.Namespace) -> Any:
    from flows.reproduce import reproduce, watcher

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what we started ends with us
    for handler in logging.getLogger().handlers:  # the stages' lines go to the flow's log; the watcher shows progress
        handler.setLevel(logging.CRITICAL)
    with server_for_this_flow(), at_terminal() as screen:
        watcher.set(screen)
        return reproduce(
            study=options.study, settings=options.setting or None, overrides=options.set or None, return_state=True
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m flows.reproduce", description="Run the whole pipeline.")
    parser.add_argument("--study", help="compose params.yaml anew from conf/study/STUDY.yaml")
    parser.add_argument("--setting", action="append", default=[], help="only this setting's stages (repeat for more)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a value, for example train.epochs=7"
    )
    return parser.parse_args()
