"""export, yardstick, evaluate and benchmark on a tiny study: the files that they promise, and what they refuse."""

from __future__ import annotations

import csv
import fcntl
import json
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

from condensenet.convert import convert
from condensenet.cost import count_cost
from condensenet.data import PreparedData, evaluation_batches
from condensenet.models.condensenet import CondenseNet
from condensenet.storage import load_model
from tasks import benchmark, evaluate, export, machine, paths, tracking, yardstick
from tasks.errors import UserError
from tasks.params import Params


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
        "images_compared",
        "max_relative_difference",
        "max_absolute_difference",
    }
    assert facts["file_bytes"] == (folder(study, "export") / paths.ONNX).stat().st_size
    assert facts["opset"] == 18
    assert facts["images_compared"] == len(TEST_LABELS)
    assert 0 <= facts["max_relative_difference"] <= 1e-6


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


def test_a_file_that_computes_something_else_is_refused_and_not_left_behind(
    study: Params, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkout: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    params = exported_study.write_study(checkout)
    other = convert(condensed(params))
    true_export = export.export_onnx
    monkeypatch.setattr(export, "export_onnx", lambda model, *rest, **named: true_export(other, *rest, **named))
    with pytest.raises(UserError, match=r"differs from PyTorch: relative .* absolute .* over 7 images") as caught:
        export.export(params, params.settings[SETTING], RUN)
    assert "\n" not in str(caught.value)
    assert list(folder(params, "export").iterdir()) == []


def condensed(params: Params) -> CondenseNet:
    model = CondenseNet(params.settings[SETTING].model)
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


def test_errors_disagreements_and_classes_of_hand_made_answers() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    answers = {
        "pytorch": evaluate.Answers(torch.tensor([0, 1, 1, 0]), torch.tensor([True, True, True, False])),
        "onnxruntime": evaluate.Answers(torch.tensor([0, 1, 1, 1]), torch.tensor([True, True, True, True])),
    }
    assert evaluate.summarise(answers, labels) == {
        "images": 4,
        "pytorch": {"top1_error_pct": 50.0, "top5_error_pct": 25.0},
        "onnxruntime": {"top1_error_pct": 25.0, "top5_error_pct": 0.0},
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
        assert metrics[runtime] == {"top1_error_pct": pytest.approx(wrong), "top5_error_pct": 0.0}
    assert read(folder(study, "evaluate") / paths.METRICS) == metrics
    assert rows(folder(study, "evaluate") / paths.CONFUSION) == [
        {"actual": CLASSES[label], "predicted": CLASSES[found]}
        for label, found in zip(TEST_LABELS, predicted.tolist(), strict=True)
    ]
    table = rows(folder(study, "evaluate") / paths.PER_CLASS)
    assert [(row["class"], row["images"]) for row in table] == list(zip(CLASSES, "430", strict=True))
    assert table[2]["onnxruntime_error_pct"] == ""


def recorded(monkeypatch: pytest.MonkeyPatch, stage: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Set the command line of ``stage`` and catch what it would mirror to the tracking store."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr(sys, "argv", [f"tasks/{stage}.py", SETTING])
    monkeypatch.setattr(tracking, "record", lambda *rest, **named: calls.append((rest, named)))
    return calls


def test_the_benchmark_holds_the_machine_alone_and_prints_no_latency_without_its_machine(
    study: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = recorded(monkeypatch, "benchmark")
    measure = benchmark.measure_latency

    def watched(*rest: Any, **named: Any) -> Any:
        with (paths.state() / machine.LOCK).open("a") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return measure(*rest, **named)

    monkeypatch.setattr(benchmark, "measure_latency", watched)
    benchmark.main()
    facts = read(folder(study, "benchmark") / paths.LATENCY)
    assert set(facts) == {"hardware", "versions", "protocol", "rows"}
    assert {"runs": 50, "warmup": 1, "yardstick": "mobilenet_v1", "input_size": [1, 9, 9]}.items() <= facts[
        "protocol"
    ].items()
    assert [(row["batch"], row["threads"]) for row in facts["rows"]] == [(1, 1), (2, 1)]
    assert all(row["ratio"] > 0 for row in facts["rows"])
    lines = capsys.readouterr().out.splitlines()
    assert facts["hardware"]["cpu"] in lines[0]
    assert onnxruntime.__version__ in lines[0]
    assert all("times mobilenet_v1's" in line for line in lines[1:3])
    (((run, stage), named),) = calls
    assert (run, stage) == (RUN, "benchmark")
    assert {"latency_ms", "latency_ratio", "latency_ms_b2_t1"} <= named["metrics"].keys()


def test_an_unsteady_benchmark_says_so(study: Params) -> None:
    facts = benchmark.benchmark(study, study.settings[SETTING])
    steady, unsteady = (
        {**facts, "rows": [{**row, "ratio_p10": 0.5, "ratio_p90": high} for row in facts["rows"]]}
        for high in (0.9, 1.1)
    )
    assert not any("not quiet" in line for line in benchmark.describe(steady))
    assert "not quiet" in list(benchmark.describe(unsteady))[-1]


def test_the_stages_tell_the_tracking_store(study: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = recorded(monkeypatch, "evaluate")
    evaluate.main()
    (((run, stage), named),) = calls
    assert (run["execution_id"], stage) == (RUN["execution_id"], "evaluate")
    assert {"test_error_pct", "test_top5_error_pct"} <= named["metrics"].keys()
    assert all(path.exists() for path, _ in named["artifacts"])


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
    recorded(monkeypatch, stage.__name__)
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
