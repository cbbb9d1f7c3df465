"""``prepare`` turns every source into the one form, and refuses in one line what is missing, cut or mislabelled."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import image_sources as made
import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR100

from condensenet.config import ModelConfig, TrainConfig
from condensenet.data import Manifest, PreparedData, evaluation_batches
from condensenet.data.decoding import decode
from tasks import params as parameters
from tasks import prepare
from tasks.errors import UserError, run_main
from tasks.params import BenchmarkParams, DataParams, EvaluateParams, ExportParams, Params, RayParams, Setting
from tasks.sources.base import hold_out, split_training_images
from tasks.sources.write_streams import RAW_MAX_SIZE

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")
CLASSES = len(made.CLASSES)


@pytest.fixture(autouse=True)
def _checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def params_of(num_classes: int, data: DataParams) -> Params:
    model = ModelConfig(
        block_depths=(1,), growth_rates=(8,), num_classes=num_classes, in_channels=data.channels, condensation_factor=1
    )
    return Params(
        study="small",
        data=data,
        ray=RayParams(),
        export=ExportParams(),
        evaluate=EvaluateParams(),
        benchmark=BenchmarkParams(),
        settings={"a": Setting(name="a", model=model, train=TrainConfig())},
    )


def prepared(num_classes: int, **data: Any) -> Manifest:
    manifest = prepare.prepare(params_of(num_classes, DataParams(**data)), Path("out"))
    PreparedData("out").verify()
    return manifest


def refusal(num_classes: int, **data: Any) -> str:
    with pytest.raises(UserError) as caught:
        prepared(num_classes, **data)
    assert "\n" not in str(caught.value)
    assert not Path("out").exists()
    return str(caught.value)


def parquet(**more: Any) -> dict[str, Any]:
    return {
        "source": "parquet",
        "path": "raw",
        "train": "train.parquet",
        "test": "test.parquet",
        "image_size": 8,
        **more,
    }


# The held-out images


def test_every_class_gives_its_share_and_always_the_same_images() -> None:
    labels = np.repeat([0, 1, 2], [50, 30, 21])
    held = hold_out(labels, 10, "validation")
    assert np.bincount(labels[held]).tolist() == [5, 3, 2]
    assert np.array_equal(held, hold_out(labels, 10, "validation"))
    assert not np.array_equal(held, hold_out(labels, 10, "test"))
    assert not hold_out(labels, 0, "validation").any()
    with pytest.raises(UserError, match="validation_images=101 is not allowed: there are 101 training images"):
        hold_out(labels, 101, "validation")


def test_fewer_training_images_are_drawn_by_class_from_those_that_are_not_held_out() -> None:
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    data = DataParams(source="digits", validation_images=10)
    every, validation = split_training_images(labels, data)
    few, same = split_training_images(labels, replace(data, train_images=30))
    assert np.bincount(labels[few]).tolist() == [18, 9, 3]  # a third of the 54, 27 and 9 that are left
    assert set(few) < set(every)
    assert np.array_equal(validation, same)
    assert np.array_equal(split_training_images(labels, replace(data, train_images=90))[0], every)
    with pytest.raises(UserError, match="train_images=91 is not allowed: 1 to 90 are left for training, or null"):
        split_training_images(labels, replace(data, train_images=91))


# What the training that comes next needs


@pytest.mark.parametrize("storage", ["/proc/trainings", "/etc/passwd"])
def test_a_storage_in_which_training_cannot_work_is_refused_before_the_work(storage: str) -> None:
    params = params_of(10, DataParams(source="digits"))
    with pytest.raises(UserError, match=rf"^ray\.storage={storage} is not allowed: trainings in progress cannot"):
        prepare.prepare(replace(params, ray=RayParams(storage=storage)), Path("out"))
    assert not Path("out").exists()


@pytest.mark.parametrize(("use_gpu", "address"), [(True, ""), (True, "10.0.0.1:6379"), (False, "")])
def test_gpus_that_training_will_lack_are_warned_of(
    use_gpu: bool, address: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a cluster are not counted here."""
    monkeypatch.setenv("RAY_ADDRESS", address)
    least = torch.cuda.device_count() + 1
    ray = RayParams(use_gpu=use_gpu, num_workers=least)
    with pytest.raises(UserError):  # the images are missing: the warning comes before them
        prepare.prepare(replace(params_of(CLASSES, DataParams(**parquet())), ray=ray), Path("out"))
    warning = f"warning: training needs {least} GPUs (ray.use_gpu=true), this machine has {least - 1}"
    assert (warning in capsys.readouterr().out) == (use_gpu and not address)


