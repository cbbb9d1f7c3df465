"""The tables behind the headline: training, classes, what is published, and where everything comes from."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.report import units
from tasks.report.content import DASH, SETTING, Cell, Column, Table, mark_notes, published_text
from tasks.report.published import Published, PublishedModel, dataset_of
from tasks.report.read import SettingResult, Study

MAX_CLASSES = 20
PUBLISHED_TEST_IMAGES = {"cifar10": 10_000, "cifar100": 10_000, "imagenet": 50_000}
NOT_MEASURED = Cell(units.NOT_RUN)


def training(study: Study) -> Table:
    """How each setting was trained and where it ended."""
    columns = (
        SETTING,
        Column("epochs"),
        Column("seed"),
        Column("workers"),
        Column("condensing stages", "in epochs"),
        Column("train loss"),
        Column("train error", "%"),
        Column("validation error", "%"),
        Column("duration", "s"),
        Column("images/s"),
    )
    rows = [_training_row(result, index) for index, result in enumerate(study.results)]
    return Table("Training", columns, rows, [_split_note(study)])


def _training_row(result: SettingResult, index: int) -> list[Cell]:
    from tasks.report.charts import dropping_epochs

    found = result.train or {}
    stages = ", ".join(str(epoch) for epoch, _ in dropping_epochs(result)) or (DASH if result.history else "")
    return [
        Cell(result.name, index=index),
        Cell(units.grouped(found.get("epochs"))),
        Cell(str(result.setting.train.seed)),
        Cell(units.grouped(found.get("num_workers"))),
        Cell(stages or units.NOT_RUN),
        Cell(units.NOT_RUN if not found else f"{found['train_loss']:.3f}"),
        Cell(units.percent(found.get("train_error_pct"))),
        Cell(units.percent(found.get("validation_error_pct"))),
        Cell(units.NOT_RUN if not found else f"{found['seconds']:,.0f}"),
        Cell(units.NOT_RUN if not found else f"{found['images_per_second']:,.0f}"),
    ]


def _split_note(study: Study) -> str:
    """The honest sentence about which images were used for what."""
    splits = {str((result.train or {}).get("validation_split", "")) for result in study.results} - {""}
    if splits == {"test"}:
        return (
            "No images are held out for validation in this study: the curve by epoch is measured on the test images. "
            "Nothing is chosen by it: the weights after the last epoch are the ones that are kept."
        )
    return (
        "The curve by epoch is measured on images held out of the training part. The test part neither trains nor "
        "selects anything; the weights after the last epoch are the ones that are kept."
    )


def per_class(study: Study) -> Table | None:
    """Test error by class (ONNX Runtime, the exported file); with many classes the worst ones."""
    by_setting = [{row["class"]: row for row in result.per_class} for result in study.results]
    known: dict[str, int] = {}
    for rows in by_setting:
        for name, row in rows.items():
            known[name] = int(row["images"])
    if not known:
        return None
    shown = sorted(known, key=lambda name: -_mean_error(name, by_setting))[:MAX_CLASSES]
    names = list(known) if len(known) <= MAX_CLASSES else shown
    columns = (Column("class", is_text=True), Column("images"), *(Column(r.name, "%") for r in study.results))
    cells = [
        [Cell(name), Cell(f"{known[name]:,}"), *(_class_cell(rows.get(name)) for rows in by_setting)] for name in names
    ]
    note = "Test error (top-1) of the exported file."
    if len(names) < len(known):
        note += f" The {len(names)} classes with the highest error of {len(known):,}; all stand in per_class.csv."
    return Table("Test error by class", columns, cells, [note])


def _mean_error(name: str, by_setting: Sequence[dict[str, dict[str, str]]]) -> float:
    """Of a class without test images: 0, so that it is shown last."""
    texts = [rows[name]["onnxruntime_error_pct"] for rows in by_setting if name in rows]
    found = [float(text) for text in texts if text]
    return sum(found) / len(found) if found else 0.0


def _class_cell(row: dict[str, str] | None) -> Cell:
    if row is None:
        return NOT_MEASURED
    error = row["onnxruntime_error_pct"]
    return Cell(f"{float(error):.1f}" if error else DASH)  # empty: no test image is of this class


def published_tables(study: Study, published: Published) -> list[Table]:
    """What others report, with a column beside each error for what this run measured."""
    c10, c100 = ("cifar10_error_pct", "CIFAR-10 error"), ("cifar100_error_pct", "CIFAR-100 error")
    top1, top5 = ("imagenet_error_pct", "top-1 error"), ("imagenet_top5_error_pct", "top-5 error")
    return [
        _published_table("CIFAR, error in %", "cifar", ("paper_flops", "params"), (c10, c100), study, published),
        _published_table(
            "ImageNet, error in %", "imagenet", ("paper_flops", "macs", "params"), (top1, top5), study, published
        ),
        _published_table(
            "One ARM core, 224×224 pixels, batch 1 (Jetson TX2, PyTorch)",
            "arm",
            (),
            (("arm_latency_s", "seconds"),),
            study,
            published,
        ),
    ]


COUNTS = {"paper_flops": "paper's FLOPs", "macs": "MACs", "params": "parameters"}


def _published_table(
    caption: str,
    table: str,
    counts: Sequence[str],
    errors: Sequence[tuple[str, str]],
    study: Study,
    published: Published,
) -> Table:
    columns = [Column("model", is_text=True)]
    columns += [Column(COUNTS[name], "published", is_published=True) for name in counts]
    for _, title in errors:
        columns += [Column(title, "published", is_published=True), Column(title, "measured here")]
    columns.append(Column("source", is_text=True))
    rows = []
    for model in published.table(table):
        cells = [Cell(model.model), *(Cell(published_text(model, name)) for name in counts)]
        for name, _ in errors:
            cells += [Cell(published_text(model, name)), _measured(model, name, study, published)]
        rows.append([*cells, Cell(model.source)])
    used = dict.fromkeys(model.source for model in published.table(table))
    notes = [f"{source}: {published.sources[source]}." for source in used]
    return Table(caption, columns, rows, [*notes, *mark_notes(published)])


def _measured(model: PublishedModel, name: str, study: Study, published: Published) -> Cell:
    """This run's error for the published row, or "not run"."""
    dataset = dataset_of(study.params)
    key = {f"{dataset}_error_pct": "top1_error_pct", f"{dataset}_top5_error_pct": "top5_error_pct"}.get(name)
    for result in study.results:
        if key is not None and published.match(result.setting.model, dataset) is model:
            error = (result.evaluation or {}).get("onnxruntime", {}).get(key)
            return Cell(units.percent(error), result.name if error is not None else "")
    return NOT_MEASURED


