"""The card of a registered model: what it is, how good and how fast it is, how it is used."""

from __future__ import annotations

from tasks.report import formats, machines
from tasks.report.results import SettingResult, Study


def card(result: SettingResult, study: Study) -> str:
    """Markdown."""
    model, metrics, interval = result.setting.model, result.metrics, result.error_interval_pct
    within = "" if interval is None else f" (95% interval {interval[0]:.1f} to {interval[1]:.1f})"
    images = (result.evaluation or {}).get("images")
    classes = (study.manifest or {}).get("classes", [])
    machine = machines.hardware(result.latency or {})
    rows = {
        "Test error": f"{formats.percent(metrics.get('test_error_pct'))}%{within}, on {images} images",
        "Multiply-adds": formats.short_count(metrics.get("macs")),
        "Parameters": formats.short_count(metrics.get("params")),
        "Latency, batch 1, one thread": f"{formats.milliseconds(metrics.get('latency_ms'))} ms, "
        f"{formats.ratio(metrics.get('latency_ratio'))} times MobileNetV1's ({machine})",
        "File": formats.file_size(metrics.get("file_bytes")),
    }
    lines = [
        f"**{result.name}** of the study {study.params.study}: a CondenseNet with G={model.groups_1x1} and "
        f"C={model.condensation_factor}, exported to ONNX for images of {study.params.data.image_size} pixels and "
        f"{len(classes)} classes.",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in rows.items()),
        "",
        "Images are prepared as the file's metadata say: `condensenet predict model.onnx IMAGE` does it. "
        "It was trained on this study's training images only; on others its error is unknown.",
    ]
    return "\n".join(lines) + "\n"
