"""Storage of trainings in an object store, a real one that speaks S3: files, checkpoints, leases."""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from object_server import BUCKET

from condensenet.training import checkpoint_files
from tasks import lease, object_store, storage
from tasks.lease import Lease, LeaseLost
from tasks.object_store import ObjectStore


@pytest.fixture
def store(server: None, request: pytest.FixtureRequest) -> ObjectStore:
    return ObjectStore(f"{BUCKET}/{request.node.name.partition('[')[0]}")


@pytest.fixture(params=["folder", "object store"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> storage.TrainingStorage:
    return request.getfixturevalue("store") if request.param == "object store" else storage.SharedFolder(tmp_path)


def test_files_are_written_read_listed_renamed_and_deleted(either):
    assert either.names() == []
    assert not either.exists("a")
    with pytest.raises(FileNotFoundError):
        either.read("a")
    either.write("a", b"1")
    either.write("a", b"22")
    either.within("part").write("b", b"")
    assert either.read("a") == b"22"
    assert either.within("part").read("b") == b""
    assert sorted(either.names()) == ["a", "part"]
    assert either.exists("a")
    either.rename("a", "c")
    assert sorted(either.names()) == ["c", "part"]
    either.delete("c")
    either.delete("c")
    assert either.names() == ["part"]
    either.remove()
    assert either.names() == []


def test_what_workers_are_sent_is_the_same_storage(store):
    store.write("a", b"1")
    assert pickle.loads(pickle.dumps(store)).read("a") == b"1"


def test_file_is_copied_to_the_stage_s_folder(store, tmp_path):
    store.copy_to(tmp_path, "missing")
    store.write("a", b"1")
    store.copy_to(tmp_path, "a")
    assert (tmp_path / "a").read_bytes() == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_large_file_goes_there_and_back(store, tmp_path, monkeypatch):
    monkeypatch.setattr(object_store, "CHUNK_BYTES", 6 * 2**20)
    content = bytes(range(256)) * 2**16
    (tmp_path / "large").write_bytes(content)
    store.upload(tmp_path / "large", "copy")
    parts = list(store.chunks("copy"))
    assert b"".join(parts) == content
    assert len(parts) == 3


def test_damaged_checkpoint_is_put_aside_and_the_one_before_is_used(store, caplog):
    for step in (3, 20, 100):
        name = checkpoint_files.save(store, step, {"step": step, "weights": torch.full((3,), float(step))})
    assert len(store.names()) == 2
    assert torch.equal(checkpoint_files.load_newest(store)["weights"], torch.full((3,), 100.0))
    store.write(name, store.read(name)[:-1])
    assert checkpoint_files.load_newest(store)["step"] == 20
    assert f"checkpoint {name} is damaged (its checksum differs): using the one before" in caplog.text
    assert [name for name in store.names() if name.endswith(".damaged")]


def test_store_that_does_not_answer_is_not_taken_for_a_damaged_checkpoint(store, monkeypatch):
    checkpoint_files.save(store, 3, {"step": 3})
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(object_store, "ATTEMPTS", 1)
    object_store.filesystem.cache_clear()
    with pytest.raises(ConnectionError, match="s3://"):
        checkpoint_files.load_newest(store)
    monkeypatch.undo()
    object_store.filesystem.cache_clear()


def test_missing_bucket_is_for_good(server):
    with pytest.raises(PermissionError, match="bucket does not exist") as error:
        ObjectStore("nobodys/prefix").write("a", b"")
    assert error.value.filename == "s3://nobodys/prefix/a"


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.2)
    monkeypatch.setattr(lease, "EXPIRY_S", 1.5)
    monkeypatch.setattr(lease, "POLL_S", 0.1)


def test_lease_is_one_s_alone_and_free_after_its_end(store, fast):
    waited = []
    with Lease(store, "lease", None), pytest.raises(ValueError, match="is in use by another training"):
        Lease(store, "lease", 3.0, lambda: waited.append(1)).__enter__()
    assert waited == [1]
    assert not store.exists("lease")
    with Lease(store, "lease", 0.0):
        pass


HOLD = """
import sys, time
from tasks import lease
from tasks.object_store import ObjectStore
lease.RENEW_S, lease.EXPIRY_S = 0.2, 1.5
with ObjectStore(sys.argv[1]).exclusive("work", None) as store:
    print("held", flush=True)
    sys.stdin.readline()
    try:
        store.write("late", b"")
    except lease.LeaseLost as error:
        print("refused", error, flush=True)
"""


@pytest.fixture
def holder(store: ObjectStore, checkout: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, store.path], cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_lease_of_a_killed_process_is_taken_after_it_expires(store, holder, fast):
    holder.kill()
    began = time.monotonic()
    with store.exclusive("work", 30.0) as ours:
        assert time.monotonic() - began > 1.5
        ours.write("a", b"")


def test_suspended_owner_cannot_write_any_more(store, holder, fast):
    holder.send_signal(signal.SIGSTOP)
    with store.exclusive("work", 30.0) as ours:
        ours.write("a", b"")
        holder.send_signal(signal.SIGCONT)
        assert holder.communicate("\n", timeout=30)[0].startswith("refused another process has taken over s3://")
        ours.write("b", b"")
    assert sorted(store.names()) == ["a", "b"]


class Together(ObjectStore):
    """Those who take a lease find it free, every one of them, and have written before any of them reads it again."""

    barrier = threading.Barrier(5, timeout=60)

    def write(self, name: str, content: bytes) -> None:
        first = json.loads(content)["renewals"] == 1
        if first:
            self.barrier.wait()
        super().write(name, content)
        if first:
            self.barrier.wait()


def test_only_one_of_many_who_come_at_once_gets_it(store, fast):
    leases = [Lease(Together(store.path), "lease", 0.0) for _ in range(5)]

    def enter(each: Lease) -> bool:
        try:
            each.__enter__()
        except ValueError:
            return False
        return True

    with ThreadPoolExecutor(5) as pool:
        got = list(pool.map(enter, leases))
    assert got.count(True) == 1
    winner = leases[got.index(True)]
    winner.check()
    winner.__exit__()


@pytest.mark.parametrize(
    "action",
    [
        lambda ours, _: ours.write("b", b"ours"),
        lambda ours, file: ours.upload(file, "b"),
        lambda ours, _: ours.rename("b", "c"),
        lambda ours, _: ours.delete("b"),
        lambda ours, _: ours.remove(),
    ],
    ids=["write", "upload", "rename", "delete", "remove"],
)
def test_stage_that_lost_its_lease_changes_nothing_any_more(store, fast, tmp_path, action):
    (tmp_path / "file").write_bytes(b"ours")
    with store.owned(lambda: None) as ours:
        ours.within("checkpoints").write("a", b"")
        store.write("stage.lease", b'{"owner": "somebody else"}')
        store.write("b", b"theirs")
        time.sleep(1)
        with pytest.raises(LeaseLost, match="another process has taken over s3://"):
            action(ours, tmp_path / "file")
    assert sorted(store.names()) == ["b", "checkpoints", "stage.lease"]
    assert store.read("b") == b"theirs"
    assert store.within("checkpoints").names() == ["a"]


def test_owner_learns_that_its_lease_is_another_s(store, fast):
    with Lease(store, "lease", None) as ours:
        store.write("lease", b'{"owner": "somebody else"}')
        time.sleep(1)
        with pytest.raises(LeaseLost):
            ours.check()
    assert store.read("lease") == b'{"owner": "somebody else"}'  # which we leave alone


def test_wish_to_stop_is_seen(either):
    with either.appearance("stop") as asked:
        assert not asked()
        either.write("stop", b"")
        deadline = time.monotonic() + 10
        while not asked():
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.parametrize(
    "address", ["s3://bucket/prefix", "s3://bucket", "s3://a.b-c/d/e_f/g=1/", "shared/ray", "/mnt/a b"]
)
def test_addresses_that_are_taken(address):
    storage.check_address(address)
    assert isinstance(storage.open_storage(address), ObjectStore) == address.startswith("s3:")


@pytest.mark.parametrize(
    "address",
    ["", "s3://", "s3:/bucket", "s3://B/x", "s3://bucket//x", "s3://bucket/x?y=z", "gs://bucket", "file:///x"],
)
def test_addresses_that_are_refused(address):
    with pytest.raises(ValueError, match=r"is not allowed: null, a folder, or s3://bucket/prefix") as error:
        storage.check_address(address)
    assert repr(address) in str(error.value)
