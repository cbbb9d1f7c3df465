"""The command: the flow in this process, one table at its end.

python -m flows.reproduce                          # params.yaml as it is
python -m flows.reproduce --study cifar10          # another study
python -m flows.reproduce --setting g4-c4          # only the stages of that setting
python -m flows.reproduce --set train.epochs=7     # override a value of params.yaml
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from typing import Any

from flows import study as studies
from flows.display import terminal_display
from flows.server import ensure_server
from tasks import outputs, params, paths
from tasks.console import say
from tasks.errors import UserError, run_main
from tasks.report.results import read_setting
from tasks.report.summary import make_row, read_table
from tasks.report.terminal_table import print_table
from tasks.tables.terminal import print_latency


def main() -> None:
    options = _arguments()
    studies.compose_params(options.study, options.set, options.setting)  # report mistakes before a server is started
    started = time.monotonic()
    try:
        state = _run(options)
    except KeyboardInterrupt:
        raise UserError("interrupted: the same command continues from here") from None
    if not state.is_completed():
        raise UserError(state.message or "the flow did not finish")
    _print_results(params.load(), options.setting, time.monotonic() - started)


def _run(options: argparse.Namespace) -> Any:
    from prefect import tags

    from flows.pipeline import TAG, display, reproduce

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that child processes end with us
    for handler in logging.getLogger().handlers:  # stage output goes to the flow's log; the display shows progress
        handler.setLevel(logging.CRITICAL)
    ensure_server()
    with terminal_display() as screen, tags(TAG):
        display.set(screen)
        return reproduce(
            study=options.study,
            settings=options.setting or None,
            overrides=options.set or None,
            tables=options.tables,
            return_state=True,
        )


def _print_results(loaded: params.Params, settings: list[str], duration_s: float) -> None:
    """The table, and where to look next."""
    report = loaded.paths.report
    say("")
    if set(settings or loaded.settings) == set(loaded.settings):
        print_table(read_table(report / paths.TABLE))
        print_latency(outputs.read_json_or_empty(paths.TABLES / paths.LATENCY))
        say("")
        say(f"{loaded.study} in {duration_s:.0f} s. Where to look next:")
        say(f"  {report / paths.REPORT_HTML}   the report: table, curves, kept connections")
        say("  make tables        the paper's networks at full size, where condensing pays (three minutes)")
    else:
        print_table([make_row(read_setting(loaded, loaded.setting(name))) for name in settings])
        say("")
        say(f"{', '.join(settings)} in {duration_s:.0f} s; the report needs all settings. Where to look next:")
    say("  make ui            every run's parameters, metrics, models and figures, in the MLflow UI")
    say("  make prefect-ui    the flow's graph, logs and artifacts, in the Prefect UI")
    say(f"  dvc metrics show   the same figures from DVC; also {dvc_commands()}")


def dvc_commands() -> str:
    """DVC's commands that have something to show; a difference of parameters needs an edit."""
    return "dvc plots show, dvc params diff" if studies.differs_from_commit() else "dvc plots show"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m flows.reproduce", description="Run the whole pipeline.")
    parser.add_argument("--study", help="compose params.yaml anew from conf/study/STUDY.yaml")
    parser.add_argument("--setting", action="append", default=[], help="only the stages of this setting (repeatable)")
    parser.add_argument(
        "--tables", action="store_true", help="also count and time the paper's networks at full size: three minutes"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a value, for example train.epochs=7"
    )
    return parser.parse_args()


if __name__ == "__main__":
    run_main(main)
