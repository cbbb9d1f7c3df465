"""Images per second of a training step fed from JPEG files, beside the step alone and the loader alone, on one GPU.

    python -m benchmarks.gpu_loading --json FILE [--quick] [--images FILE.parquet] [--recipe bf16,default]
    python -m benchmarks.gpu_loading --tiny           a dry run on any machine; its figures mean nothing

- the step alone: CondenseNet-74 (G = C = 8) at 224 x 224 in the optimization stage, where a step is fastest, from
  images that are in the GPU's memory, cropped and flipped there;
- the loader alone: random resized crops of JPEG files, decoded by the CPU's threads or by the GPU
  (``train.gpu_decoding``);
- the step fed by either loader: ``of_the_slower`` compares it with the slower of the two alone, which it cannot exceed.

The sides take turns. The file is rewritten after every measurement; if a side fails, its row says so. Without a Parquet
file of photographs the JPEG files are made: smooth noise of 500 x 375 pixels.
"""

from __future__ import annotations

import io
import sys
import tempfile
import traceback
from argparse import Namespace
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.data_throughput import SAMPLE
from benchmarks.gpu_targets import LASSO, Recipe, parse_recipe
from benchmarks.reporting import Spread, device_name, parser, start, table, write_rows
from benchmarks.side_by_side import CIFAR_AUGMENT, OurTraining, Training, new_model, prepared, time_steps
from benchmarks.train_throughput import WARM_UP_GPU
from condensenet import AugmentConfig, TrainConfig, presets
from condensenet.data import PreparedData, PreparedWriter
from condensenet.machine import hardware, usable_cores

STEP, CPU_LOADER, GPU_LOADER = "step alone", "loader alone, CPU", "loader alone, GPU"
CPU_FED, GPU_FED = "step fed by the CPU", "step fed by the GPU"
FED = {CPU_FED: CPU_LOADER, GPU_FED: GPU_LOADER}
COLUMNS = ("side", "images_per_s", "images_per_s_p10", "images_per_s_p90", "of_the_slower", "waiting", "note")
RESIZED = AugmentConfig(crop="resized", flip=True)
MADE = 64  # JPEG files, where there are no photographs


def main() -> None:
    options = arguments()
    device = torch.device("cpu" if options.tiny else "cuda")
    torch.backends.cudnn.benchmark = True
    facts = {"device": device_name(device), "cpu": hardware()["cpu"], "cores": usable_cores()}
    facts |= {"torch": torch.__version__, **options.recipe._asdict(), "batch_size": options.batch}
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="condensenet-bench-")))
        images = options.batch * (options.settle + options.steps)  # so that an epoch lasts as long as a measurement
        raw = stack.enter_context(prepared(None, images, options.size, 2))
        jpeg = write_jpegs(root / "jpeg", islice(cycle(contents(options)), images), options.size)
        sides = Sides(options, raw, jpeg, device)
        for number in range(options.rounds):
            for name in list(sides.names) if number % 2 == 0 else reversed(sides.names):
                sides.measure(name)
                write_rows(options.json, [{**row, **facts} for row in sides.rows()])
    print(f"{facts['device']}; {facts['cpu']}, {facts['cores']} cores{': a dry run, no figure counts' * options.tiny}")
    print(table(sides.rows(), COLUMNS))


def arguments() -> Namespace:
    options = parser(__doc__)
    options.add_argument("--tiny", action="store_true", help="a dry run with tiny sizes on the CPU")
    options.add_argument("--images", type=Path, default=SAMPLE, metavar="FILE", help="Parquet file of photographs")
    options.add_argument(
        "--recipe",
        type=parse_recipe,
        default=Recipe("bf16"),
        metavar="PRECISION[,COMPILE][,graph]",
        help="default: bf16",
    )
    parsed = options.parse_args()
    if not torch.cuda.is_available() and not parsed.tiny:
        sys.exit("error: there is no GPU here; --tiny is a dry run on the CPU")
    parsed.batch, parsed.size, parsed.steps, parsed.rounds = (2, 64, 1, 1) if parsed.tiny else (256, 224, 30, 8)
    parsed.settle = 2 if parsed.tiny else WARM_UP_GPU  # steps until kernels are chosen and loading has caught up
    parsed.rounds = 2 if parsed.quick and not parsed.tiny else parsed.rounds
    return parsed


