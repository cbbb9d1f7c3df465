"""ImageNet's official archives, and what strange files such archives and folders hold."""

from __future__ import annotations

import gc
import io
import os
import tarfile
import tracemalloc
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import image_sources as made
import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.io
from PIL import Image
from test_prepare import prepared, refusal

from condensenet.data import PreparedData
from condensenet.data.decoding import decode
from condensenet.data.image_files import check_header
from tasks.params import DataParams
from tasks.sources import imagenet
from tasks.sources.workers import INDEXED_BYTES

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")
WNIDS = ("n01440764", "n01443537", "n02000000")
NUMBERS = {"n01440764": 3, "n01443537": 1, "n02000000": 2}  # the development kit has an order of its own
FORM = {"source": "imagenet", "path": "raw", "image_size": 16}


@pytest.fixture(autouse=True)
def _checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def tar(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def devkit(truth: list[int]) -> bytes:
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    rows = [(number, wnid, f"words of {wnid}", "-", 0) for wnid, number in NUMBERS.items()]
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": np.array([*rows, (4, "n00001740", "entity", "-", 3)], dtype=fields)})
    lines = "".join(f"{number}\n" for number in truth).encode()
    files = {"meta.mat": meta.getvalue(), "ILSVRC2012_validation_ground_truth.txt": lines}
    return tar({f"ILSVRC2012_devkit_t12/data/{name}": content for name, content in files.items()}, "w:gz")


def archives(
    train: Mapping[str, Mapping[str, bytes]] | None = None,
    validation: Mapping[str, bytes] | None = None,
    truth: list[int] | None = None,
) -> None:
    """The three files; four training images of each class, backwards, and six validation images if none are given."""
    if train is None:
        train = {
            wnid: {f"{wnid}_{index}.JPEG": picture(10 * number + index) for index in (3, 2, 1, 0)}
            for number, wnid in reversed(list(enumerate(WNIDS)))
        }
    if validation is None:
        validation = {f"ILSVRC2012_val_{index:08d}.JPEG": picture(100 + index) for index in (6, 1, 2, 3, 4, 5)}
    Path("raw").mkdir(exist_ok=True)
    Path("raw/ILSVRC2012_img_train.tar").write_bytes(tar({f"{wnid}.tar": tar(files) for wnid, files in train.items()}))
    Path("raw/ILSVRC2012_img_val.tar").write_bytes(tar(validation))
    Path("raw/ILSVRC2012_devkit_t12.tar.gz").write_bytes(devkit([3, 1, 2, 2, 1, 3] if truth is None else truth))


def picture(seed: int) -> bytes:
    return made.encoded(made.picture(seed, 20 + seed % 7, 24))


def test_the_archives_give_what_extracted_folders_give() -> None:
    archives()
    manifest = prepared(3, **FORM)
    assert manifest.classes == WNIDS
    assert manifest.splits == {"train": 12, "validation": 0, "test": 6}
    data = PreparedData("out")
    assert data.split("train").encoded(5).tobytes() == picture(11)
    assert data.split("test").labels.tolist() == [0, 0, 1, 1, 2, 2]  # numbers 3 are n01440764: images 1 and 6
    assert data.split("test").encoded(1).tobytes() == picture(106)
    files = {f"train/{wnid}/{wnid}_{i}.JPEG": picture(10 * n + i) for n, wnid in enumerate(WNIDS) for i in range(4)}
    for index, number in enumerate([3, 1, 2, 2, 1, 3], 1):
        wnid = next(wnid for wnid in WNIDS if NUMBERS[wnid] == number)
        files[f"val/{wnid}/ILSVRC2012_val_{index:08d}.JPEG"] = picture(100 + index)
    made.tree(Path("extracted"), files)
    folders = prepared(3, source="imagefolder", path="extracted", test="val", image_size=16)
    assert folders.fingerprint == manifest.fingerprint


def test_real_photographs_of_many_sizes_are_the_same_from_every_source(shared: Path) -> None:
    """Over a thousand, some of them several times, in two shards."""
    table = pq.read_table(shared / "data/imagenet-sample-330.parquet", columns=["image"])
    photographs = [row["bytes"] for row in table["image"].to_pylist()][:70]
    train = {
        wnid: {f"{wnid}_{i:03d}.JPEG": photographs[(i + 11 * number) % 70] for i in range(345)}
        for number, wnid in enumerate(WNIDS)
    }
    test = photographs[:3]
    archives(train, {f"ILSVRC2012_val_{index:08d}.JPEG": image for index, image in enumerate(test, 1)}, [3, 1, 2])
    files = {f"train/{wnid}/{name}": image for wnid, all_ in train.items() for name, image in all_.items()}
    files |= {f"val/{wnid}/a.JPEG": image for wnid, image in zip(WNIDS, test, strict=True)}
    made.tree(Path("folders"), files)
    labels = [number for number, wnid in enumerate(WNIDS) for _ in train[wnid]]
    made.shard(Path("parquet/train.parquet"), [image for all_ in train.values() for image in all_.values()], labels)
    made.shard(Path("parquet/test.parquet"), test)
    sources: list[dict[str, Any]] = [
        {"source": "imagenet", "path": "raw"},
        {"source": "imagefolder", "path": "folders", "test": "val"},
        {"source": "parquet", "path": "parquet", "train": "train.parquet", "test": "test.parquet"},
    ]
    seen = []
    for source in sources:
        manifest = prepared(3, **source, image_size=16)
        assert (manifest.splits["train"], len(manifest.shards["train"]), manifest.corrupt) == (1035, 2, ())
        seen.append({name: entry.sha256 for name, entry in manifest.files.items()})
    assert seen[0] == seen[1] == seen[2]
    split = PreparedData("out").split("train")
    assert split.encoded(345 * 2 + 7).tobytes() == photographs[7 + 22]
    assert split.labels.tolist() == labels


def test_missing_cut_and_foreign_archives_are_named() -> None:
    for name in ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"):
        archives()
        content = Path("raw", name).read_bytes()
        os.truncate(Path("raw", name), len(content) // 2)
        assert f"raw/{name} is " in refusal(3, **FORM)
        Path("raw", name).write_bytes(b"no archive at all")
        assert f"raw/{name} is " in refusal(3, **FORM)
        Path("raw", name).unlink()
        assert f"raw/{name} is missing: data.path=raw must hold ILSVRC2012_img_train.tar, " in refusal(3, **FORM)


def test_an_archive_with_a_damaged_header_loses_no_image_in_silence() -> None:
    archives()
    path = Path("raw/ILSVRC2012_img_train.tar")
    content = bytearray(path.read_bytes())
    header = content.index(b"n01440764_2.JPEG")
    content[header] ^= 1
    path.write_bytes(content)
    assert f"raw/{path.name} is cut, damaged or not a tar file: there is no header at byte" in refusal(3, **FORM)


def test_the_ground_truth_must_fit() -> None:
    archives(truth=[3, 1, 2])
    assert "img_val.tar has 6 images, but the ground truth in ILSVRC2012_devkit_t12 has 3 lines" in refusal(3, **FORM)
    archives(truth=[3, 1, 2, 2, 1, 9])
    assert "its ground truth has class 9" in refusal(3, **FORM)
    archives(train={wnid: {"a.JPEG": picture(1)} for wnid in WNIDS[:2]})
    assert "1 classes are not in all archives, the first is n02000000 (in ILSVRC2012_devkit_t12)" in refusal(3, **FORM)


def test_an_empty_class_is_named_in_training_and_in_test() -> None:
    archives(train={WNIDS[0]: {"a.JPEG": picture(1)}, WNIDS[1]: {}, WNIDS[2]: {}})
    message = refusal(3, **FORM)
    assert "2 of 3 classes have no training image, the first is n01443537 (then n02000000): is it complete?" in message
    archives(truth=[3, 1, 1, 3, 1, 3])
    assert "img_val.tar: 1 of 3 classes have no test image, the first is n02000000" in refusal(3, **FORM)


def test_an_empty_class_that_is_allowed_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    archives(truth=[3, 1, 1, 3, 1, 3])
    prepared(3, **FORM, allow_empty_classes=True)
    assert "warning: " in (out := capsys.readouterr().out)
    assert "have no test image, the first is n02000000" in out


# Strange files


def bomb(claimed: int = 65_000) -> bytes:
    """A small JPEG whose header claims ``claimed`` x ``claimed`` pixels."""
    content = bytearray(made.encoded(made.picture(1, 32, 32)))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = claimed.to_bytes(2, "big") * 2
    return bytes(content)


def rotated(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    return made.encoded(image, exif=exif)


STRANGE = {
    "cmyk.JPEG": made.encoded(made.picture(2, 30, 24).convert("CMYK")),
    "grey.JPEG": made.encoded(made.picture(3, 30, 24).convert("L")),
    "png.JPEG": made.encoded(made.picture(4, 30, 24), "PNG"),
    "turned.JPEG": rotated(made.picture(5, 30, 24)),
}


def test_an_animation_cut_anywhere_is_corrupt() -> None:
    buffer = io.BytesIO()
    frames = [made.picture(seed, 24, 24) for seed in range(3)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    for size in range(len(buffer.getvalue())):
        with suppress(ValueError):  # a single frame may be whole
            check_header(buffer.getvalue()[:size])


@pytest.mark.parametrize("form", ["folders", "archives", "parquet"])
@pytest.mark.parametrize("stored", [{}, {"shorter_side": 20}, {"shorter_side": 20, "raw": True}])
def test_strange_images_are_prepared_and_bad_ones_counted(form: str, stored: dict) -> None:
    whole = made.encoded(made.picture(6, 64, 48))
    bad = {"bomb.JPEG": bomb(), "cut.JPEG": whole[: len(whole) // 2], "nothing.JPEG": b""}
    hidden = {} if form == "parquet" else {"._cmyk.JPEG": b"\x00\x05\x16\x07Mac OS X"}
    files = STRANGE | bad | hidden
    other = {"a.JPEG": picture(1)}
    size = {"image_size": 16, "max_corrupt": 3, **stored}
    if form == "archives":
        archives(train={WNIDS[0]: files, WNIDS[1]: other, WNIDS[2]: other})
        manifest = prepared(3, source="imagenet", path="raw", **size)
    elif form == "folders":
        held = {"ant": files, "bee": other, "cat": other}
        tree = {f"train/{name}/{file}": content for name, all_ in held.items() for file, content in all_.items()}
        made.tree(Path("raw"), tree | {f"test/{name}/a.JPEG": picture(2) for name in held})
        manifest = prepared(3, source="imagefolder", path="raw", **size)
    else:
        labels = [0] * len(files) + [1, 2]
        made.shard(Path("raw/train.parquet"), [*dict(sorted(files.items())).values(), picture(1), picture(1)], labels)
        made.shard(Path("raw/test.parquet"), [picture(1)] * 3)
        manifest = prepared(3, source="parquet", path="raw", train="train.parquet", test="test.parquet", **size)
    assert len(manifest.corrupt) == 3
    assert manifest.splits["train"] == 6
    split = PreparedData("out").split("train")
    assert split.labels.tolist() == [0, 0, 0, 0, 1, 2]
    if stored.get("raw"):
        assert split.sizes.tolist()[:4] == [[20, 25]] * 4  # what EXIF says of the camera is not applied
        assert split.pixels(1).shape == (20, 25, 3)
    elif stored:
        assert {decode(split.encoded(index), 3).shape for index in range(4)} == {(3, 20, 25)}
    else:
        assert [split.encoded(index).tobytes() for index in range(4)] == [STRANGE[name] for name in sorted(STRANGE)]


def test_a_bomb_is_refused_before_it_is_decoded(capsys: pytest.CaptureFixture[str]) -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    made.image_tree(Path("raw"), size=40)
    Path("raw/train/ant/0.jpg").write_bytes(bomb())
    message = refusal(3, source="imagefolder", path="raw", image_size=16)
    assert "1 corrupt images, data.max_corrupt=0: ant/0.jpg" in message
    assert "ant/0.jpg: its header is not believed: Image size (4225000000 pixels) exceeds" in capsys.readouterr().out
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


def test_a_sliver_and_a_moving_picture_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    made.image_tree(Path("raw"), size=40)
    buffer = io.BytesIO()
    frames = [made.picture(seed, 30, 24) for seed in range(3)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    Path("raw/train/ant/0.jpg").write_bytes(made.encoded(made.picture(1, 2, 4000)))
    Path("raw/train/ant/1.jpg").write_bytes(buffer.getvalue())
    prepared(3, source="imagefolder", path="raw", image_size=16, max_corrupt=2)
    out = capsys.readouterr().out
    assert "ant/0.jpg: 2x4000 pixels: one side is more than 40 times the other" in out
    assert "ant/1.jpg: it is animated" in out


def test_the_index_of_archives_takes_few_bytes_an_image() -> None:
    """The source and the jobs of all shards; a name of ImageNet has 30 characters with its folder."""
    images = 5_000
    archives({wnid: {f"{wnid}_{index:09d}.JPEG": b"" for index in range(images)} for wnid in WNIDS})
    imagenet.read(DataParams(**FORM))  # what is imported and cached at the first time
    tracemalloc.start()
    try:
        part = imagenet.read(DataParams(**FORM)).train
        assert callable(part.images)
        count = len(part.labels)
        jobs = [part.images(np.arange(start, start + 1000)) for start in range(0, count, 1000)]
        gc.collect()  # members of the archives, which refer to each other
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert (count, len(jobs)) == (3 * images, 15)
    assert 100 < taken / count < 150 < INDEXED_BYTES