# Digits


def test_the_digits_are_split_once_and_for_all(checkout: Path) -> None:
    manifest = prepare.prepare(parameters.load(checkout / "params.yaml"), Path("out"))
    data = PreparedData("out")
    data.verify()
    assert manifest.splits == {"train": 1257, "validation": 180, "test": 360}
    assert (manifest.image_size, manifest.channels, manifest.encoding) == (8, 1, "raw")
    test = data.split("test").raw(np.arange(360))
    assert hashlib.sha256(test.tobytes()).hexdigest().startswith("e271bef6b991156c")
    assert {*np.unique(test).tolist()} == {round(value * 255 / 16) for value in range(17)}
    for name in manifest.splits:
        counts = torch.bincount(data.split(name).labels)
        assert counts.min() > 0.8 * counts.max()


# CIFAR


def test_cifar10_from_a_folder_and_from_its_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made.cifar10_folder(Path("raw/cifar-10-batches-py"))
    made.publish(monkeypatch, folder)
    manifest = prepared(10, source="cifar10", path="raw", validation_images=10)
    assert manifest.splits == {"train": 90, "validation": 10, "test": 20}
    assert manifest.classes[3] == "class 3"
    assert manifest.source == {"origin": "cifar-10-python.tar.gz"}
    batch = made.cifar_batch(20, 9)
    test = PreparedData("out").split("test")
    assert np.array_equal(test.raw(np.arange(20)), batch["data"].reshape(-1, 3, 32, 32))
    assert test.labels.tolist() == batch["labels"]
    made.archive(folder, Path("raw/own.tar.gz"))
    made.archive(folder, Path("held/cifar-10-python.tar.gz"))
    folder.rename("renamed")
    for path in ("raw/own.tar.gz", "held", "renamed"):
        again = prepared(10, source="cifar10", path=path, validation_images=10)
        assert again.fingerprint == manifest.fingerprint
    assert sorted(path.name for path in Path("held").iterdir()) == ["cifar-10-python.tar.gz"]


def test_cifar100_takes_the_fine_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"fine {number}" for number in range(100)]
    meta = {"fine_label_names": names, "coarse_label_names": ["coarse"]}
    files = {name: made.cifar_batch(200, 0, "fine_labels", 100) for name in ("train", "test")}
    made.publish(monkeypatch, made.cifar10_folder(Path("raw"), **files, meta=meta), CIFAR100)
    manifest = prepared(100, source="cifar100", path="raw")
    assert (len(manifest.classes), manifest.splits["train"]) == (100, 200)
    assert PreparedData("out").split("test").labels.tolist() == files["test"]["fine_labels"]


