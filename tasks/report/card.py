"""The model card of a setting, for a release and for MLflow's registry. It holds no figure that was not measured."""

from __future__ import annotations

from collections.abc import Iterator

from condensenet.data.manifest import SPLITS
from tasks.report import formats
from tasks.report.markdown import escape
from tasks.report.results import Json, SettingResult, Study

HARDEST = 3  # classes whose errors a card names
MOST_FILES = 4  # that a card names as the source of the images
DAY = len("2026-01-02")
MOST_LISTED = 20  # classes that a card lists


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
        'print(predict(load("model.onnx"), ["photo.jpg"]))',
        "```",
        "",
        "The file carries its preprocessing and the names of its classes. It runs in ONNX Runtime without this",
        "package: docs/board_predict.py in the project is a program that does so.",
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
    yield "Data", _data(study, result.run or {})
    if 0 < len(result.per_class) <= MOST_LISTED:
        yield "Classes", ", ".join(row["class"] for row in result.per_class)
    train = result.setting.train
    recipe = f"{train.epochs} epochs, batches of {train.batch_size}, learning rate {train.learning_rate:g}"
    yield "Training", f"{recipe}, weight decay {train.weight_decay:g}, seed {train.seed}"
    yield "Trained", _origin(result.run or {})


def _data(study: Study, run: Json) -> str:
    """The images of the training; what only their manifest says is left out where others are prepared now."""
    data, manifest = run.get("dataset") or {}, study.manifest or {}
    if not data:
        return "not recorded"
    counts = ", ".join(f"{int(data[key]):,} {split}" for split in SPLITS if (key := f"{split}_images") in data)
    described = f"{counts} images"
    fingerprint, name = str(data.get("fingerprint")), str(data.get("name"))
    if fingerprint == manifest.get("fingerprint"):
        described += f", {manifest.get('image_size')}x{manifest.get('image_size')} pixels"
        name += _source(manifest.get("source") or {})
    return f"{name}: {described}; fingerprint {fingerprint[:12]}"


def _source(source: Json) -> str:
    """Where the images are from: a name, or the files that were read."""
    files = [part["file"] for split in SPLITS for part in source.get(split) or () if "file" in part]
    named = source.get("origin") or ", ".join(files[:MOST_FILES]) + (", …" if len(files) > MOST_FILES else "")
    return f" ({named})" if named else ""


def _origin(run: Json) -> str:
    """Day and commit of the training."""
    commit = f", commit {run['git_commit'][:12]}" if run.get("git_commit") else ""
    return f"{str(run.get('started_at', 'unknown'))[:DAY]}{commit}"


def _hardest(result: SettingResult) -> list[str]:
    """The classes with the largest errors, which an average hides."""
    wrong = [row for row in result.per_class if float(row["onnxruntime_error_pct"] or 0) > 0]  # empty: no test image
    if len(result.per_class) <= HARDEST or not wrong:
        return []
    rows = sorted(wrong, key=lambda row: -float(row["onnxruntime_error_pct"]))[:HARDEST]
    named = ", ".join(f"{escape(row['class'])} {formats.percent(row['onnxruntime_error_pct'])}%" for row in rows)
    return ["", f"The largest errors by class: {named}."]
