"""Shards: the same bytes whoever makes them and whatever was killed, finished ones never made again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import image_sources as made
import numpy as np
import psutil
import pytest
import torch

from condensenet.config import AugmentConfig
from condensenet.data import Manifest, PreparedData, evaluation_batches, train_batches
from condensenet.data import in_progress as in_progress_module
from condensenet.data.writing import assemble
from tasks.errors import UserError
from tasks.params import DataParams, RayParams
from tasks.sources import imagefolder
from tasks.sources import workers as workers_module
from tasks.sources import write_streams as write_streams_module
from tasks.sources.base import Part, split_training_images
from tasks.sources.space import INDEX_BYTES, check_space, sampled_bytes
from tasks.sources.workers import WORKERS
from tasks.sources.write_streams import write_streams

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")
IN_A_SHARD = 7
FORMS: dict[str, dict[str, Any]] = {
    "as is": {},
    "smaller": {"shorter_side": 20},
    "pixels": {"shorter_side": 20, "raw": True},
    "raw": {"image_size": 8},  # one size, that of the input
}


@pytest.fixture(autouse=True)
def _checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(WORKERS, "1")


def source(per_class: int = 12, size: int | None = None) -> None:
    """Images of many sizes, or of one."""
    files = {}
    for part, start in (("train", 0), ("test", 1000)):
        for number, name in enumerate(made.CLASSES):
            for index in range(per_class):
                seed = start + 100 * number + index
                width, height = (size, size) if size else (18 + seed % 23, 17 + seed % 19)
                files[f"{part}/{name}/{index:03d}.jpg"] = made.encoded(made.picture(seed, width, height))
    made.tree(Path("raw"), files)


def prepare(
    root: str = "out",
    shard_images: int | None = IN_A_SHARD,
    validation: int = 9,
    ray: RayParams = RayParams(),  # noqa: B008  frozen
    **more: Any,
) -> Manifest:
    data = DataParams(source="imagefolder", path="raw", **{"image_size": 16, **more})
    read = imagefolder.read(data)
    indices = split_training_images(read.train.labels, replace(data, validation_images=validation))
    return write_streams("shards", data, read, *indices, Path(root), shard_images, ray)


def content(root: str = "out") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(root).iterdir()}


def in_progress() -> list[Path]:
    return list(Path().glob(".out.partial-*"))


@pytest.mark.parametrize("form", FORMS)
def test_the_number_of_workers_changes_no_byte(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source(size=8 if form == "raw" else None)
    manifest = prepare(**FORMS[form])
    one = content()
    assert manifest.shards == {"train": (7, 7, 7, 6), "validation": (7, 2), "test": (7, 7, 7, 7, 7, 1)}
    assert {"train-00000-of-00004.images.bin", "validation-00001-of-00002.images.bin"} < one.keys()
    for workers in ("2", "4") if form == "pixels" else ("2",):
        monkeypatch.setenv(WORKERS, workers)
        prepare(**FORMS[form])
        assert content() == one
    assert in_progress() == []


def test_one_process_makes_shards_in_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """With more of them, images of ImageNet took five times as long on a busy machine."""
    monkeypatch.setattr(workers_module, "make", lambda _: torch.get_num_threads())
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        made_with = workers_module.make_all([None, None], workers=1)
        assert [(threads, torch.get_num_threads()) for threads in made_with] == [(1, 2), (1, 2)]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("form", FORMS)
def test_several_shards_give_the_batches_of_one(form: str) -> None:
    source(size=8 if form == "raw" else None)
    epoch: dict[str, Any] = {"batch_size": 6, "seed": 3, "epoch": 2}
    batches = []
    for shard_images in (IN_A_SHARD, 1000):
        prepare(shard_images=shard_images, **FORMS[form])
        data = PreparedData("out")
        data.verify()
        augment = AugmentConfig(crop="none" if form == "raw" else "resized", flip=True)
        batches.append(
            [
                *train_batches(data.split("train"), augment=augment, **epoch),
                *evaluation_batches(data.split("validation"), 4),
                *evaluation_batches(data.split("test"), 4),
            ]
        )
    assert sorted(path.name for path in Path("out").glob("test*.bin")) == ["test.images.bin"]
    for (images, labels), (expected, expected_labels) in zip(*batches, strict=True):
        assert torch.equal(images, expected)
        assert torch.equal(labels, expected_labels)


def test_pixels_give_the_crops_of_the_whole_decoded_image() -> None:
    """Stored as pixels or as PNG, which loses nothing: the same batches, though of the former only rows are read."""
    files = {
        f"{part}/{name}/{index}.png": made.encoded(made.picture(index, 25 + 3 * index, 40 - index), "PNG")
        for part in ("train", "test")
        for name in made.CLASSES
        for index in range(5)
    }
    made.tree(Path("raw"), files)
    seen = []
    for form in ({}, {"shorter_side": 99, "raw": True}):
        manifest = prepare(validation=0, **form)
        assert manifest.encoding == ("pixels" if form else "encoded")
        data = PreparedData("out")
        augment = AugmentConfig(crop="resized", flip=True)
        batches = train_batches(data.split("train"), augment=augment, batch_size=5, seed=1, epoch=0)
        seen.append(torch.cat([images for images, _ in (*batches, *evaluation_batches(data.split("test"), 5))]))
    assert torch.equal(*seen)


SCRIPT = """
if __name__ == "__main__":  # worker processes import this file again
    from test_prepare_shards import prepare

    prepare(shorter_side=20)
