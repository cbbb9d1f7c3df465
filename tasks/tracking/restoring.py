"""Runs for executions that a store never saw: outputs pulled on another machine, or another tracking URI."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks import paths
from tasks.errors import UserError
from tasks.tracking import delivery, outbox, server
from tasks.tracking.server import Away


def restore_everything() -> str:
    """Make a run for every execution in ``out/`` that the store does not know; returns what to print."""
    where = server.shown(server.uri())
    made = []
    try:
        with outbox.locked(wait_s=600.0) as held:
            if not held:
                raise UserError("another process has been delivering for ten minutes: try again")
            store = delivery.open_store()
            for run in executions():
                if store.restore_if_unknown(run, Path.cwd()):
                    made.append(f"{run['study']}/{run['setting']}")
    except Away as error:
        raise UserError(f"{where} does not answer ({error})") from None
    return f"restored in {where}: {', '.join(made) or 'nothing, all are known'}"


def executions() -> Iterator[dict[str, Any]]:
    """The content of every ``run.json`` in this workspace."""
    for file in sorted(Path().glob(str(paths.StudyPaths("*").setting("train", "*") / paths.RUN))):
        try:
            run = json.loads(file.read_text())
        except (OSError, ValueError):
            continue
        if isinstance(run, dict) and {"execution_id", "study", "setting", "started_at"} <= run.keys():
            yield run
