"""``condensenet report``: of the study of a checkout, or of what ``condensenet train`` made, which is timed for it."""

from __future__ import annotations

import os
import shutil
from contextlib import chdir
from pathlib import Path

from cli import finished, training
from cli.workspaces import as_typed, environment, run_in_checkout, run_module
from tasks import params, paths, tracking
from tasks.console import say
from tasks.errors import UserError
from tasks.locks import owned


def run(folder: Path) -> None:
    """Raises ``UserError`` before work starts if there is nothing to report; a stage that fails ends us."""
    if training.is_workspace(folder):
        _report_on_training(folder.resolve())
    else:
        run_in_checkout("tasks.report", [], folder)


def _report_on_training(workspace: Path) -> None:
    with owned(workspace / training.IN_USE, f"{workspace} is in use by a training: wait until it ends"):
        if not finished.is_finished(workspace) or not (workspace / paths.ONNX).is_file():
            raise UserError(f"the training in {workspace} has not finished: run its `condensenet train` again")
        loaded = params.load(workspace / paths.PARAMS)
        (setting,) = loaded.settings
        os.environ.update(environment())
        with chdir(workspace), tracking.uploader():  # else every stage would import MLflow
            run_module("tasks.yardstick", [], workspace)
            run_module("tasks.benchmark", [setting], workspace)
            run_module("tasks.report", [], workspace)
        shutil.copyfile(workspace / loaded.paths.report / paths.REPORT_HTML, workspace / paths.REPORT_HTML)
    report = as_typed(workspace / paths.REPORT_HTML)
    say(f"{report} is complete; condensenet ui {as_typed(workspace)} shows it in MLflow")