class Sides:
    """All that is measured, and the seconds of a step in every round so far. A side that fails is not tried again."""

    names = (STEP, CPU_LOADER, GPU_LOADER, CPU_FED, GPU_FED)

    def __init__(self, options: Namespace, raw: PreparedData, jpeg: PreparedData, device: torch.device) -> None:
        self.options, self.raw, self.jpeg, self.device = options, raw, jpeg, device
        self.times: dict[str, list[float]] = {name: [] for name in self.names}
        self.waits: dict[str, list[float]] = {name: [] for name in self.names}
        self.notes: dict[str, str] = {}

    def measure(self, name: str) -> None:
        """One round of a side, which gives its memory back and leaves no thread that loads."""
        if name in self.notes:
            return
        try:
            with self.training(name) as side:
                time = time_steps(side, self.options.steps, self.options.settle, self.device)
            self.times[name].append(time.step_s)
            self.waits[name].append(time.data_s / time.step_s)
        except Exception as error:  # such as a graph that does not compile: the other sides go on
            if not isinstance(error, ValueError):
                traceback.print_exc()
            self.notes[name] = str(error).partition("\n")[0] or type(error).__name__
        finally:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    @contextmanager
    def training(self, name: str) -> Iterator[Training]:
        """A training, or its loader, at the beginning of an epoch of the optimization stage."""
        data = self.raw if name == STEP else self.jpeg
        config = replace(presets["condensenet-50" if self.options.tiny else "condensenet-74-g8"], num_classes=2)
        train = TrainConfig(
            batch_size=self.options.batch,
            epochs=120,
            group_lasso_weight=LASSO,
            gpu_decoding=name in (GPU_LOADER, GPU_FED),
            **self.options.recipe._asdict(),
        )
        augment = CIFAR_AUGMENT if name == STEP else RESIZED
        training = OurTraining(new_model(config), data, train, self.device, augment)
        training.go_to(0.75)
        try:
            yield Loading(training) if name in FED.values() else training
        finally:
            if isinstance(training.batches, Generator):
                training.batches.close()  # and with it the threads that load

    def rows(self) -> list[dict[str, Any]]:
        """A row for each side that was tried. ``of_the_slower``: fed, over the slower of step and loader alone."""
        return [self.row(name) for name in self.names if self.times[name] or name in self.notes]

    def row(self, name: str) -> dict[str, Any]:
        times = self.times[name]
        if not times:
            return {"side": name, "images_per_s": None, "note": self.notes[name]}
        speed = Spread.of(self.options.batch / time for time in times).named("images_per_s")
        made = {"side": name, **speed, "rounds": len(times), "note": self.notes.get(name, "")}
        if name not in FED:
            return made
        made["waiting"] = Spread.of(self.waits[name]).median  # the share of a step that waits for its batch
        alone = self.times[STEP], self.times[FED[name]]
        if all(alone):
            slower = max(Spread.of(own).median for own in alone)
            made["of_the_slower"] = slower / Spread.of(times).median
        return made


class Loading(Training):
    """The loader of a training, without its steps."""

    def __init__(self, training: OurTraining) -> None:
        self.training = training

    def go_to(self, progress: float) -> None:
        self.training.go_to(progress)

    def step(self) -> float:
        self.training.next_batch()
        return 0.0


def contents(options: Namespace) -> Sequence[bytes]:
    """The JPEG files of ``--images`` or, without that file or in a dry run, some that are made."""
    if options.tiny or not options.images.exists():
        return made_jpegs(2 if options.tiny else MADE)
    import pyarrow.parquet as pq

    column = pq.read_table(options.images, columns=["image"])["image"].to_pylist()
    return [image["bytes"] for image in column if image["bytes"][:2] == b"\xff\xd8"]


def made_jpegs(count: int) -> list[bytes]:
    files = []
    for number in range(count):
        coarse = np.random.default_rng(number).integers(0, 256, (94, 125, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
        files.append(buffer.getvalue())
    return files


def write_jpegs(folder: Path, files: Iterator[bytes], size: int) -> PreparedData:
    """The files as training images of two classes; the mean and deviation are not theirs, which costs no time."""
    with PreparedWriter(
        folder, name="jpeg", classes=["a", "b"], encoding="encoded", image_size=size, channels=3
    ) as writer:
        for number, content in enumerate(files):
            writer.splits["train"].add(content, number % 2)
        writer.splits["test"].add(content, 0)
        writer.histogram_CV += 1
        writer.finish()
    return PreparedData(folder)


if __name__ == "__main__":
    start(main)
