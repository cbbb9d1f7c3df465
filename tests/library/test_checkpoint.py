"""Checkpoints: whole or not there, checked when read, and never code."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import pickle

import pytest
import torch

from condensenet.training import checkpoint_files


def content(step: int) -> dict:
    return {"step": step, "weights": torch.full((3,), float(step))}


def names(folder) -> list[str]:
    return sorted(path.name.split("-")[1] for path in folder.glob("checkpoint-*.pt"))


def newest(folder):
    return max(folder.glob("checkpoint-*.pt"))


def test_newest_comes_back_and_two_are_kept(tmp_path):
    for step in (3, 20, 100):
        checkpoint_files.save(tmp_path, step, content(step))
    assert names(tmp_path) == ["00000020", "00000100"]
    loaded = checkpoint_files.load_newest(tmp_path)
    assert loaded["step"] == 100
    assert torch.equal(loaded["weights"], torch.full((3,), 100.0))


def test_nothing_there(tmp_path):
    assert checkpoint_files.load_newest(tmp_path) is None
    assert checkpoint_files.load_newest(tmp_path / "missing") is None


def test_name_carries_the_checksum(tmp_path):
    path = tmp_path / checkpoint_files.save(tmp_path, 7, content(7))
    assert path.stem.split("-")[2] == hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def fill_with_zeros(path):
    path.write_bytes(bytes(path.stat().st_size))


def append(path):
    path.write_bytes(path.read_bytes() + b"\0")


def put_a_folder_there(path):
    path.unlink()
    (path / "inside").mkdir(parents=True)


def link_to_nowhere(path):
    path.unlink()
    path.symlink_to("nowhere")


@pytest.mark.parametrize(
    "damage", [truncate, empty, flip_a_bit, fill_with_zeros, append, put_a_folder_there, link_to_nowhere]
)
def test_damaged_newest_falls_back_to_the_one_before_and_says_so(damage, tmp_path, caplog):
    checkpoint_files.save(tmp_path, 10, content(10))
    checkpoint_files.save(tmp_path, 20, content(20))
    damaged = newest(tmp_path)
    damage(damaged)
    assert checkpoint_files.load_newest(tmp_path)["step"] == 10
    assert damaged.name in caplog.text
    assert "using the one before" in caplog.text
    checkpoint_files.save(tmp_path, 20, content(20))  # the damaged one is not counted among those that are kept
    assert names(tmp_path) == ["00000010", "00000020"]
    assert checkpoint_files.load_newest(tmp_path)["step"] == 20


@pytest.mark.parametrize("damage", [truncate, put_a_folder_there])
def test_all_damaged_is_none_and_said(damage, tmp_path, caplog):
    for _ in range(2):  # a second time the names of what was put aside are taken
        for step in (10, 20):
            damage(tmp_path / checkpoint_files.save(tmp_path, step, content(step)))
        assert checkpoint_files.load_newest(tmp_path) is None
    assert caplog.text.count("using the one before") == 2
    assert caplog.text.count("there is no other, so training starts over") == 2
    for step in (5, 6, 7):
        checkpoint_files.save(tmp_path, step, content(step))
    assert names(tmp_path) == ["00000006", "00000007"]


def test_a_folder_named_as_an_old_checkpoint_is_in_nobodys_way(tmp_path):
    put_a_folder_there(tmp_path / checkpoint_files.save(tmp_path, 10, content(10)))
    for step in (20, 30, 40):
        checkpoint_files.save(tmp_path, step, content(step))
    assert checkpoint_files.load_newest(tmp_path)["step"] == 40


class Code:
    def __reduce__(self):
        return os.mkdir, ("was-run",)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_code_is_refused(how, tmp_path, monkeypatch, caplog):
    """A file with the right checksum whose pickle would run something."""
    monkeypatch.chdir(tmp_path)
    checkpoint_files.save(tmp_path, 10, content(10))
    buffer = io.BytesIO()
    if how == "torch":
        torch.save({"step": 20, "weights": Code()}, buffer)
    else:
        pickle.dump({"step": 20, "weights": Code()}, buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()[:16]
    (tmp_path / f"checkpoint-00000020-{digest}.pt").write_bytes(buffer.getvalue())
    assert checkpoint_files.load_newest(tmp_path)["step"] == 10
    assert not (tmp_path / "was-run").exists()
    messages = {"torch": "contains code", "pickle": "is not a file of plain tensors"}
    assert messages[how] in caplog.text


def test_full_disk_leaves_the_last_good_one(tmp_path, monkeypatch):
    checkpoint_files.save(tmp_path, 10, content(10))

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint_files.save(tmp_path, 20, content(20))
    assert names(tmp_path) == ["00000010"]
    assert checkpoint_files.load_newest(tmp_path)["step"] == 10
    assert [path for path in tmp_path.iterdir() if path.suffix != ".pt"] == []


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    left = tmp_path / ".checkpoint-00000010-0123456789abcdef.pt.4711.tmp"
    left.write_bytes(b"half")
    checkpoint_files.save(tmp_path, 10, content(10))
    assert not left.exists()
