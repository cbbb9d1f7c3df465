"""CPU time of loading training images at 224 x 224: ours from every prepared form, and torchvision's pipelines.

    python -m benchmarks.data_throughput [--quick] [--json FILE] [--images FILE.parquet]

Sides take turns, a batch of the same photographs each, in one process and one thread. Each image ends as a uint8 crop,
flipped or not: what is sent to a GPU. torchvision's sides get the encoded images from memory, and one of them decodes
alone: no pipeline around the same decoder can be faster. Then the loader's threads: how many times as many images 16
threads load as one, with 32 images to a batch, when decoding is a pause that needs no core.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.reporting import Spread, parser, start, table, write_rows
from condensenet import AugmentConfig
from condensenet.data import ImageSplit, PreparedData, PreparedWriter, randomness, train_batches
from condensenet.data.resident import StreamedSplit
from condensenet.machine import hardware

SIZE, BATCH, SEED = 224, 32, 0
SAMPLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "imagenet-sample-330.parquet"
FORMS: dict[str, dict[str, Any]] = {
    "as is": {},
    "shorter side 320": {"shorter_side": 320},
    "shorter side 256": {"shorter_side": 256},
    "raw, shorter side 256": {"shorter_side": 256, "raw": True},
}
BASELINE = "torchvision, PIL"
TARGETS = {"ours, as is": 1.5, "ours, shorter side 256": 3.0, "ours, raw, shorter side 256": 6.0}
THREADS_TARGET = 12.0
THREADS, PAUSE_S = 16, 0.02
AUGMENT = AugmentConfig(crop="resized", flip=True)

Side = Callable[[int], None]  # loads a batch; the argument numbers the rounds


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--images", type=Path, default=SAMPLE, metavar="FILE", help="Parquet file of photographs")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        prepared, contents = prepare(options.images, Path(folder))
        sides: dict[str, Side] = {
            BASELINE: pil(contents),
            "torchvision, decode_jpeg + v2": decode_and_v2(contents),
            "torchvision, decode_jpeg alone": decode_alone(contents),
        }
        sides |= {f"ours, {form}": ours(data) for form, data in prepared.items()}
        rounds = 8 if options.quick else 40
        times = cpu_times(sides, rounds)
        bytes_ = {f"ours, {form}": stored_bytes(data) for form, data in prepared.items()}
        speed_up = thread_speed_up(Path(folder) / "pauses")
    facts = {"device": hardware()["cpu"], "torch": torch.__version__, "rounds": rounds}
    rows = [{**row(name, times, bytes_.get(name)), **facts} for name in sides]
    rows.append({"side": f"ours, {THREADS} threads to 1", "ratio": speed_up, "wanted": THREADS_TARGET, **facts})
    print(table(rows, ["side", "cpu_ms", "images_s_core", "ratio", "ratio_p10", "ratio_p90", "wanted", "kb"]))
    write_rows(options.json, rows)


def prepare(images: Path, root: Path) -> tuple[dict[str, PreparedData], list[bytes]]:
    """The photographs in every form, and their files as they were. Raises ``FileNotFoundError``."""
    from tasks.params import DataParams
    from tasks.sources import parquet
    from tasks.sources.base import split_training_images
    from tasks.sources.write_streams import write_streams

    if not images.exists():
        raise FileNotFoundError(f"{images} is missing: give a Parquet file of photographs by --images")
    prepared = {}
    for form, more in FORMS.items():
        data = DataParams(
            source="parquet", path=str(images.parent), train=images.name, test=images.name, image_size=SIZE, **more
        )
        source = parquet.read(data)
        source = replace(source, test=replace(source.test, labels=source.test.labels[:1]))  # the fewest allowed
        folder = root / form.replace(" ", "-")
        write_streams("photographs", data, source, *split_training_images(source.train.labels, data), folder)
        prepared[form] = PreparedData(folder)
    split = prepared["as is"].split("train")
    return prepared, [split.encoded(index).tobytes() for index in range(len(split))]


class Pixels(StreamedSplit):
    """Batches as they are sent to a GPU."""

    def send(self, pixels_NCHW: Tensor) -> Tensor:
        return pixels_NCHW


def ours(data: PreparedData) -> Side:
    split = Pixels(data.split("train"), "cpu")

    def load(number: int) -> None:
        last = last_step(len(split))  # an epoch of one batch
        for _ in train_batches(
            split, augment=AUGMENT, batch_size=BATCH, seed=SEED, epoch=number, start_step=last, threads=1
        ):
            pass

    return load


def last_step(images: int) -> int:
    return images // BATCH - 1


def photographs(images: int, number: int) -> np.ndarray:
    """Those of our batch in round ``number``, out of ``images``."""
    return randomness.permutation(images, SEED, epoch=number)[last_step(images) * BATCH :][:BATCH]


def pil(contents: Sequence[bytes]) -> Side:
    from torchvision.transforms import v2

    transform = v2.Compose([v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    return _theirs(contents, lambda content: transform(Image.open(io.BytesIO(content)).convert("RGB")))


def decode_and_v2(contents: Sequence[bytes]) -> Side:
    from torchvision.transforms import v2

    from condensenet.data.decoding import decode

    transform = v2.Compose([v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip()])
    return _theirs(contents, lambda content: transform(decode(content, 3)))


def _theirs(contents: Sequence[bytes], transform: Callable[[bytes], Tensor]) -> Side:
    def load(number: int) -> None:
        torch.stack([transform(contents[index]) for index in photographs(len(contents), number)])

    return load


def decode_alone(contents: Sequence[bytes]) -> Side:
    from condensenet.data.decoding import decode

    def load(number: int) -> None:
        for index in photographs(len(contents), number):
            decode(contents[index], 3)

    return load


def cpu_times(sides: dict[str, Side], rounds: int) -> dict[str, list[float]]:
    """CPU seconds an image of each side in every round; every other round goes backwards."""
    for side in sides.values():
        side(0)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(1, rounds + 1):
        for name in list(sides) if number % 2 else reversed(sides):
            started = time.process_time()
            sides[name](number)
            times[name].append((time.process_time() - started) / BATCH)
    return times


def row(name: str, times: dict[str, list[float]], stored: float | None) -> dict[str, Any]:
    ratios = [theirs / own for theirs, own in zip(times[BASELINE], times[name], strict=True)]
    median = Spread.of(times[name]).median
    kb = None if stored is None else stored / 1000
    speed = {"cpu_ms": 1000 * median, "images_s_core": 1 / median}
    return {"side": name, **speed, **Spread.of(ratios).named("ratio"), "wanted": TARGETS.get(name), "kb": kb}


def stored_bytes(data: PreparedData) -> float:
    """Of an image, on average."""
    files = data.manifest.images_files("train")
    return sum(data.manifest.files[name].bytes for name in files) / sum(files.values())


class Pauses(ImageSplit):
    """Images each of which takes a pause to read, as if another core decoded it."""

    def pixels(self, index: int, top: int = 0, rows: int | None = None) -> np.ndarray:
        time.sleep(PAUSE_S)
        return super().pixels(index, top, rows)


def thread_speed_up(folder: Path) -> float:
    """How many times as fast ``THREADS`` threads load small images as one."""
    split = pausing_split(folder)
    return images_per_s(split, THREADS, batches=80) / images_per_s(split, 1, batches=8)


def pausing_split(folder: Path) -> StreamedSplit:
    """Small images in ``folder``, each with its pause."""
    with PreparedWriter(
        folder, name="pauses", classes=["any"], encoding="pixels", image_size=SIZE, channels=3
    ) as writer:
        for _ in range(100 * BATCH):
            writer.splits["train"].add(bytes(3 * 16 * 16), 0, (16, 16))
        writer.histogram_CV += 1
        manifest = writer.finish()
    return Pixels(Pauses(folder, manifest, "train"), "cpu")


def images_per_s(split: StreamedSplit, threads: int, batches: int) -> float:
    """Of a consumer that waits for nothing else, after the first batches."""
    loader = train_batches(split, augment=AUGMENT, batch_size=BATCH, seed=0, epoch=0, threads=threads)
    for _ in range(2):
        next(loader)
    started = time.perf_counter()
    loaded = sum(len(labels) for _, labels in islice(loader, batches))
    return loaded / (time.perf_counter() - started)


if __name__ == "__main__":
    start(main)