@pytest.mark.filterwarnings("error")
def test_a_batch_as_python_2_wrote_it(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = made.cifar_batch(20, 9)
    old = made.python2_batch(batch["data"], batch["labels"])
    made.publish(monkeypatch, made.cifar10_folder(Path("raw"), test_batch=old))
    prepared(10, source="cifar10", path="raw")
    test = PreparedData("out").split("test")
    assert np.array_equal(test.raw(np.arange(20)).reshape(20, -1), batch["data"])
    assert test.labels.tolist() == batch["labels"]


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("open('hacked', 'w').close()",))


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_cifar_file_that_is_not_the_published_one_is_named_and_never_unpickled(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = made.cifar10_folder(Path("raw/cifar-10-batches-py"))
    made.publish(monkeypatch, folder)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    for altered in (content, b"", pickle.dumps(_Evil())):
        (folder / name).write_bytes(altered)
        made.archive(folder, Path("own.tar.gz"))
        for path, location in (("raw", folder), ("own.tar.gz", "own.tar.gz")):
            message = refusal(10, source="cifar10", path=path)
            assert (
                f"{location}/{name} is not the published file: its MD5 is {hashlib.md5(altered).hexdigest()}" in message
            )
    (folder / name).unlink()
    reason = "raw: neither batches.meta" if name == "batches.meta" else f"{folder}/{name} cannot be read: No such file"
    assert reason in refusal(10, source="cifar10", path="raw")
    assert not Path("hacked").exists()


def test_a_bad_cifar_place_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made.cifar10_folder(Path("raw/cifar-10-batches-py"))
    made.publish(monkeypatch, folder)
    complete = made.archive(folder, Path("complete.tar.gz")).read_bytes()
    for content in (complete[: len(complete) // 2], b"no archive", b""):
        Path("cut.tar.gz").write_bytes(content)
        assert "cut.tar.gz cannot be extracted: " in refusal(10, source="cifar10", path="cut.tar.gz")
    for position in range(100, len(complete), len(complete) // 7):  # one bit, in a pixel too
        Path("cut.tar.gz").write_bytes(complete[:position] + bytes([complete[position] ^ 1]) + complete[position + 1 :])
        assert "cut.tar.gz" in refusal(10, source="cifar10", path="cut.tar.gz")
    Path("empty").mkdir()
    assert "empty: neither batches.meta, cifar-10-batches-py/ nor" in refusal(10, source="cifar10", path="empty")
    assert refusal(10, source="cifar10", path="nowhere").startswith("data.path=nowhere does not exist")
    assert "complete.tar.gz/train cannot be read: No such file" in refusal(
        100, source="cifar100", path="complete.tar.gz"
    )


def test_data_that_does_not_fit_the_parameters_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made.publish(monkeypatch, made.cifar10_folder(Path("raw")))
    assert "settings.a: num_classes=100 is not allowed: the data has 10" in refusal(100, source="cifar10", path="raw")
    message = refusal(10, source="cifar10", path="raw", image_size=28)
    assert message == "data: image_size=28 is not allowed with source=cifar10: it is 32"
    message = refusal(10, source="cifar10", path="raw", channels=1)
    assert message == "data: channels=1 is not allowed with source=cifar10: it is 3"


# Image folders


def test_an_image_folder_of_the_right_size_is_kept_as_pixels() -> None:
    made.image_tree(Path("raw"))
    made.tree(
        Path("raw"), {"train/ant/notes.txt": b"hello", "train/.hidden/x.jpg": b"", "train/ant/.copies/x.jpg": b""}
    )
    manifest = prepared(CLASSES, source="imagefolder", path="raw", image_size=8)
    assert (manifest.encoding, manifest.classes) == ("raw", made.CLASSES)
    assert manifest.splits == {"train": 12, "validation": 0, "test": 12}
    assert manifest.source["folders"]["train"] == {"images": 12, "other_files": 1}
    expected = decode(Path("raw/train/bee/0.jpg").read_bytes(), 3)
    assert np.array_equal(PreparedData("out").split("train").raw(np.array([4]))[0], expected.numpy())


def test_larger_images_are_kept_as_files_or_made_smaller() -> None:
    made.image_tree(Path("raw"), size=40)
    kept = prepared(CLASSES, source="imagefolder", path="raw", image_size=16)
    assert kept.encoding == "encoded"
    train = PreparedData("out").split("train")
    assert train.encoded(5).tobytes() == Path("raw/train/bee/1.jpg").read_bytes()
    smaller = prepared(CLASSES, source="imagefolder", path="raw", image_size=16, shorter_side=20)
    assert decode(PreparedData("out").split("train").encoded(5), 3).shape == (3, 20, 20)
    assert smaller.mean == pytest.approx(kept.mean, abs=0.01)
    assert prepared(CLASSES, source="imagefolder", path="raw", image_size=16, shorter_side=64).fingerprint == (
        kept.fingerprint
    )


def test_one_image_of_another_size_keeps_all_of_them_encoded(capsys: pytest.CaptureFixture[str]) -> None:
    made.shard(Path("raw/train.parquet"), [*made.pictures(70), made.encoded(made.picture(99, 9, 8))])
    made.shard(Path("raw/test.parquet"), made.pictures(6))
    assert prepared(CLASSES, **parquet()).encoding == "encoded"
    assert "not all images have 8x8 pixels" in capsys.readouterr().out


def test_large_images_of_one_size_are_not_unpacked() -> None:
    size = RAW_MAX_SIZE + 1
    made.image_tree(Path("raw"), per_class=1, size=size)
    assert prepared(CLASSES, source="imagefolder", path="raw", image_size=size).encoding == "encoded"


def test_grey_images_for_a_network_of_one_channel() -> None:
    made.image_tree(Path("raw"))
    manifest = prepared(CLASSES, source="imagefolder", path="raw", image_size=8, channels=1)
    assert (manifest.channels, len(manifest.mean)) == (1, 1)
    images, _ = next(evaluation_batches(PreparedData("out").split("test"), 4))
    assert images.shape == (4, 1, 8, 8)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "raw/train does not exist"),
        ({"train/a/x.jpg": b"", "val/a/x.jpg": b""}, "one folder per class (there is val: data.test: val)"),
        ({"training/a/x.jpg": b""}, "one folder per class (there is training: data.train: training)"),
        ({"train/a/x.jpg": b"", "other/a/x.jpg": b""}, "(data.test names it; there are other, train)"),
        ({"train/x.jpg": b""}, "raw/train: it has no class folders"),
        ({"train/a/x.jpg": b"", "test/b/x.jpg": b""}, "its classes are not those of"),
        ({"train/a/x.txt": b"", "test/a/x.txt": b""}, "raw/train: it holds no images"),
        ({"train/a/1.jpg": b"", "train/b/1.txt": b"", "test/a/1.jpg": b"", "test/b/1.jpg": b""}, "the first is b"),
        ({"train/a\nb/1.jpg": b"", "test/c/1.jpg": b""}, r"the first is 'a\nb'"),
    ],
)
def test_a_bad_image_folder_is_named(files: dict[str, bytes], message: str) -> None:
    made.tree(Path("raw"), {"here": b"", **files})
    classes = len({name.split("/")[1] for name in files if name.startswith("train/")})
    assert message in refusal(max(classes, 1), source="imagefolder", path="raw")


# Parquet


def test_shards_of_both_kinds_of_metadata_are_read_in_order() -> None:
    content = made.pictures(12)
    hugging_face = {"huggingface": json.dumps({"info": {"features": {"label": {"names": list(made.CLASSES)}}}})}
    made.shard(Path("raw/train-0.parquet"), content[:5], [0, 1, 2, 0, 1], hugging_face)
    made.shard(Path("raw/train-1.parquet"), content[5:], [2] * 7, hugging_face)
    made.shard(Path("raw/test.parquet"), made.pictures(3, start=50))
    by_glob = prepared(CLASSES, **parquet(train="train-*.parquet"))
    train = PreparedData("out").split("train")
    assert train.labels.tolist() == [0, 1, 2, 0, 1] + [2] * 7
    assert np.array_equal(train.raw(np.array([6]))[0], decode(content[6], 3).numpy())
    assert [shard["file"] for shard in by_glob.source["train"]] == ["train-0.parquet", "train-1.parquet"]
    by_list = prepared(CLASSES, **parquet(train="train-1.parquet, train-0.parquet"))
    assert PreparedData("out").split("train").labels.tolist() == [2] * 7 + [0, 1, 2, 0, 1]
    assert by_list.fingerprint != by_glob.fingerprint


BAD_SHARDS: list[tuple[dict[str, Any], str]] = [
    ({"labels": [0, 1, 2] * 3 + [0, 1, 3]}, "raw/train.parquet: image 11 has label 3, allowed are 0 to 2 (1 of 12"),
    ({"labels": [0, 1, 2] * 3 + [0, -1, 2]}, "raw/train.parquet: image 10 has label -1"),
    ({"labels": [0, 1, 2] * 3 + [0, 1, None]}, "raw/train.parquet: 1 rows have no label"),
    ({"labels": [0, 1] * 6}, "1 of 3 classes have no training image, the first is cat"),
    ({"metadata": {}}, "raw/train.parquet: its metadata has no class names"),
    ({"metadata": {"class_names": '["ant", "bee"]'}, "labels": [0, 1] * 6}, "raw/test.parquet: its 3 class names are"),
]


@pytest.mark.parametrize(("how", "message"), BAD_SHARDS, ids=range(len(BAD_SHARDS)))
def test_a_mislabelled_shard_is_named(how: dict[str, Any], message: str) -> None:
    made.shards(Path("raw"), **how)
    assert message in refusal(CLASSES, **parquet())


def test_a_part_that_lacks_classes_is_taken_when_that_is_asked_for() -> None:
    made.shards(Path("raw"), labels=[0, 1] * 6)
    assert prepared(CLASSES, **parquet(allow_empty_classes=True)).splits["train"] == 12


def test_training_on_the_test_images_gives_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    made.shards(Path("raw"))
    prepared(CLASSES, **parquet(test="train.parquet"))
    assert "warning: train.parquet is used for training and for testing" in capsys.readouterr().out


def test_a_missing_or_foreign_shard_is_named() -> None:
    made.shards(Path("raw"))
    for name in ("none-*.parquet", "", ".", "/raw/train.parquet"):
        assert f"data.train={name} matches no file in" in refusal(CLASSES, **parquet(train=name))
    assert "data.train= matches no file in" in refusal(CLASSES, **parquet(train="train.parquet,"))
    Path("raw/test.parquet").write_bytes(b"PAR1 not really PAR1")
    assert "raw/test.parquet is damaged or not a Parquet file" in refusal(CLASSES, **parquet())
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"img": [1], "label": [0]}), "raw/test.parquet")
    assert "column image (a struct of bytes and path) is missing: it has img, label" in refusal(CLASSES, **parquet())
    pq.write_table(pa.table({"image": [{"path": "x"}], "label": [0]}), "raw/test.parquet")
    assert "column image has no field bytes" in refusal(CLASSES, **parquet())
    pq.write_table(pa.table({"image": [{"bytes": b"x"}], "label": ["cat"]}), "raw/test.parquet")
    assert "column label (integers) is missing: label is string" in refusal(CLASSES, **parquet())


