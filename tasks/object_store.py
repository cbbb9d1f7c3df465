"""Files in an object store that speaks S3, through pyarrow. An object is there as a whole or not at all."""

from __future__ import annotations

import errno
import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from condensenet.files import Folder
from condensenet.text import message_of
from tasks.lease import Lease

ATTEMPTS = 8  # each request, with growing pauses: about 50 s in all (40 to 60 s, measured)
WATCH_S = 1.0
CHUNK_BYTES = 2**24
FINAL = ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "NO_SUCH_BUCKET", "SIGNATURE_DOES_NOT_MATCH")


@dataclass(frozen=True)
class ObjectStore:
    """The objects below ``path``, which is ``bucket/prefix``.

    The environment names the store and the credentials: ``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID`` and so on, or the
    files in ``~/.aws``. With a ``lease``, what changes anything raises ``LeaseLost`` once that is lost.
    """

    path: str
    lease: Lease | None = field(default=None, compare=False, repr=False)
    poll_s: ClassVar[float] = 1.0

    def __str__(self) -> str:
        return f"s3://{self.path}"

    def within(self, name: str) -> ObjectStore:
        return replace(self, path=f"{self.path}/{name}")

    def read(self, name: str) -> bytes:
        with self._errors(name), filesystem().open_input_stream(f"{self.path}/{name}") as stream:
            return bytes(stream.read())

    def write(self, name: str, content: bytes) -> None:
        self._check_lease()
        with self._errors(name), filesystem().open_output_stream(f"{self.path}/{name}") as stream:
            stream.write(content)

    def exists(self, name: str) -> bool:
        with self._errors(name):
            return bool(filesystem().get_file_info(f"{self.path}/{name}").is_file)

    def names(self) -> list[str]:
        return list(self.sizes())

    def sizes(self) -> dict[str, int | None]:
        """The bytes of each object by its name; None for what is below a further prefix."""
        from pyarrow.fs import FileSelector

        with self._errors(""):
            found = filesystem().get_file_info(FileSelector(self.path, allow_not_found=True))
        return {each.base_name: each.size for each in found}

    def rename(self, name: str, new: str) -> None:
        self._check_lease()
        with self._errors(name):
            filesystem().move(f"{self.path}/{name}", f"{self.path}/{new}")

    def delete(self, name: str) -> None:
        self._check_lease()
        with suppress(FileNotFoundError), self._errors(name):
            filesystem().delete_file(f"{self.path}/{name}")

    def upload(self, path: Path, name: str) -> None:
        self._check_lease()
        with (
            self._errors(name),
            path.open("rb") as file,
            filesystem().open_output_stream(f"{self.path}/{name}") as stream,
        ):
            while chunk := file.read(CHUNK_BYTES):
                stream.write(chunk)

    def read_range(self, name: str, start: int, size: int) -> bytes:
        """``size`` bytes from ``start`` on, fewer at the end; any number of threads may read at once."""
        with self._errors(name):
            return bytes(_input_file(f"{self.path}/{name}").read_at(size, start))

    def chunks(self, name: str) -> Iterator[bytes]:
        """The content of a large object, part by part."""
        with self._errors(name), filesystem().open_input_stream(f"{self.path}/{name}") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                yield chunk

    @contextmanager
    def owned(self, on_wait: Callable[[], None]) -> Iterator[ObjectStore]:
        with Lease(self, "stage.lease", None, on_wait) as lease:
            yield replace(self, lease=lease)

    @contextmanager
    def exclusive(self, name: str, wait_s: float) -> Iterator[ObjectStore]:
        with Lease(self, f"{name}.lease", wait_s) as lease:
            yield replace(self, lease=lease)

    def is_held(self, name: str) -> bool:
        return self.exists(f"{name}.lease")

    @contextmanager
    def appearance(self, name: str) -> Iterator[Callable[[], bool]]:
        """Asks the store once in ``WATCH_S``."""
        there, ended = threading.Event(), threading.Event()

        def watch() -> None:
            while not ended.wait(WATCH_S) and not there.is_set():
                with suppress(OSError):
                    if self.exists(name):
                        there.set()

        threading.Thread(target=watch, daemon=True).start()
        try:
            yield there.is_set
        finally:
            ended.set()

    def copy_to(self, folder: Path, name: str) -> None:
        with suppress(FileNotFoundError):
            content = self.read(name)
            if not (folder / name).exists() or (folder / name).read_bytes() != content:
                Folder(folder).write(name, content)

    def copy_from(self, folder: Path, name: str) -> None:
        self.write(name, (folder / name).read_bytes())

    def remove(self) -> None:
        for part in ("checkpoints", ""):
            self._check_lease()
            with suppress(FileNotFoundError), self._errors(part):
                filesystem().delete_dir(f"{self.path}/{part}".rstrip("/"))

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        """Errors of the store, as ``Storage`` says: one that refuses us, for good, is a ``PermissionError``."""
        try:
            yield
        except (FileNotFoundError, ConnectionError, PermissionError):
            raise
        except OSError as error:
            if error.errno is not None:  # of a file on this machine
                raise
            reason = message_of(error)
            what = f"{self}/{name}".rstrip("/")
            if any(word in reason for word in FINAL):
                raise PermissionError(errno.EACCES, reason, what) from None
            raise ConnectionError(f"{reason}: {what}") from None

    def _check_lease(self) -> None:
        if self.lease is not None:
            self.lease.check()


@functools.lru_cache(maxsize=4096)
def _input_file(path: str) -> Any:
    """Opening it asks for its size, which is done once."""
    return filesystem().open_input_file(path)


@functools.cache
def filesystem() -> Any:
    """The file system of pyarrow that speaks to the store."""
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    return S3FileSystem(
        endpoint_override=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
        allow_delayed_open=True,  # sends a small object in one request
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )


def allow_requests(count: int) -> None:
    """Let ``count`` threads of this process read from the store at once.

    A file system of pyarrow opens a connection for each of its I/O threads, as many as there are when it is made, or 25
    if that is more; other threads wait for one of those.
    """
    import pyarrow

    if count > pyarrow.io_thread_count():
        pyarrow.set_io_thread_count(count)
        filesystem.cache_clear()
        _input_file.cache_clear()  # those files belong to the former one
