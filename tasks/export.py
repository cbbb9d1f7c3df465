"""export: the converted model as one ONNX file, every logit of the test set compared with PyTorch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from condensenet.cost import count_cost
from condensenet.data import ImageSplit, Manifest, evaluation_batches
from condensenet.export import Difference, compare_onnx, export_onnx
from condensenet.models.condensenet import CondenseNet
from tasks import files, inputs, machine, paths, tracking
from tasks.console import progress, say
from tasks.errors import run_main
from tasks.params import Params, Setting
from tasks.tracking.contents import export_metrics

BATCH_SIZE = 64


def main() -> None:
    params, setting = inputs.stage_arguments()
    run = inputs.read_run(params, setting)
    path = params.paths.setting("export", setting.name) / paths.ONNX
    with machine.shared():
        facts = export(params, setting, run)
        say(
            f"{path}: {facts['file_bytes']:,} bytes; {facts['images_compared']} test images compared, "
            f"largest relative difference {facts['max_relative_difference']:.2g}"
        )
        tracking.record(run, "export", metrics=export_metrics(facts), onnx_model=path)


def export(params: Params, setting: Setting, run: dict[str, Any]) -> dict[str, Any]:
    """Write ``model.onnx`` and ``export.json``, whose content is returned; raises ``UserError`` if the two differ."""
    model = inputs.read_model(params, setting)
    data = inputs.read_data(params, model)
    folder = params.paths.setting("export", setting.name)
    opset, size = params.export.opset, data.manifest.image_size
    with inputs.one_line():
        path = export_onnx(
            model, folder / paths.ONNX, size, opset=opset, metadata=describe(model, data.manifest, run, setting)
        )
        try:
            difference = compare_onnx(model, path, _images(data.split("test"), f"compare {setting.name}"))
        except ValueError:
            path.unlink()  # a file that was not proved equal is not left lying about
            raise
    facts = _facts(path, opset, difference)
    files.write_json(folder / paths.EXPORT, facts)
    return facts


def describe(model: CondenseNet, manifest: Manifest, run: dict[str, Any], setting: Setting) -> dict[str, Any]:
    """The file's metadata: what it is, what it costs, where it is from, and how to feed it."""
    facts = {
        "study": run["study"],
        "setting": setting.name,
        "groups_1x1": model.config.groups_1x1,
        "condensation_factor": model.config.condensation_factor,
        **dataclasses.asdict(count_cost(model, manifest.image_size)),
        "execution_id": run["execution_id"],
        "git_commit": run["git_commit"],
        "dataset": manifest.name,
        "dataset_fingerprint": manifest.fingerprint,
        "classes": list(manifest.classes),
        "mean": list(manifest.mean),
        "std": list(manifest.std),
        "input": "image: float32 (batch, channel, row, column), each channel (pixel / 255 - mean) / std",
        "output": "logits: float32 (batch, class), before softmax",
    }
    return {key: value for key, value in facts.items() if value is not None}  # no commit outside a repository


def _images(split: ImageSplit, label: str) -> Iterator[Tensor]:
    batches = evaluation_batches(split, BATCH_SIZE)
    for images, _ in progress(batches, total=-(-len(split) // BATCH_SIZE), label=label):
        yield images


def _facts(path: Path, opset: int, difference: Difference) -> dict[str, Any]:
    return {
        "file_bytes": path.stat().st_size,
        "opset": opset,
        "images_compared": difference.images,
        "max_relative_difference": difference.max_relative,
        "max_absolute_difference": difference.max_absolute,
    }


if __name__ == "__main__":
    run_main(main)