def test_a_truncated_shard_is_named() -> None:
    made.shards(Path("raw"))
    complete = Path("raw/train.parquet").read_bytes()
    Path("raw/train.parquet").write_bytes(complete[: len(complete) // 2])
    assert "raw/train.parquet is damaged or not a Parquet file" in refusal(CLASSES, **parquet())


@pytest.mark.parametrize("position", [0.02, 0.4])
def test_a_damaged_row_group_is_named(position: float) -> None:
    made.shards(Path("raw"), row_group_size=4)
    content = bytearray(Path("raw/train.parquet").read_bytes())
    start = int(len(content) * position)
    content[start : start + 300] = bytes(300)
    Path("raw/train.parquet").write_bytes(content)
    assert "raw/train.parquet is damaged: " in refusal(CLASSES, **parquet())


# Corrupt images


def corrupt_shards() -> None:
    content: list[bytes | None] = [*made.pictures(12)]
    content[4], content[7], content[9] = b"<html>not found</html>", content[7][:200], None  # type: ignore[index]
    made.shards(Path("raw"))
    made.shard(Path("raw/train.parquet"), content)


def test_corrupt_images_are_counted_named_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    corrupt_shards()
    manifest = prepared(CLASSES, **parquet(max_corrupt=3))
    assert manifest.splits["train"] == 9
    assert [name.split(" (")[0] for name in manifest.corrupt] == [f"train.parquet row {row}" for row in (4, 7, 9)]
    assert PreparedData("out").split("train").labels.tolist() == [0, 1, 2, 0, 2, 0, 2, 1, 2]
    assert "corrupt image 2: train.parquet row 7 (7.jpg): " in capsys.readouterr().out


def test_past_the_limit_corrupt_images_are_fatal_and_all_named() -> None:
    corrupt_shards()
    message = refusal(CLASSES, **parquet(max_corrupt=2))
    assert "raw/train.parquet: 3 corrupt images, data.max_corrupt=2: train.parquet row 4 (4.jpg); " in message
    assert "row 9" in message


def test_odd_names_of_corrupt_images_are_escaped_and_only_shown(capsys: pytest.CaptureFixture[str]) -> None:
    odd = ["\x1b[2J", "a\u202eb", "a\nb", "../../../escape.jpg", "/etc/passwd", "x" * 100_000]
    images: list[bytes | None] = [*made.pictures(12)]
    images[: len(odd)] = [b"no image"] * len(odd)
    made.shards(Path("raw"))
    made.shard(Path("raw/train.parquet"), images, names=[*odd, *(f"{number}.jpg" for number in range(6))])
    message = refusal(CLASSES, **parquet(max_corrupt=1))
    assert message.isprintable()
    assert len(message) < 1000
    capsys.readouterr()
    manifest = prepared(CLASSES, **parquet(max_corrupt=len(odd)))
    shown = ["\\x1b[2J", "a\\u202eb", "a\\nb", "../../../escape.jpg", "/etc/passwd", "x" * 200]
    assert manifest.corrupt == tuple(f"train.parquet row {row} ({name})" for row, name in enumerate(shown))
    assert Manifest.load(Path("out/manifest.json")).corrupt == manifest.corrupt
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())
    assert {path.name for path in Path().iterdir()} <= {"raw", "out", "state"}


def test_a_hopeless_source_is_not_read_to_its_end() -> None:
    made.shards(Path("raw"))
    made.shard(Path("raw/train.parquet"), [b"no image"] * 400)
    assert "11 corrupt images, data.max_corrupt=0" in refusal(CLASSES, **parquet())


def test_a_source_without_an_intact_image_is_refused_whatever_the_limit() -> None:
    made.shards(Path("raw"))
    made.shard(Path("raw/train.parquet"), [b"no image"] * 12)
    assert "all of its 12 train images are corrupt" in refusal(CLASSES, **parquet(max_corrupt=100))
    made.shards(Path("raw"))
    made.shard(Path("raw/test.parquet"), [b"no image"] * 6)
    assert "all of its 6 test images are corrupt" in refusal(CLASSES, **parquet(max_corrupt=100))


def test_corrupt_image_files_are_named() -> None:
    made.image_tree(Path("raw"))
    Path("raw/train/bee/1.jpg").write_bytes(b"oops")
    Path("raw/test/cat/2.jpg").write_bytes(b"")
    manifest = prepared(CLASSES, source="imagefolder", path="raw", image_size=8, max_corrupt=2)
    assert manifest.corrupt == ("bee/1.jpg", "cat/2.jpg")


def test_what_is_no_file_or_too_large_for_an_image_is_corrupt() -> None:
    made.image_tree(Path("raw"))
    pipe, device, huge = (Path(f"raw/train/bee/{number}.jpg") for number in (7, 8, 9))
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    with huge.open("wb") as file:
        file.truncate(40 << 30)  # takes no space
    manifest = prepared(CLASSES, source="imagefolder", path="raw", image_size=8, max_corrupt=3)
    assert manifest.corrupt == ("bee/7.jpg", "bee/8.jpg", "bee/9.jpg")


# Real images


def test_real_cifar_images_from_parquet(shared: Path) -> None:
    import pyarrow.parquet as pq

    for part in ("train", "test"):
        file = pq.ParquetFile(shared / f"data/cifar10-jpeg-{part}.parquet")
        Path("raw").mkdir(exist_ok=True)
        pq.write_table(file.read_row_group(0).slice(0, 500), f"raw/{part}.parquet")
    manifest = prepared(10, **parquet(image_size=32, validation_images=50))
    assert manifest.splits == {"train": 450, "validation": 50, "test": 500}
    assert manifest.classes[0] == "airplane"
    assert (manifest.encoding, manifest.corrupt) == ("raw", ())
    assert manifest.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=0.02)  # those of all of CIFAR-10


