"""Whether an ONNX file computes the same function as its model: every logit compared."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from condensenet.deploy.onnx_file import INPUT, OUTPUT
from condensenet.deploy.runtime import open_session

TOLERANCE = 1e-5  # of the largest logit; measured: 1e-6 for the deepest network, 3e-7 for most


def torch_logits(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """From images (N, C, H, W) to logits (N, classes), by a copy of ``model`` on the CPU in evaluation mode."""
    model = copy.deepcopy(model).cpu().float().eval()

    def logits(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return model(images)

    return logits


def onnx_logits(path: str | Path) -> Callable[[Tensor], Tensor]:
    """The same function by the file at ``path``. Raises ``ValueError`` if it cannot be loaded, ``ImportError`` without
    onnxruntime."""
    session = open_session(path)
    return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])


@dataclass(frozen=True)
class Difference:
    """The difference between two sets of logits, over all images and classes.

    ``max_relative`` is max |a - b| / max |a| with PyTorch's logits a. Both maxima are over everything compared, so a
    logit near zero does not make it large.
    """

    images: int
    max_relative: float
    max_absolute: float


def compare_onnx(
    model: nn.Module, path: str | Path, batches: Iterable[Tensor], *, tolerance: float = TOLERANCE
) -> Difference:
    """Compare every logit of ``model`` in evaluation mode with that of the file at ``path`` in ONNX Runtime.

    ``batches`` are images (N, C, H, W), float32. Raises ``ValueError`` with both differences if the relative one
    exceeds ``tolerance`` or a logit is not finite, and if there is no image; ``ImportError`` without onnxruntime.
    """
    return check_difference(measure_differences(model, {"": path}, batches)[""], path, tolerance)


def measure_differences(
    model: nn.Module, files: Mapping[str, str | Path], batches: Iterable[Tensor]
) -> dict[str, Difference]:
    """The difference of each file's logits from those of ``model``, which are computed once for all files.

    Raises ``ValueError`` for a file that cannot be loaded or whose logits have another shape.
    """
    reference, runtimes = torch_logits(model), {name: onnx_logits(path) for name, path in files.items()}
    images, largest = 0, torch.tensor(0.0)
    max_absolute = dict.fromkeys(files, torch.tensor(0.0))
    for batch in batches:
        expected = reference(batch)
        images += len(batch)
        largest = torch.maximum(largest, expected.abs().max())  # unlike max(), it keeps a NaN
        for name, runtime in runtimes.items():
            actual = runtime(batch)
            if actual.shape != expected.shape:
                shapes = f"shape {tuple(actual.shape)}, PyTorch {tuple(expected.shape)}"
                raise ValueError(f"{files[name]} gives logits of {shapes}")
            max_absolute[name] = torch.maximum(max_absolute[name], (actual - expected).abs().max())
    return {
        name: Difference(images, _ratio(absolute.item(), largest.item()), absolute.item())
        for name, absolute in max_absolute.items()
    }


def _ratio(difference: float, largest: float) -> float:
    if difference == 0:
        return 0.0
    return difference / largest if largest > 0 else float("inf")


def check_difference(difference: Difference, path: str | Path, tolerance: float = TOLERANCE) -> Difference:
    """Return ``difference`` if it is small enough; raises ``ValueError`` if it is not, or without images."""
    if difference.images == 0:
        raise ValueError(f"{path}: there are no images to compare on")
    if not difference.max_relative <= tolerance:  # also when it is NaN
        raise ValueError(
            f"{path} differs from PyTorch: relative {difference.max_relative:.3g} of the largest logit, "
            f"absolute {difference.max_absolute:.3g}, over {difference.images} images; at most {tolerance:g} is allowed"
        )
    return difference
