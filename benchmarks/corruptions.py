"""Errors on corrupted test images, and how far confidence is from accuracy there, for settings of the study in force.

    python -m benchmarks.corruptions --settings g4-c1 g4-c4 --json benchmarks/results/corruptions.json
    python -m benchmarks.corruptions --quick           severity 3 and 500 images

The exported files run in ONNX Runtime on the test images of ``params.yaml``'s study. The corruptions are those of
CIFAR-10-C, with its strengths, that need no photographs and no image library beyond torchvision: eight of nineteen
(Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations", 2019).
Every setting sees the same corrupted images. Images of other sizes than 32x32 get the same strengths.
"""

from __future__ import annotations

import io
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from benchmarks.reporting import parser, start, table, write_rows
from condensenet.data import ImageSplit, evaluation_batches
from condensenet.deploy.compare import onnx_logits
from tasks import outputs, params, paths
from tasks.evaluate import Answers, answers_of, calibration_error_pct, join
from tasks.params import Params

COLUMNS = ("setting", "corruption", "severity", "images", "error_pct", "calibration_error_pct")
SEVERITIES = (1, 2, 3, 4, 5)
BATCH = 250
CLEAN = "none"

Corruption = Callable[[Tensor, float, torch.Generator], Tensor]  # images (N, C, H, W) in [0, 1], strength


