"""What a training shows while it runs: a line per epoch, or a bar at a terminal; MLflow gets every epoch too."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from condensenet.files import Folder
from tasks import paths, tracking, train_worker
from tasks.console import progress, say
from tasks.errors import UserError
from tasks.outputs import read_history, write_text
from tasks.params import Params, Setting
from tasks.storage import TrainingStorage

SHOWN = "shown"  # how many epochs were shown
Row = dict[str, float]


class ProgressRecorder:
    """A thread that reads what rank 0 writes. ``run`` is the content of ``run.json``, ``rows`` the history.

    It begins the execution, or goes on with an interrupted one. What lies in ``storage`` is brought to ``folder``.
    """

    def __init__(self, folder: Path, storage: TrainingStorage, params: Params, setting: Setting) -> None:
        self.folder, self.storage, self.setting = folder, storage, setting
        self.rows: list[Row] = []
        self.run: dict[str, Any] = {}
        self._params = params
        self._error: BaseException | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        for storage in (Folder(self.folder), self.storage):
            storage.write(train_worker.MESSAGES, b"")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def _follow(self) -> None:
        try:
            tracking.name_execution(self.folder, self._params, self.setting)
            self.storage.copy_from(self.folder, paths.RUN)  # before MLflow has a run: a stage elsewhere goes on with it
            self.run = tracking.start_execution(self.folder, self._params, self.setting)
            self.storage.copy_from(self.folder, paths.RUN)
            rows = self._new_rows()
            if sys.stderr.isatty():
                rows = progress(rows, self.setting.train.epochs, f"train {self.setting.name}", units="epochs")
            shown = self._shown()
            for row in rows:
                if row["epoch"] > shown:
                    self._show(row)
            tracking.learn_run_id(self.folder, self.run)
            self.storage.copy_from(self.folder, paths.RUN)
        except OSError as error:
            self._error = UserError(f"training {self.setting.name} cannot be recorded: {error}; run it again to do so")
            say(f"training {self.setting.name} continues, but cannot be recorded: {error}")
        except BaseException as error:
            self._error = error

    def _new_rows(self) -> Iterator[Row]:
        """The history's rows as they come; ends when the training has ended and all are read."""
        messages_shown = 0
        while True:
            ended = self._ended.wait(self.storage.poll_s)
            self._copy(last=ended)
            messages = (self.folder / train_worker.MESSAGES).read_text().splitlines()
            for line in messages[messages_shown:]:
                say(line)
            messages_shown = len(messages)
            rows = read_history(self.folder / paths.HISTORY)
            for row in rows[len(self.rows) :]:
                self.rows.append(row)
                yield row
            if ended:
                return

    def _copy(self, *, last: bool) -> None:
        try:
            for name in (train_worker.MESSAGES, paths.HISTORY):
                self.storage.copy_to(self.folder, name)
        except ConnectionError:  # it may answer the next time
            if last:
                raise

    def _shown(self) -> int:
        path = self.folder / SHOWN
        return int(path.read_text()) if path.exists() else 0

    def _show(self, row: Row) -> None:
        if not sys.stderr.isatty():
            say(as_line(self.setting, row))
        tracking.upload()
        write_text(self.folder / SHOWN, str(int(row["epoch"])))


def as_line(setting: Setting, row: Row) -> str:
    return (
        f"{setting.name}: epoch {row['epoch']:.0f} of {setting.train.epochs}, "
        f"condensing stage {row['condensing_stage']:.0f} of {setting.model.num_condensing_stages}, "
        f"loss {row['train_loss']:.4f}, error {row['train_error_pct']:.2f}%, "
        f"validation error {row['validation_error_pct']:.2f}%, {row['seconds']:.1f} s"
    )