"""


def command() -> dict[str, Any]:
    """A process that prepares, for ``subprocess``; a real file, which worker processes can import."""
    Path("run.py").write_text(SCRIPT)
    folders = [*sys.path, str(Path(__file__).parent)]
    return {"args": [sys.executable, "run.py"], "env": {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}}


def finished() -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in Path().glob(".out.partial-*/encoded.records/*.json")}


@pytest.mark.parametrize(("workers", "kills"), [("1", (1, 5)), ("2", (2,))])
def test_a_killed_run_goes_on_at_the_shard(workers: str, kills: tuple[int, ...], monkeypatch) -> None:
    source(per_class=60)
    prepare(shorter_side=20)
    expected = content()
    Path("out").rename("whole")
    monkeypatch.setenv(WORKERS, workers)
    done: dict[str, int] = {}
    for number in kills:
        process = subprocess.Popen(**command())
        deadline = time.monotonic() + 90
        while len(finished()) < number and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        family = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL
        assert psutil.wait_procs(family, timeout=20)[1] == []  # workers end with it
        assert not Path("out").exists()
        assert done.items() <= finished().items()
        done = finished()
        assert number <= len(done) < 51
    prepare(shorter_side=20)
    assert content() == expected
    assert in_progress() == []


def test_a_failed_run_goes_on_too_and_looks_again_at_corrupt_images(capsys: pytest.CaptureFixture[str]) -> None:
    source()
    good = Path("raw/train/cat/011.jpg").read_bytes()
    prepare()
    expected = content()
    Path("raw/train/cat/011.jpg").write_bytes(b"oops")
    with pytest.raises(UserError, match=r"1 corrupt images, data.max_corrupt=0: cat/011.jpg"):
        prepare()
    Path("raw/train/cat/011.jpg").write_bytes(good)
    capsys.readouterr()
    prepare()
    assert "prepare: going on after " in capsys.readouterr().out
    assert content() == expected


def test_a_run_killed_while_it_removes_the_old_images_stops_no_later_one(monkeypatch: pytest.MonkeyPatch) -> None:
    source()
    prepare()
    expected = content()
    with monkeypatch.context() as patch:
        patch.setattr(in_progress_module, "_remove", lambda folder: folder.exists() and 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare()
    assert list(Path().glob(".out.partial-*/encoded.old/*"))
    prepare()
    assert content() == expected
    assert in_progress() == []


def test_an_image_replaced_between_two_runs_is_prepared_as_it_is_now() -> None:
    source()
    Path("raw/train/cat/011.jpg").write_bytes(b"oops")
    with pytest.raises(UserError, match="corrupt"):
        prepare()
    for name in ("cat/011.jpg", "cat/000.jpg"):  # the second is in another shard, which is finished
        Path("raw/train", name).write_bytes(made.encoded(made.picture(777, 30, 30)))
    prepare()
    resumed = content()
    shutil.rmtree("out")
    prepare()
    assert content() == resumed


def test_a_shard_that_the_disk_has_changed_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    source()
    prepare()
    expected = content()
    with monkeypatch.context() as patch:
        patch.setattr(write_streams_module, "assemble", flip_a_byte_first)
        with pytest.raises(UserError, match=r"1 prepared files are not what was written"):
            prepare()
    prepare()
    assert content() == expected


def flip_a_byte_first(files: Path, *arguments: Any, **keywords: Any) -> Manifest:
    path = files / "train-00001-of-00004.images.bin"
    damaged = bytearray(path.read_bytes())
    damaged[5] ^= 1
    path.write_bytes(damaged)
    return assemble(files, *arguments, **keywords)


def test_another_source_or_another_form_starts_anew(capsys: pytest.CaptureFixture[str]) -> None:
    source()
    Path("raw/train/cat/011.jpg").write_bytes(b"oops")
    for form in ({"shorter_side": 20}, {"shorter_side": 18}):
        with pytest.raises(UserError, match="1 corrupt images"):
            prepare(**form)
    assert len(in_progress()) == 1
    Path("raw/train/cat/011.jpg").rename("raw/train/cat/000.jpg")
    with pytest.raises(UserError, match="1 corrupt images"):
        prepare(shorter_side=18)
    assert len(in_progress()) == 1
    assert "going on" not in capsys.readouterr().out


def test_a_worker_that_is_killed_is_one_line_and_its_work_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    source(per_class=60)
    monkeypatch.setenv(WORKERS, "2")
    process = subprocess.Popen(**command(), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 90
    while len(finished()) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    for child in psutil.Process(process.pid).children(recursive=True):
        if child.children() == [] and "forkserver" in " ".join(child.cmdline()):
            child.kill()
    _, errors = process.communicate()
    assert "a process that prepared images was killed" in errors.splitlines()[-1]
    assert f"{WORKERS} below 2" in errors.splitlines()[-1]
    assert len(finished()) >= 2
    prepare(shorter_side=20)
    assert in_progress() == []


def test_two_at_once_are_refused() -> None:
    source()
    Path("raw/train/cat/011.jpg").write_bytes(b"oops")
    with pytest.raises(UserError):
        prepare()
    import fcntl

    with open(in_progress()[0] / "../x", "w"), _opened(in_progress()[0]) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="is in use: the same data is being prepared by another process"):
            prepare()


class _opened:
    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __enter__(self) -> int:
        return self.descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)


def test_a_bad_number_of_workers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    source()
    monkeypatch.setenv(WORKERS, "none")
    with pytest.raises(UserError, match=f"{WORKERS}='none' is not allowed: it must be 1 to"):
        prepare()


# Space


def test_what_does_not_fit_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the prepared images need about 1.1 EB, but .* is free: make room") as caught:
        check_space(tmp_path, 1e18)
    assert "\n" not in str(caught.value)
    check_space(tmp_path, 1.0)


AS_IS = DataParams(source="imagefolder", path=".", image_size=64)


def padded(count: int, size: int) -> Iterator[bytes]:
    """Intact images of ``size`` bytes: what follows the end of a JPEG is not read."""
    yield from (made.encoded(made.picture(0, 100, 100)).ljust(size, b"\0") for _ in range(count))


def part_of(folder: Path, few: int, many: int) -> Part:
    """``many`` images of 4,000 bytes in ten classes and, in every other class, ``few`` of 12,000 at the end."""
    files = {}
    for name in range(10):
        small, large = padded(many, 4_000), padded(few if name % 2 else 0, 12_000)
        files |= {f"{name}/{index:04d}.jpg": image for index, image in enumerate((*small, *large))}
    made.tree(folder / "train", files)
    classes = {path.split("/")[0] for path in files}
    made.tree(folder / "test", {f"{name}/0.jpg": next(padded(1, 4_000)) for name in classes})
    return imagefolder.read(replace(AS_IS, path=str(folder))).train


def test_the_sizes_of_images_that_stay_as_they_are_are_summed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 of 4,000 bytes and 50 of 12,000; nothing is read."""
    part = part_of(tmp_path, few=10, many=100)
    monkeypatch.setattr("tasks.sources.space.examine", None)
    expected = (1_000 * 4_000 + 50 * 12_000) / 1_050 + INDEX_BYTES
    assert sampled_bytes([part], AS_IS, "encoded") == pytest.approx(expected)


