"""From the outbox to the store: in order, under a lock, and without ever failing for the store's sake."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tasks.console import say
from tasks.errors import UserError
from tasks.tracking import outbox, server, view
from tasks.tracking.server import Away, Refused

if TYPE_CHECKING:
    from tasks.tracking.store import Store


class _Process:
    """What this process remembers of the store."""

    store: Store | None = None
    away: bool = False
    said: bool = False
    retry_at: float = 0.0


def prepare() -> bool:
    """Open the store, which creates a fresh SQLite file: it takes only one maker. False if it does not answer."""
    try:
        with outbox.locked(wait_s=60.0) as held:
            if held:
                _store()
    except Away as error:
        _say_away(error)
    return not _Process.away


def is_away() -> bool:
    """Whether the store did not answer when it was last asked."""
    return _Process.away


def deliver(wait_s: float = 0.0) -> int:
    """Send all records that wait; returns how many arrived. Says in one line, once, if the store does not answer.

    While another process delivers, at most ``wait_s`` seconds are spent waiting for it: it looks again for new
    records after it has let go, so what is left to it is not forgotten.
    """
    if time.monotonic() < _Process.retry_at:
        return 0
    started = time.monotonic()
    try:
        return send(wait_s)
    except Away as error:
        _say_away(error)
        now = time.monotonic()
        _Process.retry_at = now + 10 * (now - started)  # a server that lets us wait is asked less often
        return 0


def deliver_everything(wait_s: float = 600.0) -> str:
    """What ``python -m tasks.track`` does; returns what to print. Raises ``UserError`` if the store does not answer."""
    where = server.shown(server.uri())
    try:
        delivered = send(wait_s)
    except Away as error:
        raise UserError(
            f"{where} does not answer ({error}): {_count(len(outbox.pending()))} in {outbox.root()}"
        ) from None
    outbox.tidy()
    return f"{_count(delivered)} delivered to {where}"


def links(base: str) -> list[str]:
    """A line for every study in the store: where the UI at ``base`` compares its settings."""
    try:
        with outbox.locked(wait_s=60.0) as held:
            found = _store().experiments() if held else {}
    except Away as error:
        raise UserError(f"{server.shown(server.uri())} does not answer ({error})") from None
    return [f"{study}: {view.link(base, number)}" for study, number in sorted(found.items())]


def send(wait_s: float) -> int:
    """As ``deliver``, but raises ``Away``."""
    delivered = 0
    while outbox.pending():
        with outbox.locked(wait_s) as held:
            if not held:
                break
            delivered += _send_all()
    return delivered


def open_store() -> Store:
    """The store, opened; raises ``Away``. Hold the outbox's lock."""
    return _store()


def _send_all() -> int:
    store, delivered = _store(), 0
    while records := outbox.pending():
        for folder in records:
            try:
                run_id = store.apply(outbox.read(folder), folder)
            except (Refused, ValueError, OSError) as error:  # the latter two: it cannot be read
                say(f"tracking: a record was refused and is kept in {outbox.set_aside(folder)}: {error}")
            else:
                outbox.note_run(folder.parent.name, run_id)
                outbox.remove(folder)
                delivered += 1
    return delivered


def _store() -> Store:
    uri = server.uri()
    if not server.answers(uri):
        raise Away("nothing listens there")
    if _Process.store is None or _Process.store.uri != uri:
        from tasks.tracking.store import Store

        _Process.store = Store.open(uri)
    _Process.away = False
    return _Process.store


def _say_away(error: Away) -> None:
    _Process.away = True
    if not _Process.said:
        _Process.said = True
        say(
            f"tracking: {server.shown(server.uri())} does not answer ({error}); results wait in {outbox.root()} "
            "and go out with the next stage, or by: python -m tasks.track"
        )


def _count(records: int) -> str:
    return f"{records} record{'' if records == 1 else 's'}"
