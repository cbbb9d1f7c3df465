"""How each setting was trained, and where training ended."""

from __future__ import annotations

from tasks.report import formats
from tasks.report.results import SettingResult, Study
from tasks.report.tables.cells import DASH, SETTING, Column, Table, setting_rows

COLUMNS = (
    SETTING,
    Column("epochs"),
    Column("seed"),
    Column("workers"),
    Column("condensing stages", "at epochs"),
    Column("train loss"),
    Column("train error", "%"),
    Column("validation error", "%"),
    Column("duration", "s"),
    Column("images/s"),
)


def training_table(study: Study) -> Table:
    return Table("Training runs", COLUMNS, setting_rows(study, _values), [split_note(study)])


def _values(result: SettingResult) -> list[str]:
    metrics = result.train or {}
    stages = ", ".join(str(epoch) for epoch, _ in result.dropping_epochs) or (DASH if result.history else "")
    return [
        formats.exact_count(metrics.get("epochs")),
        str(result.setting.train.seed),
        formats.exact_count(metrics.get("num_workers")),
        stages or formats.NOT_RUN,
        f"{metrics['train_loss']:.3f}" if metrics else formats.NOT_RUN,
        formats.percent(metrics.get("train_error_pct")),
        formats.percent(metrics.get("validation_error_pct")),
        f"{metrics['seconds']:,.0f}" if metrics else formats.NOT_RUN,
        f"{metrics['images_per_second']:,.0f}" if metrics else formats.NOT_RUN,
    ]


def split_note(study: Study) -> str:
    """Which images were used for what."""
    splits = {result.validation_split for result in study.results if result.train is not None}
    if splits == {"test"}:
        return (
            "This study holds out no validation images, so each epoch is evaluated on the test images. They are not "
            "used for model selection: the weights after the last epoch are kept."
        )
    return (
        "Each epoch is evaluated on validation images held out of the training set. The test set is never used for "
        "training or model selection: the weights after the last epoch are kept."
    )
