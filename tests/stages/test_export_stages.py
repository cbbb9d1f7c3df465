"""export, yardstick, evaluate and benchmark on a tiny study: the files that they promise, and what they refuse."""

from __future__ import annotations

import csv
import dataclasses
import fcntl
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import exported_study
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exported_study import CLASSES, RUN, SETTING, TEST_LABELS

from condensenet.config import ModelConfig
from condensenet.data import PreparedData, evaluation_batches
from condensenet.deploy.convert import convert
from condensenet.deploy.cost import count_cost
from condensenet.deploy.latency.measure import Latency, summarise
from condensenet.deploy.lowering import Plan, portable_plan
from condensenet.deploy.runtime import operator_library
from condensenet.models.condensenet import CondenseNet
from condensenet.models.storage import load_model
from tasks import benchmark, evaluate, export, export_forms, locks, paths, tracking, yardstick
from tasks.errors import UserError
from tasks.headline_metrics import evaluation_metrics
from tasks.params import Params
from tasks.tracking import snapshots


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Iterator[Params]:
    """The study in a working folder of its own, exported and with its yardstick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("study"))
        params = exported_study.write_study(checkout)
        export.export(params, params.settings[SETTING], RUN)
        yardstick.make_yardstick(params, PreparedData(params.paths.data).manifest)
        yield params


def folder(study: Params, stage: str) -> Path:
    return study.paths.setting(stage, SETTING)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_export_is_compared_on_every_test_image(study: Params) -> None:
    facts = read(folder(study, "export") / paths.EXPORT)
    assert set(facts) == {
        "file_bytes",
        "opset",
        "plan",
        "forms",
        "images_compared",
        "max_relative_difference",
        "max_absolute_difference",
    }
    assert facts["file_bytes"] == (folder(study, "export") / paths.ONNX).stat().st_size
    assert facts["plan"] == Plan.load(folder(study, "export") / paths.PLAN).kind == "portable"
    assert facts["opset"] == 18
    assert facts["images_compared"] == len(TEST_LABELS)
    assert 0 <= facts["max_relative_difference"] <= 1e-6


def test_every_form_is_there_or_says_why_not(study: Params) -> None:
    forms = read(folder(study, "export") / paths.EXPORT)["forms"]
    assert set(forms) == set(paths.ALL_FORMS)
    for form, facts in forms.items():
        path = study.paths.form(SETTING, form)
        assert path.exists() == facts["kept"]
        if not facts["kept"]:
            assert facts["why"]
            continue
        assert facts["file_bytes"] == path.stat().st_size
        assert facts["images_compared"] == len(TEST_LABELS)
        found = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        assert (found["form"], found["setting"]) == (form, SETTING)
        assert found["plan"] == ("portable" if form in ("lowered", "int8") else "none")
        if form != paths.INT8:
            assert facts["max_relative_difference"] <= 1e-6
    assert forms["lowered"]["kept"]
    assert forms["plain"]["kept"]
    assert forms["native"]["kept"] == (operator_library() is not None)
    assert 1e-6 < forms["int8"]["max_relative_difference"] < 0.5
    assert "times the lowered file's time" in forms["int8"]["why"]
    names = {path.stem for path in (folder(study, "export") / paths.FORMS).iterdir()}
    assert names == {form for form, facts in forms.items() if facts["kept"]} - {"lowered"}


def latency(ratio_p10: float, ratio: float, ratio_p90: float) -> Latency:
    found = summarise("int8", 1, 1, np.ones(1), np.ones(1))
    return dataclasses.replace(found, ratio_p10=ratio_p10, ratio=ratio, ratio_p90=ratio_p90)


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        ((1.1, 1.2, 1.3), None, False),  # surely slower: no quiet machine is asked for
        ((0.8, 1.2, 1.3), (0.7, 0.8, 0.9), True),
        ((0.7, 0.8, 0.9), (0.7, 0.8, 0.9), True),
        ((0.7, 0.8, 0.9), (0.7, 0.8, 1.1), False),  # not in nine of ten rounds
    ],
)
def test_int8_is_kept_where_it_is_faster_on_a_quiet_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkout: Path, first: Any, second: Any, kept: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    params = exported_study.write_study(checkout)
    quiet = []

    def timed(_: Any) -> Latency:
        with (paths.state() / locks.MACHINE).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                quiet.append(True)
                return latency(*second)
        quiet.append(False)
        return latency(*first)

    monkeypatch.setattr(export, "time_int8", timed)
    facts = export.export(params, params.settings[SETTING], RUN)["forms"]["int8"]
    assert quiet == [False] if second is None else quiet == [False, True]
    assert facts["kept"] == kept == params.paths.form(SETTING, "int8").exists()
    errors = evaluate.evaluate(params, params.settings[SETTING])
    assert ("int8" in errors) == kept == ("test_error_pct_int8" in evaluation_metrics(errors))
    header = (folder(params, "evaluate") / paths.PER_CLASS).read_text().splitlines()[0]
    assert header == "class,images,pytorch_error_pct,onnxruntime_error_pct"


def test_the_evaluation_runs_the_lowered_file(study: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    true_logits = evaluate.onnx_logits
    monkeypatch.setattr(evaluate, "onnx_logits", lambda path: (opened.append(path), true_logits(path))[1])
    evaluate.evaluate(study, study.settings[SETTING])
    assert opened[0] == folder(study, "export") / "model.onnx"
    found = onnx.load(opened[0])
    assert {entry.key: entry.value for entry in found.metadata_props}["form"] == "lowered"
    assert {node.domain for node in found.graph.node} == {""}


def planned(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: str) -> Params:
    monkeypatch.chdir(tmp_path)
    params = exported_study.write_study(checkout)
    return dataclasses.replace(params, export=dataclasses.replace(params.export, plan=plan))


def test_a_measured_plan_is_measured_on_a_quiet_machine_and_cached(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkout: Path
) -> None:
    params = planned(checkout, tmp_path, monkeypatch, "measured")
    measure, calls = export_forms.measure_plan, []

    def watched(*rest: Any, **named: Any) -> Any:
        with (paths.state() / locks.MACHINE).open("a") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        calls.append(named)
        return measure(*rest, **named)

    monkeypatch.setattr(export_forms, "measure_plan", watched)
    facts = export.export(params, params.settings[SETTING], RUN)
    assert calls == [{"threads": 1, "cache": paths.state() / "plan_times.json"}]
    saved = folder(params, "export") / paths.PLAN
    assert facts["plan"] == Plan.load(saved).kind == "measured"
    found = {entry.key: entry.value for entry in onnx.load(folder(params, "export") / paths.ONNX).metadata_props}
    assert found["plan"] == "measured"


def test_a_plan_is_taken_from_a_file_by_the_settings_name(
    study: Params, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkout: Path
) -> None:
    params = planned(checkout, tmp_path, monkeypatch, "plans/{setting}.json")
    plan = portable_plan(load_model(folder(params, "convert") / paths.MODEL), 9)
    plan.save(tmp_path / "plans" / f"{SETTING}.json")
    monkeypatch.setattr(export_forms, "portable_plan", None)  # nothing is planned anew
    monkeypatch.setattr(export_forms, "operator_library", lambda: None)
    stale = params.paths.form(SETTING, "native")
    stale.parent.mkdir(parents=True)
    stale.touch()
    export.export(params, params.settings[SETTING], RUN)
    written = folder(params, "export")
    assert not stale.exists()
    assert "not compiled" in read(written / paths.EXPORT)["forms"]["native"]["why"]
    assert (written / paths.PLAN).read_bytes() == (tmp_path / "plans" / f"{SETTING}.json").read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"export\.plan='plan\.json' is not allowed: plan\.json is no file"),
        ("junk", r"export\.plan='plan\.json' is not allowed for g2-c4: .*plan\.json"),
        ("another", r"export\.plan='plan\.json' is not allowed for g2-c4: "),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_before_work_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkout: Path, content: str | None, message: str
) -> None:
    params = planned(checkout, tmp_path, monkeypatch, "plan.json")
    if content == "another":
        other = dataclasses.replace(params.settings[SETTING].model, growth_rates=(8, 8))
        portable_plan(convert(condensed_network(other)), 9).save(tmp_path / "plan.json")
    elif content is not None:
        (tmp_path / "plan.json").write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        export.export(params, params.settings[SETTING], RUN)
    assert "\n" not in str(caught.value)
    assert not folder(params, "export").exists()


def test_the_calibration_images_are_spread_over_the_training_images(
    study: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = PreparedData(study.paths.data).split("train")
    batches = list(export_forms.calibration_images(train))
    assert sum(map(len, batches)) == len(train)  # three: fewer than are wanted
    assert batches[0].dtype == np.float32
    monkeypatch.setattr(export_forms, "CALIBRATION_IMAGES", 2)  # every second of three
    ((first, _),) = evaluation_batches(train, 3)
    np.testing.assert_array_equal(np.concatenate(list(export_forms.calibration_images(train))), first[::2])


def test_the_file_says_what_it_is_and_how_to_feed_it(study: Params) -> None:
    found = {entry.key: entry.value for entry in onnx.load(folder(study, "export") / paths.ONNX).metadata_props}
    manifest = PreparedData(study.paths.data).manifest
    cost = count_cost(load_model(folder(study, "convert") / paths.MODEL), 9)
    assert (found["study"], found["setting"]) == ("tiny", SETTING)
    assert (found["groups_1x1"], found["condensation_factor"]) == ("2", "4")
    assert (found["execution_id"], found["git_commit"]) == (RUN["execution_id"], RUN["git_commit"])
    assert {key: int(found[key]) for key in ("macs", "paper_flops", "params")} == vars(cost)
    assert json.loads(found["classes"]) == list(CLASSES)
    assert (json.loads(found["mean"]), json.loads(found["std"])) == (list(manifest.mean), list(manifest.std))
    assert found["dataset_fingerprint"] == manifest.fingerprint


def test_the_file_classifies_stored_pixels_by_what_its_metadata_say(study: Params) -> None:
    """What a user of the file alone does, without this library: normalise by the metadata, run."""
    session = onnxruntime.InferenceSession(str(folder(study, "export") / paths.ONNX))
    found = session.get_modelmeta().custom_metadata_map
    mean, std = (np.array(json.loads(found[key]), dtype=np.float32)[:, None, None] for key in ("mean", "std"))
    split = PreparedData(study.paths.data).split("test")
    pixels = split.raw(np.arange(len(split)))
    (logits,) = session.run(["logits"], {"image": (pixels.astype(np.float32) / 255 - mean) / std})
    ((images, _),) = evaluation_batches(split, len(split))
    with torch.inference_mode():
        expected = load_model(folder(study, "convert") / paths.MODEL)(images).numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["lower", "export_onnx"])
def test_a_file_that_computes_something_else_is_refused_and_not_left_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkout: Path, form: str
) -> None:
    monkeypatch.chdir(tmp_path)
    params = exported_study.write_study(checkout)
    other = convert(condensed_network(params.settings[SETTING].model))
    writer = getattr(export_forms, form)
    monkeypatch.setattr(export_forms, form, lambda model, *rest, **named: writer(other, *rest, **named))
    with pytest.raises(UserError, match=r"differs from PyTorch: relative .* absolute .* over 7 images") as caught:
        export.export(params, params.settings[SETTING], RUN)
    assert "\n" not in str(caught.value)
    assert not folder(params, "export").exists()


def condensed_network(config: ModelConfig) -> CondenseNet:
    model = CondenseNet(config)
    model.condense_to(model.num_condensing_stages)
    return model.eval()


def test_the_yardstick_takes_the_same_images_and_states_its_cost(study: Params) -> None:
    cost = read(study.paths.yardstick / paths.COST)
    assert set(cost) == {"model", "macs", "paper_flops", "params", "file_bytes"}
    assert cost["model"] == "mobilenet_v1"
    assert cost["file_bytes"] == (study.paths.yardstick / paths.ONNX).stat().st_size
    (image,) = onnx.load(study.paths.yardstick / paths.ONNX).graph.input
    assert [dim.dim_param or dim.dim_value for dim in image.type.tensor_type.shape.dim] == ["batch", 1, 9, 9]


def test_answers_of_hand_made_logits() -> None:
    logits = torch.tensor([[6.0, 5, 4, 3, 2, 1], [6, 5, 4, 3, 2, 1], [6, 5, 4, 3, 2, 1], [1, 1, 1, 1, 1, 1]])
    found = evaluate.answers_of(logits, torch.tensor([0, 4, 5, 5]))
    assert found.predicted_N.tolist() == [0, 0, 0, 0]
    assert found.in_top5_N.tolist() == [True, True, False, False]  # of equal logits the first ones count
    likeliest = 1 / sum(math.exp(-d) for d in range(6))
    assert found.confidence_N.tolist() == pytest.approx([likeliest, likeliest, likeliest, 1 / 6])


def test_calibration_error_of_hand_made_confidences() -> None:
    confidence = torch.tensor([0.9, 0.92, 0.5, 1.0])  # bins 13 (13/15 to 14/15), 13, 7 and 14
    correct = torch.tensor([True, False, True, True])
    error = evaluate.calibration_error_pct(confidence, correct)
    assert error == pytest.approx(100 * (abs(0.9 + 0.92 - 1) + abs(0.5 - 1) + 0) / 4)


def test_the_edges_of_confidence_bins_belong_to_the_bin_below() -> None:
    edge, above = 5 / 15, 5 / 15 + 1e-6
    confidence = torch.tensor([edge, above], dtype=torch.float64)
    error = evaluate.calibration_error_pct(confidence, torch.tensor([True, False]))
    assert error == pytest.approx(100 * (1 - edge + above) / 2)  # in one bin they would cancel: 100 * (2 / 3 - 1) / 2


def test_errors_disagreements_and_classes_of_hand_made_answers() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    answers = {
        "pytorch": evaluate.Answers(
            torch.tensor([0, 1, 1, 0]), torch.full([4], 0.9), torch.tensor([True, True, True, False])
        ),
        "onnxruntime": evaluate.Answers(
            torch.tensor([0, 1, 1, 1]), torch.full([4], 0.9), torch.tensor([True, True, True, True])
        ),
    }
    assert evaluate.summarise(answers, labels) == {
        "images": 4,
        "pytorch": {"top1_error_pct": 50.0, "top5_error_pct": 25.0, "calibration_error_pct": pytest.approx(40)},
        "onnxruntime": {"top1_error_pct": 25.0, "top5_error_pct": 0.0, "calibration_error_pct": pytest.approx(15)},
        "disagreements": 1,
    }
    assert list(evaluate.per_class(answers, labels, ("a", "b", "c"))) == [
        {"class": "a", "images": 2, "pytorch_error_pct": 50.0, "onnxruntime_error_pct": 50.0},
        {"class": "b", "images": 2, "pytorch_error_pct": 50.0, "onnxruntime_error_pct": 0.0},
        {"class": "c", "images": 0, "pytorch_error_pct": None, "onnxruntime_error_pct": None},
    ]
    assert list(evaluate.confusion(answers["onnxruntime"], labels, ("a", "b", "c"))) == [
        {"actual": "a", "predicted": "a"},
        {"actual": "a", "predicted": "b"},
        {"actual": "b", "predicted": "b"},
        {"actual": "b", "predicted": "b"},
    ]


def test_the_evaluation_counts_every_image_once_the_last_partial_batch_too(study: Params) -> None:
    metrics = evaluate.evaluate(study, study.settings[SETTING])
    ((images, labels),) = evaluation_batches(PreparedData(study.paths.data).split("test"), len(TEST_LABELS))
    with torch.inference_mode():
        predicted = load_model(folder(study, "convert") / paths.MODEL)(images).argmax(dim=1)
    wrong = 100 * (predicted != labels).float().mean().item()
    assert metrics["images"] == len(TEST_LABELS)
    assert metrics["disagreements"] == 0
    for runtime in ("pytorch", "onnxruntime"):
        assert metrics[runtime]["top1_error_pct"] == pytest.approx(wrong)
        assert metrics[runtime]["top5_error_pct"] == 0
        assert 0 < metrics[runtime]["calibration_error_pct"] < 100
    assert read(folder(study, "evaluate") / paths.METRICS) == metrics
    assert rows(folder(study, "evaluate") / paths.CONFUSION) == [
        {"actual": CLASSES[label], "predicted": CLASSES[found]}
        for label, found in zip(TEST_LABELS, predicted.tolist(), strict=True)
    ]
    table = rows(folder(study, "evaluate") / paths.PER_CLASS)
    assert [(row["class"], row["images"]) for row in table] == list(zip(CLASSES, "430", strict=True))
    assert table[2]["onnxruntime_error_pct"] == ""


def set_command_line(monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """As for ``python -m tasks.<stage> SETTING``; the snapshot for the tracking store stays on disk."""
    monkeypatch.setattr(sys, "argv", [f"tasks/{stage}.py", SETTING])
    monkeypatch.setattr(tracking, "upload", lambda: None)


def recorded(stage: str) -> tuple[snapshots.Snapshot, set[str]]:
    """The snapshot of ``stage``, and the artifacts in it."""
    folder = next(folder for folder in snapshots.completed() if f"-{stage}-" in folder.name)
    artifacts = folder / snapshots.ARTIFACTS
    return snapshots.read(folder), {str(path.relative_to(artifacts)) for path in artifacts.rglob("*.*")}


def test_the_benchmark_holds_the_machine_alone_and_prints_no_latency_without_its_machine(
    study: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_command_line(monkeypatch, "benchmark")
    measure = benchmark.measure_latency

    def watched(*rest: Any, **named: Any) -> Any:
        with (paths.state() / locks.MACHINE).open("a") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return measure(*rest, **named)

    monkeypatch.setattr(benchmark, "measure_latency", watched)
    benchmark.main()
    facts = read(folder(study, "benchmark") / paths.LATENCY)
    assert set(facts) == {"hardware", "versions", "protocol", "rows"}
    assert {"runs": 50, "warmup": 1, "yardstick": "mobilenet_v1", "input_size": [1, 9, 9]}.items() <= facts[
        "protocol"
    ].items()
    forms = [form for form, found in read(folder(study, "export") / paths.EXPORT)["forms"].items() if found["kept"]]
    assert sorted((row["form"], row["batch"], row["threads"]) for row in facts["rows"]) == sorted(
        (form, batch, 1) for form in forms for batch in (1, 2)
    )
    assert all(row["ratio"] > 0 for row in facts["rows"])
    lines = capsys.readouterr().out.splitlines()
    assert facts["hardware"]["cpu"] in lines[0]
    assert onnxruntime.__version__ in lines[0]
    assert all("times mobilenet_v1's" in line for line in lines[1 : 1 + len(facts["rows"])])
    snapshot, artifacts = recorded("benchmark")
    assert (snapshot.run, artifacts) == (RUN, {"benchmark/latency.json"})
    wanted = {"latency_ms", "latency_ratio", "latency_ms_b2_t1", "latency_ms_plain", "latency_ratio_plain"}
    assert wanted | {"latency_ms_plain_b2_t1"} <= snapshot.metrics.keys()
    lowered = next(row for row in facts["rows"] if (row["form"], row["batch"]) == ("lowered", 1))
    assert snapshot.metrics["latency_ms"] == lowered["median_ms"]


def test_an_unsteady_benchmark_says_so(study: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = benchmark.benchmark(study, study.settings[SETTING])
    steady, unsteady = (
        {**facts, "rows": [{**row, "ratio_p10": 0.5, "ratio_p90": high} for row in facts["rows"]]}
        for high in (0.9, 1.1)
    )
    assert not any("not quiet" in line for line in benchmark.describe(steady))
    *_, warning, advice = benchmark.describe(unsteady)
    assert "not quiet" in warning
    assert advice.endswith("run the same command")
    monkeypatch.chdir(tmp_path)  # a checkout, for whom reads the advice
    paths.DVC_YAML.touch()
    *_, advice = benchmark.describe(unsteady)
    assert "dvc repro" in advice


def test_the_stages_leave_snapshots_for_the_tracking_store(study: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    set_command_line(monkeypatch, "evaluate")
    evaluate.main()
    snapshot, artifacts = recorded("evaluate")
    assert snapshot.run == RUN
    assert {"test_error_pct", "test_top5_error_pct"} <= snapshot.metrics.keys()
    assert artifacts == {"evaluate/metrics.json", "evaluate/per_class.csv", "evaluate/confusion.csv"}


@pytest.mark.parametrize(
    ("stage", "arguments", "message"),
    [
        (export, [], "usage: python -m tasks.export SETTING, one of g2-c4"),
        (evaluate, ["g9"], "setting 'g9' is not in params.yaml"),
        (benchmark, [SETTING, "more"], "usage: python -m tasks.benchmark SETTING"),
    ],
)
def test_a_wrong_command_line_is_one_line(
    study: Params, monkeypatch: pytest.MonkeyPatch, stage: Any, arguments: list[str], message: str
) -> None:
    monkeypatch.setattr(sys, "argv", [stage.__file__, *arguments])
    with pytest.raises(UserError, match=message):
        stage.main()


@pytest.mark.parametrize(
    ("missing", "stage", "message"),
    [
        ("train", export, "run.json is missing: run dvc repro train@g2-c4"),
        ("convert", export, "model.pt is missing: run dvc repro convert@g2-c4"),
        ("data", export, "manifest.json is missing: run dvc repro prepare"),
        ("export", evaluate, "model.onnx is missing: run dvc repro export@g2-c4"),
        ("yardstick", benchmark, "model.onnx is missing: run dvc repro yardstick"),
    ],
)
def test_a_missing_input_names_the_stage_that_makes_it(
    study: Params, monkeypatch: pytest.MonkeyPatch, missing: str, stage: Any, message: str
) -> None:
    set_command_line(monkeypatch, stage.__name__)
    place = study.paths.root / missing
    place.rename(place.with_name("elsewhere"))
    try:
        with pytest.raises(UserError, match=message):
            stage.main()
    finally:
        place.with_name("elsewhere").rename(place)


def test_a_model_of_other_classes_is_refused(
    study: Params, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkout: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    params = exported_study.write_study(checkout)
    path = params.paths.data / paths.MANIFEST
    path.write_text(json.dumps({**read(path), "classes": ["a", "b"]}))
    with pytest.raises(UserError, match="num_classes=3 is not allowed: the data tiny has 2 classes"):
        export.export(params, params.settings[SETTING], RUN)