def test_real_large_images_from_parquet(shared: Path) -> None:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(shared / "data/imagenet-sample-330.parquet")
    Path("raw").mkdir()
    pq.write_table(file.read_row_group(0).slice(0, 24), "raw/train.parquet")
    data = parquet(image_size=64, test="train.parquet", shorter_side=80, allow_empty_classes=True)
    manifest = prepared(1000, **data)
    assert manifest.encoding == "encoded"
    images, labels = next(evaluation_batches(PreparedData("out").split("test"), 24))
    assert images.shape == (24, 3, 64, 64)
    assert labels.tolist() == file.read_row_group(0).slice(0, 24)["label"].to_pylist()
    assert 0.5 < images.std() < 1.5


# The stage itself


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        run_main(interrupted)
    assert caught.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_the_stage_says_a_mistake_in_one_line(
    monkeypatch: pytest.MonkeyPatch, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["prepare.py"])
    original = (checkout / "params.yaml").read_text()
    Path("params.yaml").write_text(original.replace("num_classes: 10", "num_classes: 11"))
    with pytest.raises(SystemExit) as caught:
        run_main(prepare.main)
    assert str(caught.value) == "error: settings.g1-c1: num_classes=11 is not allowed: the data has 10"
    Path("params.yaml").write_text(original)
    run_main(prepare.main)
    assert "1257 train, 180 validation, 360 test; fingerprint" in capsys.readouterr().out