def gaussian_noise(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    return images + strength * torch.randn(images.shape, generator=generator)


def shot_noise(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    return torch.poisson(images * strength, generator=generator) / strength


def impulse_noise(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Each value becomes 0 or 1 with probability ``strength``."""
    chosen = torch.rand(images.shape, generator=generator)
    return torch.where(chosen < strength, (chosen < strength / 2).float(), images)


def gaussian_blur(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    size = 2 * round(4 * strength) + 1  # four standard deviations to each side
    return F.gaussian_blur(images, [size, size], [strength, strength])


def brightness(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """The value of HSV, the largest of R, G and B, is raised by ``strength``; hue and saturation stay."""
    value = images.amax(dim=1, keepdim=True)
    raised = (value + strength).clamp(max=1)
    return torch.where(value > 0, images * raised / value.clamp(min=1e-12), raised)


def contrast(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Around the mean of each channel of each image."""
    mean = images.mean(dim=(2, 3), keepdim=True)
    return mean + strength * (images - mean)


def pixelate(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """To fewer pixels by their mean, and back."""

    def change(image: Image.Image) -> Image.Image:
        small = image.resize([int(side * strength) for side in image.size], Image.Resampling.BOX)
        return small.resize(image.size, Image.Resampling.BOX)

    return by_pillow(images, change)


def jpeg(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    def change(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(strength))
        return Image.open(file)

    return by_pillow(images, change)


def by_pillow(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """``images`` (N, C, H, W) with ``change`` applied to each."""
    changed = (F.pil_to_tensor(change(F.to_pil_image(image))) for image in to_uint8(images))
    return torch.stack(list(changed)) / 255


CORRUPTIONS: Mapping[
    Corruption, tuple[float, ...]
] = {  # the strength of each severity, from the authors' make_cifar_c.py
    gaussian_noise: (0.04, 0.06, 0.08, 0.09, 0.10),
    shot_noise: (500, 250, 100, 75, 50),
    impulse_noise: (0.01, 0.02, 0.03, 0.05, 0.07),
    gaussian_blur: (0.4, 0.6, 0.7, 0.8, 1),
    brightness: (0.05, 0.1, 0.15, 0.2, 0.3),
    contrast: (0.75, 0.5, 0.4, 0.3, 0.15),
    pixelate: (0.95, 0.9, 0.85, 0.75, 0.65),
    jpeg: (80, 65, 58, 50, 40),
}


def main() -> None:
    options = arguments()
    loaded = params.load()
    rows = list(measure(loaded, options))
    print(table(summary(rows), ("setting", "clean", *(corruption.__name__ for corruption in CORRUPTIONS), "mean")))
    write_rows(options.json, rows)


def arguments() -> Namespace:
    options = parser(__doc__)
    options.add_argument("--settings", nargs="+", metavar="NAME", help="default: all settings of the study")
    options.add_argument("--images", type=int, help="of the test images, from the first (default: all)")
    chosen = options.parse_args()
    if chosen.quick:
        chosen.images = chosen.images or 500
    if chosen.images is not None and chosen.images < 1:
        raise ValueError(f"--images {chosen.images} is not allowed: 1 or more")
    return chosen


def measure(loaded: Params, options: Namespace) -> Iterator[dict[str, Any]]:
    """A row for each setting, corruption and severity; severity 0 stands for the images as they are."""
    names = options.settings or list(loaded.settings)
    settings = [loaded.setting(name) for name in names]
    data = outputs.read_data(loaded, outputs.read_model(loaded, settings[0]))
    files = {
        name: onnx_logits(outputs.existing(loaded.paths.form(name, paths.LOWERED), f"export@{name}")) for name in names
    }
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (data.manifest.mean, data.manifest.std))
    answers: dict[tuple[str, str, int], list[Answers]] = {}
    labels: list[Tensor] = []
    for number, (images, own_labels) in enumerate(first_batches(data.split("test"), options.images)):
        labels.append(own_labels)
        pixels = (images * std + mean).clamp(0, 1)
        for corruption, severity, corrupted in corrupted_images(pixels, number, (3,) if options.quick else SEVERITIES):
            for name, logits in files.items():
                given = answers_of(logits((corrupted - mean) / std), own_labels)
                answers.setdefault((name, corruption, severity), []).append(given)
    for (name, corruption, severity), parts in answers.items():
        yield {
            "study": loaded.study,
            "setting": name,
            "corruption": corruption,
            "severity": severity,
            **errors(join(parts), torch.cat(labels)),
            "data_fingerprint": data.manifest.fingerprint,
        }


def first_batches(split: ImageSplit, images: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    left = len(split) if images is None else min(images, len(split))
    for batch, labels in evaluation_batches(split, BATCH):
        if left <= 0:
            return
        yield batch[:left], labels[:left]
        left -= len(labels)


def corrupted_images(images: Tensor, batch: int, severities: Sequence[int]) -> Iterator[tuple[str, int, Tensor]]:
    """(corruption, severity, images in whole steps of 1/255); the noise depends on these and on ``batch`` alone."""
    yield CLEAN, 0, images
    for index, (corruption, strengths) in enumerate(CORRUPTIONS.items()):
        for severity in severities:
            generator = torch.Generator().manual_seed(1000 * batch + 10 * index + severity)
            corrupted = corruption(images, strengths[severity - 1], generator)
            yield corruption.__name__, severity, to_uint8(corrupted) / 255


def to_uint8(images: Tensor) -> Tensor:
    return (255 * images.clamp(0, 1)).round().to(torch.uint8)


def errors(answers: Answers, labels: Tensor) -> dict[str, Any]:
    correct = answers.predicted_N == labels
    return {
        "images": len(labels),
        "error_pct": 100 * (1 - correct.double().mean().item()),
        "calibration_error_pct": calibration_error_pct(answers.confidence_N, correct),
    }


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each setting: its clean error, each corruption's mean over the severities, and the mean of those."""
    return [
        {
            "setting": name,
            "clean": mean_error(rows, name, CLEAN),
            **(by_corruption := {one.__name__: mean_error(rows, name, one.__name__) for one in CORRUPTIONS}),
            "mean": sum(by_corruption.values()) / len(by_corruption),
        }
        for name in dict.fromkeys(row["setting"] for row in rows)
    ]


def mean_error(rows: Sequence[Mapping[str, Any]], setting: str, corruption: str, figure: str = "error_pct") -> float:
    """Over the severities. Raises ``ValueError`` if the rows cannot be compared or none is of these two."""
    check_rows(rows)
    own = [row[figure] for row in rows if (row["setting"], row["corruption"]) == (setting, corruption)]
    if not own:
        raise ValueError(f"{setting} has no row of {corruption}")
    return sum(own) / len(own)


def check_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """Raises ``ValueError`` unless all settings have the same corruptions, severities and images, each once."""
    for name in ("study", "data_fingerprint", "images"):
        if len(values := sorted({str(row[name]) for row in rows})) > 1:
            raise ValueError(f"rows of different {name} cannot be compared: {', '.join(values)}")
    count = Counter((row["setting"], row["corruption"], row["severity"]) for row in rows)
    settings, corruptions, severities = (dict.fromkeys(names) for names in zip(*count, strict=True))
    cases = [(CLEAN, 0), *product((one for one in corruptions if one != CLEAN), (one for one in severities if one))]
    for setting, (corruption, severity) in product(settings, cases):
        if (found := count[setting, corruption, severity]) != 1:
            raise ValueError(f"{setting} has {found} rows of {corruption} with severity {severity}, not one")


if __name__ == "__main__":
    start(main)
