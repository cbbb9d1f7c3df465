"""The model card of a setting, for a release and for MLflow's registry. It holds no figure that was not measured."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.report import formats
from tasks.report.markdown import escape
from tasks.report.results import Json, SettingResult, Study

HARDEST = 3  # classes that a card names


def model_card(study: Study, result: SettingResult) -> str:
    """Markdown: the network, what was measured, its data and training, how to use it, and where it errs most."""
    model = result.setting.model
    lines = [
        f"# {study.params.study}-{result.name}",
        "",
        f"A {_kind(result)} for {model.num_classes} classes, by standard ONNX operators, with weights included.",
        f"Block depths {list(model.block_depths)}, growth rates {list(model.growth_rates)}.",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {escape(value)} |" for name, value in _rows(study, result)),
        "",
        "```python",
        "from condensenet import load, predict",
        "",
        'predict(load("model.onnx"), ["photo.jpg"])',
        "```",
        "",
        "The file carries its preprocessing and the names of its classes.",
    ]
    return "\n".join([*lines, *_hardest(result)]) + "\n"


def _kind(result: SettingResult) -> str:
    model = result.setting.model
    if model.groups_1x1 == 1 and model.condensation_factor == 1:
        return "DenseNet" if model.groups_3x3 == 1 else "DenseNet with 3x3 group convolutions"
    return f"CondenseNet with G={model.groups_1x1} groups and condensation factor C={model.condensation_factor}"


def _rows(study: Study, result: SettingResult) -> Iterator[tuple[str, str]]:
    evaluation, metrics = result.evaluation or {}, result.metrics
    low, high = result.error_interval_pct or (None, None)
    interval = f"95% interval {formats.percent(low)} to {formats.percent(high)}, {evaluation['images']:,} images"
    yield "Test error, %", f"{formats.percent(metrics['test_error_pct'])} ({interval})"
    if result.setting.model.num_classes > 5 and "test_top5_error_pct" in metrics:
        yield "Top-5 test error, %", formats.percent(metrics["test_top5_error_pct"])
    if "test_calibration_error_pct" in metrics:
        yield "Expected calibration error, %", formats.percent(metrics["test_calibration_error_pct"])
    yield "Multiply-adds", formats.exact_count(metrics["macs"])
    yield "Parameters", formats.exact_count(metrics["params"])
    yield "File", formats.file_size(metrics["file_bytes"])
    yield "Data", _data(study)
    train = result.setting.train
    recipe = f"{train.epochs} epochs, batches of {train.batch_size}, learning rate {train.learning_rate:g}"
    yield "Training", f"{recipe}, weight decay {train.weight_decay:g}, seed {train.seed}"
    yield "Made", _origin(result.run or {})


def _data(study: Study) -> str:
    manifest = study.manifest or {}
    counts = ", ".join(f"{count:,} {split}" for split, count in manifest.get("splits", {}).items())
    size = f"{manifest.get('image_size')}x{manifest.get('image_size')} pixels"
    return f"{study.params.data.source}: {counts} images, {size}; fingerprint {str(manifest.get('fingerprint'))[:12]}"


def _origin(run: Json) -> str:
    commit = f", commit {run['git_commit'][:12]}" if run.get("git_commit") else ""
    return f"{run.get('started_at', 'unknown')}{commit}"


def _hardest(result: SettingResult) -> list[str]:
    """The classes with the largest errors, which an average hides."""
    wrong = [row for row in result.per_class if float(row["onnxruntime_error_pct"] or 0) > 0]  # empty: no test image
    if len(result.per_class) <= HARDEST or not wrong:
        return []
    rows = sorted(wrong, key=lambda row: -float(row["onnxruntime_error_pct"]))[:HARDEST]
    named = ", ".join(f"{escape(row['class'])} {formats.percent(row['onnxruntime_error_pct'])}%" for row in rows)
    return ["", f"The largest errors by class: {named}."]
