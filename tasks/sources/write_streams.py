"""Prepares streams of encoded images, in shards. Each image is decoded once, to find the corrupt ones.

If all images are small and have the network's input size, they are stored as raw pixels, which training need not
decode. Otherwise the encoded files are stored; images larger than ``data.shorter_side`` are first downscaled and
encoded as JPEG or, with ``data.raw``, kept as pixels.

Which images are in a shard depends on the source alone. Several processes make the shards; what was finished when a run
was killed is taken over by the next one. So neither the number of processes nor a kill changes a byte.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torchvision

from condensenet.data import Manifest
from condensenet.data.in_progress import resumable_folder
from condensenet.data.manifest import Encoding, images_files
from condensenet.data.shards import Shard
from condensenet.data.writing import Description, assemble
from condensenet.files import sha256
from tasks.console import progress, say
from tasks.errors import UserError
from tasks.params import DataParams, RayParams
from tasks.sources.base import Part, Source
from tasks.sources.corrupt import CorruptImages
from tasks.sources.examine import OtherSize
from tasks.sources.ray_workers import has_cluster, make_on_cluster
from tasks.sources.shard_work import Job, Result, load
from tasks.sources.space import check_space, one_line_if_full, sampled_bytes
from tasks.sources.workers import make_all, number_of_workers

RAW_MAX_SIZE = 96  # pixels; raw pixels of larger images would take too much disk space
SHARD_IMAGES = 1024
RAW_SHARD_BYTES = 2**28  # of small images: more of them make a shard
MUCH_GB = 10.0  # to read takes so long that it is announced
VERSION = 1  # of what shards hold for the same parameters and the same source


@dataclass(frozen=True, kw_only=True)
class Task:
    """``splits``: for each its part of the source and the indices of its images there."""

    name: str
    data: DataParams
    source: Source
    splits: Mapping[str, tuple[Part, np.ndarray]]
    root: Path  # absolute
    shard_images: int | None
    ray: RayParams


def write_streams(
    name: str,
    data: DataParams,
    source: Source,
    train: np.ndarray,
    validation: np.ndarray,
    root: Path,
    shard_images: int | None = None,
    ray: RayParams = RayParams(),  # noqa: B008  frozen
) -> Manifest:
    """Prepare a ``source`` of image streams in the folder ``root``.

    ``train`` and ``validation`` are the indices of its training images for these splits, int64 (N,).
    ``shard_images`` is the number of images in a shard (default: 1024, or more small ones); ``ray`` is the use of a
    cluster, if ``RAY_ADDRESS`` names one. Raises ``UserError``.
    """
    splits = {
        "train": (source.train, train),
        "validation": (source.train, validation),
        "test": (source.test, np.arange(len(source.test.labels))),
    }
    splits = {split: (part, indices) for split, (part, indices) in splits.items() if len(indices)}
    root = root.absolute()
    task = Task(name=name, data=data, source=source, splits=splits, root=root, shard_images=shard_images, ray=ray)
    with resumable_folder(root, _key(task)) as folder, one_line_if_full(folder):
        manifest = _prepare(task, folder)
        shutil.rmtree(folder)
    return manifest


def _key(task: Task) -> str:
    """What tells this preparation from others: only the same one may go on with its shards."""
    data, source = asdict(task.data), task.source
    for key in ("augment", "max_corrupt", "allow_empty_classes"):
        del data[key]
    state = [VERSION, torchvision.__version__, data, source.classes, source.facts, task.shard_images]
    for part in (source.train, source.test):
        state += [part.identity, hashlib.sha256(part.labels.tobytes()).hexdigest()]
    state += [hashlib.sha256(indices.tobytes()).hexdigest() for _, indices in task.splits.values()]
    return hashlib.sha256(json.dumps(state, default=str).encode()).hexdigest()[:16]


def _prepare(task: Task, folder: Path) -> Manifest:
    data, other_size = task.data, folder / "other-size"  # an earlier run has found that not all can be raw
    if data.image_size <= RAW_MAX_SIZE and not data.raw and not other_size.exists():
        try:
            return _write(task, folder, "raw")
        except OtherSize:
            say(f"not all images have {data.image_size}x{data.image_size} pixels: they stay encoded")
            other_size.touch()
    return _write(task, folder, "pixels" if data.raw else "encoded")


def _write(task: Task, folder: Path, encoding: Encoding) -> Manifest:
    files, records = folder / encoding, folder / f"{encoding}.records"
    for each in (files, records):
        each.mkdir(exist_ok=True)
    for abandoned in (*files.glob(".*"), *records.glob(".*")):
        abandoned.unlink()  # of a killed process
    jobs = _jobs(task, files, records, encoding)
    results = {job.file: result for job in jobs if (result := load(job)) is not None}
    _make_missing(task, folder, jobs, results)
    return _assemble(task, files, encoding, [(job, results[job.file]) for job in jobs])


def _jobs(task: Task, files: Path, records: Path, encoding: Encoding) -> list[Job]:
    count = task.shard_images or SHARD_IMAGES
    if encoding == "raw":
        count = task.shard_images or max(count, RAW_SHARD_BYTES // (task.data.channels * task.data.image_size**2))
    jobs = []
    for split, (part, indices) in task.splits.items():
        assert not isinstance(part.images, np.ndarray)
        chunks = [indices[start : start + count] for start in range(0, len(indices), count)]
        named = zip(images_files(split, len(chunks)), chunks, strict=True)
        for name, chunk in progress(named, len(indices), f"looking at {split}", lambda pair: len(pair[1])):
            jobs.append(
                Job(
                    file=files / name,
                    record=records / f"{name}.json",
                    split=split,
                    labels=part.labels[chunk],
                    stream=part.images(chunk),
                    state=part.state(chunk),
                    data=task.data,
                    encoding=encoding,
                )
            )
    return jobs


def _make_missing(task: Task, folder: Path, jobs: Sequence[Job], results: dict[Path, Result]) -> None:
    """Make the shards of ``jobs`` that have no result yet, and enter theirs."""
    missing = [job for job in jobs if job.file not in results]
    total, left = (sum(len(job.labels) for job in each) for each in (jobs, missing))
    if missing:
        image_bytes = sampled_bytes([part for part, _ in task.splits.values()], task.data, missing[0].encoding)
        check_space(folder, left * image_bytes)
    if left < total:
        say(f"prepare: going on after {total - left} of {total} images")
    corrupt = CorruptImages(task.data.max_corrupt)
    if has_cluster(task.ray, left):
        results_in_order = make_on_cluster(missing, task.ray)
    else:
        results_in_order = make_all(missing, number_of_workers(len(missing), left, total))
    made = zip(missing, results_in_order, strict=True)
    for job, result in progress(made, total, "prepare", lambda pair: len(pair[0].labels), total - left):
        results[job.file] = result
        corrupt.add(task.splits[job.split][0], result.corrupt)
    corrupt.check()


def _assemble(task: Task, files: Path, encoding: Encoding, made: Sequence[tuple[Job, Result]]) -> Manifest:
    for kind, part in (("train", task.source.train), ("test", task.source.test)):
        intact = sum(len(result.shard.labels_N) for job, result in made if job.split == kind)
        if intact == 0:
            raise UserError(f"{part.location}: all of its {len(part.labels)} {kind} images are corrupt")
    data = task.data
    about = Description(
        name=task.name,
        classes=task.source.classes,
        encoding=encoding,
        image_size=data.image_size,
        channels=data.channels,
    )
    histogram_CV = np.zeros((data.channels, 256), dtype=np.int64)
    shards: dict[str, list] = {split: [] for split in task.splits}
    for job, result in made:
        shards[job.split].append(result.shard)
        if job.split == "train":
            histogram_CV += result.histogram_CV
    corrupt = [name for _, result in made for name, _ in result.corrupt]
    read_gb = sum(result.shard.file.bytes for _, result in made) / 1e9
    if read_gb > MUCH_GB:
        say(f"prepare: {read_gb:.3g} GB are read back and compared with what was written")
    try:
        return assemble(files, task.root, about, shards, histogram_CV, source=task.source.facts, corrupt=corrupt)
    except ValueError as error:
        _forget_changed([(job, result.shard) for job, result in made], error)
        raise


def _forget_changed(made: Sequence[tuple[Job, Shard]], error: ValueError) -> None:
    """Shards that are not what was written must be made again; raises ``UserError`` if there are any."""
    changed = [job for job, shard in made if sha256(job.file) != shard.file.sha256]
    for job in changed:
        job.record.unlink()
    if changed:
        names = ", ".join(job.file.name for job in changed[:3])
        raise UserError(
            f"{len(changed)} prepared files are not what was written, the first are {names}: is the disk faulty? "
            "Run it again: it makes those anew"
        ) from error
