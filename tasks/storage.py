"""Where a training in progress keeps what its workers share: a folder, or a part of an object store (S3).

Only the stage and rank 0 of the workers use it. The library writes checkpoints to it as to any
``condensenet.files.Storage``.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, Self

from condensenet.config.checks import require
from condensenet.file_locks import try_lock
from condensenet.files import Folder, Storage
from condensenet.text import shown
from tasks import paths
from tasks.errors import UserError
from tasks.object_store import ObjectStore

ADDRESS = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9](?:/[\w.=+-]+)*)/?")
URL = re.compile(r"[A-Za-z][\w+.-]*:")
DONE = ".done"  # suffix of a folder that is being removed


def check_address(address: str) -> None:
    """Raise ``ValueError`` if ``address`` is neither a folder nor a part of an object store."""
    is_folder = "://" not in address and URL.match(address) is None and address == address.strip() != ""
    require(
        is_folder or ADDRESS.fullmatch(address) is not None,
        f"storage={shown(address)} is not allowed: null, a folder, or s3://bucket/prefix",
    )


def check_usable(address: str | None, folder: Path) -> None:
    """Make the ``folder`` that keeps trainings in progress; raises ``UserError`` if nothing can be written there.

    ``address`` is ``ray.storage``, which names it unless it is null.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        key = folder if address is None else f"ray.storage={address}"
        raise UserError(
            f"{key} is not allowed: trainings in progress cannot be kept there ({error.strerror})"
        ) from None


def training_root(address: str | None) -> SharedFolder | ObjectStore:
    """What keeps all trainings in progress: ``address``, which is ``ray.storage``, or the checkout's ``state``."""
    return open_storage(address or str(paths.state()), paths.checkout())


def check_training_root(address: str | None) -> None:
    """Raise ``UserError`` if the folder of trainings in progress cannot be used; an object store is not asked."""
    root = training_root(address)
    if isinstance(root, SharedFolder):
        check_usable(address, root.path)


def open_storage(address: str, relative_to: Path = Path()) -> SharedFolder | ObjectStore:
    """The storage at ``address``, which ``check_address`` accepts."""
    match = ADDRESS.fullmatch(address)
    return ObjectStore(match[1]) if match else SharedFolder((relative_to / address).resolve())


class TrainingStorage(Storage, Protocol):
    """Also what trainings need: parts, locks, and to learn of a file that appears."""

    poll_s: ClassVar[float]  # how often it may be read

    def within(self, name: str) -> Self:
        """The part called ``name``."""

    def owned(self, on_wait: Callable[[], None]) -> AbstractContextManager[Self]:
        """While it is entered, no other stage is; beside the lock of the stage's own folder. Yields the storage to
        write to, which raises ``LeaseLost`` once another stage has taken over.
        """

    def exclusive(self, name: str, wait_s: float) -> AbstractContextManager[Self]:
        """While it is entered, no other process is: yields the storage to write to. Raises ``ValueError``."""

    def is_held(self, name: str) -> bool:
        """Whether a process is in the context ``exclusive(name)``; one that was just killed may count."""

    def appearance(self, name: str) -> AbstractContextManager[Callable[[], bool]]:
        """Yields a function, cheap enough to be called after every step: whether the file is there."""

    def copy_to(self, folder: Path, name: str) -> None:
        """Bring a file, if there is one, to the stage's own ``folder``."""

    def copy_from(self, folder: Path, name: str) -> None: ...

    def remove(self) -> None:
        """Remove everything, first what a training could resume from."""


@dataclass(frozen=True)
class SharedFolder(Folder):
    """A folder that all nodes see under the same path; it is the stage's own."""

    poll_s: ClassVar[float] = 0.1

    def within(self, name: str) -> Self:
        return type(self)(self.path / name)

    def owned(self, on_wait: Callable[[], None]) -> AbstractContextManager[Self]:
        return nullcontext(self)

    @contextmanager
    def exclusive(self, name: str, wait_s: float) -> Iterator[Self]:
        deadline = time.monotonic() + wait_s
        with (self.path / name).open("a") as file:
            while not try_lock(file):
                if time.monotonic() > deadline:
                    raise ValueError(f"{self} is in use by another training")
                time.sleep(0.2)
            yield self

    def is_held(self, name: str) -> bool:
        with suppress(OSError), (self.path / name).open() as file:
            return not try_lock(file, shared=True)
        return False

    def appearance(self, name: str) -> AbstractContextManager[Callable[[], bool]]:
        return nullcontext((self.path / name).exists)

    def copy_to(self, folder: Path, name: str) -> None:
        """Nothing is to be done: it is the same folder."""

    def copy_from(self, folder: Path, name: str) -> None: ...

    def remove(self) -> None:
        """Rename first: a half-removed folder must not be taken for a training in progress."""
        done = self.path.with_suffix(DONE)
        shutil.rmtree(done, ignore_errors=True)
        self.path.rename(done)
        shutil.rmtree(done, ignore_errors=True)
