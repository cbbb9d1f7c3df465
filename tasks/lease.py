"""A lock where nothing but objects can be written and read: an object with its owner, who renews it while it lives.

Whoever wants a lease that is not renewed for ``EXPIRY_S``, by its own clock, takes it: clocks need not agree, and a
killed owner delays the next one by that time. What it guarantees:

- Who takes a lease that somebody else renews, never gets it.
- Of two who take a free one at the same moment, both can believe to have it if a write of the one takes more than
  ``SETTLE_S``; the same holds for an owner that was suspended for ``EXPIRY_S``. One of them notices at its next
  renewal, after ``RENEW_S``, and its writes fail from then on.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from condensenet.files import Storage

RENEW_S = 2.0
EXPIRY_S = 10.0
SETTLE_S = 0.5
POLL_S = 0.5


class LeaseLost(RuntimeError):
    """Another owner has it."""


class Lease:
    """The right to do what the object ``name`` stands for. Use it as a context; ``check`` before each write.

    Entering it waits ``wait_s`` (None: as long as it takes) and calls ``on_wait`` once if somebody else has it.
    """

    def __init__(
        self, storage: Storage, name: str, wait_s: float | None, on_wait: Callable[[], None] = lambda: None
    ) -> None:
        self._storage, self._name, self._wait_s, self._on_wait = storage, name, wait_s, on_wait
        self._owner, self._renewals, self._renewed = uuid.uuid4().hex, 0, 0.0
        self._lost, self._ended = threading.Event(), threading.Event()
        self._renewing = threading.RLock()  # a signal's handler may write in the midst of a check
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Self:
        """Raises ``ValueError`` after ``wait_s``."""
        began = since = time.monotonic()
        seen, told = self._read(), False
        while not ((seen is None or time.monotonic() - since > EXPIRY_S) and self._take()):
            if self._wait_s is not None and time.monotonic() - began > self._wait_s:
                raise ValueError(f"{self._storage} is in use by another training")
            time.sleep(POLL_S)
            now = self._read()
            if now != seen:
                seen, since = now, time.monotonic()
            if now is not None and not told:
                self._on_wait()
                told = True
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        with suppress(OSError):
            if self._is_own(self._read()):
                self._storage.delete(self._name)

    def check(self) -> None:
        """Raise ``LeaseLost`` if somebody else has it now."""
        if time.monotonic() - self._renewed > EXPIRY_S / 2:  # suspended, or the storage did not answer
            self._renew()
        if self._lost.is_set():
            raise LeaseLost(f"another process has taken over {self._storage}")

    def _take(self) -> bool:
        self._write()
        time.sleep(SETTLE_S)  # who came at the same moment has written by now, and the last one has it
        return self._is_own(self._read())

    def _keep(self) -> None:
        while not self._lost.is_set() and not self._ended.wait(RENEW_S):
            with suppress(OSError):
                self._renew()

    def _renew(self) -> None:
        with self._renewing:
            if self._is_own(self._read()):
                self._write()
            else:
                self._lost.set()

    def _read(self) -> bytes | None:
        with suppress(FileNotFoundError):
            return self._storage.read(self._name)
        return None

    def _write(self) -> None:
        self._renewals += 1
        content = {"owner": self._owner, "renewals": self._renewals, "expires_after_s": EXPIRY_S}
        self._storage.write(self._name, json.dumps(content).encode())
        self._renewed = time.monotonic()

    def _is_own(self, content: bytes | None) -> bool:
        return content is not None and self._owner.encode() in content
