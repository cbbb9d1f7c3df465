"""evaluate: top-1, top-5, per-class and calibration error, and confusion over the test set, PyTorch and ONNX Runtime.

ONNX Runtime runs the file that ships. If export kept the int8 file, its errors are added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from condensenet.data import ImageSplit, evaluation_batches
from condensenet.deploy.compare import onnx_logits, torch_logits
from tasks import locks, outputs, paths, tracking
from tasks.arguments import stage_arguments
from tasks.console import progress, say
from tasks.errors import one_line, run_main
from tasks.params import Params, Setting

TOP = 5
CONFIDENCE_BINS = 15

# N images, K classes, B bins of confidence


@dataclass(frozen=True)
class Answers:
    """What a runtime answers for every image: the likeliest class, its probability, if the true one is in the top 5."""

    predicted_N: Tensor  # int64
    confidence_N: Tensor  # float64, in (0, 1]
    in_top5_N: Tensor  # bool


def main() -> None:
    params, setting = stage_arguments()
    run = outputs.read_run(params, setting)
    folder = params.paths.setting("evaluate", setting.name)
    with locks.shared_machine():
        metrics = evaluate(params, setting)
        errors = metrics["onnxruntime"]
        top5 = f" (top-5 {errors['top5_error_pct']:.2f}%)" if setting.model.num_classes > 5 else ""
        say(
            f"{folder}: {metrics['images']} test images, error {errors['top1_error_pct']:.2f}%{top5}; "
            f"PyTorch and ONNX Runtime disagree on {metrics['disagreements']}"
        )
        tracking.record(run, "evaluate")


def evaluate(params: Params, setting: Setting) -> dict[str, Any]:
    """Write ``metrics.json`` (its content is returned), ``per_class.csv`` and ``confusion.csv``."""
    model = outputs.read_model(params, setting)
    data = outputs.read_data(params, model)
    onnx_path = outputs.existing(params.paths.form(setting.name, paths.LOWERED), f"export@{setting.name}")
    int8_path = params.paths.form(setting.name, paths.INT8)
    split, classes = data.split("test"), data.manifest.classes
    with one_line():
        runtimes = {"pytorch": torch_logits(model), "onnxruntime": onnx_logits(onnx_path)}
        if int8_path.exists():
            runtimes[paths.INT8] = onnx_logits(int8_path)
        answers = answer(runtimes, split, params.evaluate.batch_size, f"evaluate {setting.name}")
    metrics = summarise(answers, split.labels)
    folder = params.paths.setting("evaluate", setting.name)
    outputs.write_json(folder / paths.METRICS, metrics)
    outputs.write_csv(folder / paths.PER_CLASS, per_class(answers, split.labels, classes))
    outputs.write_csv(folder / paths.CONFUSION, confusion(answers["onnxruntime"], split.labels, classes))
    return metrics


def answer(
    runtimes: dict[str, Callable[[Tensor], Tensor]], split: ImageSplit, batch_size: int, label: str
) -> dict[str, Answers]:
    """Every image of ``split`` through every runtime, read once for all of them."""
    parts: dict[str, list[Answers]] = {name: [] for name in runtimes}
    batches = evaluation_batches(split, batch_size)
    for images, labels in progress(batches, total=-(-len(split) // batch_size), label=label, units="batches"):
        for name, logits in runtimes.items():
            parts[name].append(answers_of(logits(images), labels))
    return {name: join(batches) for name, batches in parts.items()}


def join(parts: Sequence[Answers]) -> Answers:
    """The answers for the images of all ``parts``, in their order."""
    columns = (torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Answers))
    return Answers(*columns)


def answers_of(logits_NK: Tensor, labels_N: Tensor) -> Answers:
    """With fewer than five classes every answer is among the top five. Equal logits: the first class counts."""
    order_NT = logits_NK.argsort(dim=1, descending=True, stable=True)[:, :TOP]
    confidence_N = logits_NK.double().softmax(dim=1).amax(dim=1)
    return Answers(order_NT[:, 0], confidence_N, (order_NT == labels_N[:, None]).any(dim=1))


def summarise(answers: dict[str, Answers], labels_N: Tensor) -> dict[str, Any]:
    """The content of ``metrics.json``: errors in percent of all images, and on how many the runtimes disagree."""
    errors = {
        name: {
            "top1_error_pct": _percent(given.predicted_N != labels_N),
            "top5_error_pct": _percent(~given.in_top5_N),
            "calibration_error_pct": calibration_error_pct(given.confidence_N, given.predicted_N == labels_N),
        }
        for name, given in answers.items()
    }
    differ_N = answers["pytorch"].predicted_N != answers["onnxruntime"].predicted_N
    return {"images": len(labels_N), **errors, "disagreements": int(differ_N.sum())}


def calibration_error_pct(confidence_N: Tensor, correct_N: Tensor) -> float:
    """The expected calibration error: how far confidence is from accuracy, in percentage points, averaged over images.

    Images are grouped by confidence into 15 bins of equal width. Source: Guo et al., "On calibration of modern neural
    networks", 2017.
    """
    bins_N = (confidence_N * CONFIDENCE_BINS).ceil().long().clamp(
        1, CONFIDENCE_BINS
    ) - 1  # (0, 1/15], (1/15, 2/15], ...
    excess_N = confidence_N.double() - correct_N.double()
    excess_B = torch.zeros(CONFIDENCE_BINS, dtype=torch.float64).index_add_(0, bins_N, excess_N)
    return 100 * float(excess_B.abs().sum()) / len(confidence_N)


def per_class(answers: dict[str, Answers], labels_N: Tensor, classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row a class; the errors of a class without test images are empty."""
    for label, name in enumerate(classes):
        of_class_N = labels_N == label
        errors = {
            f"{runtime}_error_pct": _percent(answers[runtime].predicted_N[of_class_N] != label)
            for runtime in ("pytorch", "onnxruntime")
        }
        yield {"class": name, "images": int(of_class_N.sum()), **errors}


def confusion(answers: Answers, labels_N: Tensor, classes: Sequence[str]) -> Iterator[dict[str, str]]:
    """A row an image, in the order of the test set, as DVC's confusion template reads it."""
    for label, predicted in zip(labels_N.tolist(), answers.predicted_N.tolist(), strict=True):
        yield {"actual": classes[label], "predicted": classes[predicted]}


def _percent(wrong_N: Tensor) -> float | None:
    return 100 * int(wrong_N.sum()) / len(wrong_N) if len(wrong_N) else None


if __name__ == "__main__":
    run_main(main)