def beside_published(study: Study, published: Published) -> Table | None:
    """Measured and published figures of the same networks, side by side; None when there are none."""
    dataset = dataset_of(study.params)
    names = [("test error", f"{dataset}_error_pct"), ("top-5 error", f"{dataset}_top5_error_pct")]
    names += [("paper's FLOPs", "paper_flops"), ("parameters", "params")]
    matches = [published.match(result.setting.model, dataset) for result in study.results]
    names = [(title, name) for title, name in names if any(m is not None and name in m.figures for m in matches)]
    if not names:
        return None
    columns = [SETTING, Column("published as", is_text=True)]
    for title, _ in names:
        columns += [Column(title, "measured here"), Column(title, "published", is_published=True)]
    rows = []
    for index, (result, match) in enumerate(zip(study.results, matches, strict=True)):
        cells = [Cell(result.name, index=index), Cell(match.model if match is not None else DASH)]
        for _, name in names:
            cells += [_own_figure(result, name), Cell(published_text(match, name))]
        rows.append(cells)
    notes = [
        "The recipe in force may differ from the published one: here "
        f"{_recipes(study, 'epochs')} epochs, arithmetic in {_recipes(study, 'precision')}."
    ]
    notes += image_set_notes(study, dataset)
    return Table("Measured beside published", columns, rows, [*notes, *mark_notes(published)])


def image_set_notes(study: Study, dataset: str | None) -> list[str]:
    """In what the images here are not the ones that the published errors were measured on."""
    notes = []
    images = (study.manifest or {}).get("splits", {}).get("test")
    if images is not None and dataset is not None and images != PUBLISHED_TEST_IMAGES[dataset]:
        published = PUBLISHED_TEST_IMAGES[dataset]
        notes.append(f"Not the same test images: measured on {images:,}, published on {published:,}.")
    if dataset in ("cifar10", "cifar100") and study.params.data.source != dataset:
        notes.append("Published for the original pixels; the images here were read from encoded files.")
    return notes


