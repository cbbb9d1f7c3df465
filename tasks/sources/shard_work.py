"""Making one shard: the unit of work that a process does and that a killed run does not repeat.

A shard is made of given images of the source, so it is the same whichever process makes it. Its file of images comes
first and then, as the sign that it is complete, a JSON file of what it holds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import numpy as np

from condensenet.data.manifest import Encoding, FileEntry
from condensenet.data.shards import Shard, ShardWriter
from condensenet.files import write_atomically
from condensenet.text import escaped
from tasks.errors import UserError
from tasks.params import DataParams
from tasks.sources.base import Stream
from tasks.sources.examine import examine

TURN = "large-image.lock"
CORRUPT_NAMED = 10  # corrupt images beyond the limit that are read, so the error can name them together


@dataclass(frozen=True, kw_only=True)
class Job:
    """One shard to make: ``stream`` gives the images, each with one of ``labels``; ``state`` changes when they do."""

    file: Path
    record: Path
    split: str
    labels: np.ndarray  # int64 (N,)
    stream: Stream
    state: str
    data: DataParams
    encoding: Encoding


@dataclass(frozen=True, kw_only=True)
class Result:
    shard: Shard
    histogram_CV: np.ndarray
    corrupt: Sequence[tuple[str, str]] = field(default=())  # name, reason


def make(job: Job) -> Result:
    """Write the shard. Reads no further once there are more corrupt images than an error will name."""
    histogram_CV = np.zeros((job.data.channels, 256), dtype=np.int64)
    corrupt: list[tuple[str, str]] = []
    temporary = job.file.with_name(f".{job.file.name}.{uuid4().hex}")  # another node may have the same process IDs
    try:
        with closing(ShardWriter(temporary)) as writer:
            for (name, content), label in zip(job.stream(), job.labels.tolist(), strict=True):
                try:
                    image = examine(content, job.data, job.encoding, job.record.with_name(TURN))
                except ValueError as error:
                    corrupt.append((escaped(name), " ".join(str(error).split())))
                    if len(corrupt) > job.data.max_corrupt + CORRUPT_NAMED:
                        break
                    continue
                writer.add(image.content, label, image.size)
                histogram_CV += image.histogram_CV
            shard = writer.finish()
        temporary.replace(job.file)
    finally:
        temporary.unlink(missing_ok=True)
    result = Result(shard=shard, histogram_CV=histogram_CV, corrupt=corrupt)
    write_atomically(job.record, _as_json(job, result))
    return result


def load(job: Job) -> Result | None:
    """What a run before this one has made of ``job``; None if it must be made (again), as after corrupt images."""
    try:
        content = json.loads(job.record.read_bytes())
        result = Result(
            shard=Shard(
                file=FileEntry(**content["file"]),
                labels_N=np.array(content["labels"], dtype=np.int64),
                lengths_N=np.array(content["lengths"], dtype=np.int64),
                sizes_N2=np.array(content["sizes"], dtype=np.int32).reshape(-1, 2),
            ),
            histogram_CV=np.array(content["histogram"], dtype=np.int64),
            corrupt=[tuple(each) for each in content["corrupt"]],
        )
        same = content["state"] == job.state and job.file.stat().st_size == result.shard.file.bytes
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{job.record} is damaged: delete it") from None
    return result if same and not result.corrupt else None


def _as_json(job: Job, result: Result) -> bytes:
    shard = result.shard
    content = {
        "state": job.state,
        "file": {"bytes": shard.file.bytes, "sha256": shard.file.sha256},
        "labels": shard.labels_N.tolist(),
        "lengths": shard.lengths_N.tolist(),
        "sizes": shard.sizes_N2.tolist(),
        "histogram": result.histogram_CV.tolist(),
        "corrupt": result.corrupt,
    }
    return json.dumps(content).encode()