def test_a_part_of_many_images_weighs_more(tmp_path: Path) -> None:
    large, small = part_of(tmp_path / "large", few=100, many=0), part_of(tmp_path / "small", few=0, many=1)
    expected = (500 * 12_000 + 10 * 4_000) / 510 + INDEX_BYTES
    assert sampled_bytes([large, small], AS_IS, "encoded") == pytest.approx(expected)


def test_sizes_that_are_not_known_are_sampled_all_over_the_part(tmp_path: Path) -> None:
    """Large images lie together at the end of every other class: a fifth of all."""
    part = replace(part_of(tmp_path, few=50, many=100), sizes=None)
    expected = (1_000 * 4_000 + 250 * 12_000) / 1_250 + INDEX_BYTES
    assert sampled_bytes([part], AS_IS, "encoded") == pytest.approx(expected, rel=0.03)


def test_a_small_disk_is_refused_at_once(small_disk: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    image = made.encoded(made.Image.fromarray(noise))
    names = [f"{part}/{name}/{index}.jpg" for part in ("train", "test") for name in made.CLASSES for index in range(40)]
    made.tree(Path("raw"), dict.fromkeys(names, image))
    with pytest.raises(UserError, match=r"disk: the prepared images need about .* MB, but 4.19 MB is free"):
        prepare(root="disk/out")


def test_a_disk_that_fills_up_is_one_line(small_disk: Path) -> None:
    source(per_class=60)
    (small_disk / "other").write_bytes(bytes(2**22 - 2**17))
    with pytest.raises(UserError, match=r"disk: (the disk is full. Make room|the prepared images need)") as caught:
        prepare(root="disk/out", raw=True, shorter_side=40)
    assert "\n" not in str(caught.value)
    (small_disk / "other").unlink()
    prepare(root="disk/out", raw=True, shorter_side=40)
    PreparedData("disk/out").verify()