def _recipes(study: Study, name: str) -> str:
    """The values of one key of the recipe over all settings."""
    values = {getattr(result.setting.train, name) for result in study.results}
    return ", ".join(str(value) for value in sorted(values))


def _own_figure(result: SettingResult, name: str) -> Cell:
    if name in ("paper_flops", "params"):
        return Cell(units.count((result.cost or {}).get("grouped", {}).get(name)))
    key = "top5_error_pct" if "top5" in name else "top1_error_pct"
    return Cell(units.percent((result.evaluation or {}).get("onnxruntime", {}).get(key)))


def runs(study: Study) -> Table:
    """Which execution made each setting's figures."""
    columns = (
        SETTING,
        Column("started", "UTC", is_text=True),
        Column("git commit", is_text=True),
        Column("execution", is_text=True),
        Column("MLflow run", is_text=True),
        Column("stages not run", is_text=True),
    )
    rows = []
    for index, result in enumerate(study.results):
        run = result.run or {}
        cells = [
            Cell(str(run.get("started_at") or units.NOT_RUN).replace("T", " ")[:19]),
            Cell(str(run.get("git_commit") or DASH)[:12]),
            Cell(str(run.get("execution_id") or units.NOT_RUN)),
            Cell(str(run.get("mlflow_run_id") or DASH)),
            Cell(", ".join(result.missing) or DASH),
        ]
        rows.append([Cell(result.name, index=index), *cells])
    return Table("Executions", columns, rows)


def hashes(study: Study) -> Table:
    """The MD5 of each output, as in dvc.lock."""
    keys = list(dict.fromkeys(key for result in study.results for key in result.hashes))
    columns = (Column("output", is_text=True), *(Column(result.name, is_text=True) for result in study.results))
    rows = [[Cell(key), *(Cell(result.hashes.get(key, units.NOT_RUN)) for result in study.results)] for key in keys]
    return Table("Files by their MD5, as DVC records them in dvc.lock", columns, rows)


def facts(study: Study) -> list[tuple[str, str]]:
    """What the study is about: name and value, in the order of reading."""
    data, manifest = study.params.data, study.manifest or {}
    found = [("study", study.params.study), ("data source", data.source)]
    if manifest:
        splits = ", ".join(f"{count:,} {name}" for name, count in manifest.get("splits", {}).items())
        origin = manifest.get("source", {}).get("origin")
        found += [("data origin", str(origin))] if origin else []
        found += [
            ("images", splits),
            ("classes", f"{len(study.classes):,}"),
            ("image size", f"{manifest.get('image_size')} pixels, {manifest.get('channels')} channels"),
            ("data fingerprint", str(manifest.get("fingerprint"))),
            ("corrupt images left out", f"{len(manifest.get('corrupt', ()))}"),
        ]
    found.append(("which images do what", _split_note(study)))
    return found


def summary(study: Study) -> str:
    """The dearest and the cheapest setting in a sentence, and whether their errors can be told apart."""
    ready = [r for r in study.results if r.cost is not None and r.evaluation is not None]
    if len(ready) < 2:
        return ""
    dear = max(ready, key=lambda r: r.cost["grouped"]["macs"])  # type: ignore[index]
    cheap = min(ready, key=lambda r: r.cost["grouped"]["macs"])  # type: ignore[index]
    share = cheap.cost["grouped"]["macs"] / dear.cost["grouped"]["macs"]  # type: ignore[index]
    errors = [r.evaluation["onnxruntime"]["top1_error_pct"] for r in (cheap, dear)]  # type: ignore[index]
    images = [r.evaluation["images"] for r in (cheap, dear)]  # type: ignore[index]
    ranges = [units.wilson_interval_pct(error, count) for error, count in zip(errors, images, strict=True)]
    overlap = ranges[0][0] <= ranges[1][1] and ranges[1][0] <= ranges[0][1]
    return (
        f"{cheap.name} needs {100 * share:.0f}% of the multiply-adds of {dear.name}, at a test error of "
        f"{errors[0]:.2f}% against {errors[1]:.2f}%"
        + (f"; the 95% intervals overlap with {images[0]:,} test images." if overlap else ".")
    )
