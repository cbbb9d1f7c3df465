"""The real pipeline, all stages, on a tiny study: two settings, two epochs. Run once by the flow, then looked at."""

from __future__ import annotations

import csv
import json
import re
import resource
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from workspaces import Workspace, copy_checkout

SETTINGS = ("g2-c2", "g4-c2")
PER_SETTING = ("train", "convert", "export", "evaluate", "benchmark")


@pytest.fixture(scope="session")
def workspace(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory, prefect_server: dict[str, str]
) -> tuple[Workspace, str]:
    """The workspace after one flow, its dvc.lock committed, and what the flow printed."""
    made = copy_checkout(checkout, tmp_path_factory.mktemp("workspace") / "checkout").with_variables(**prefect_server)
    params = made.read("params.yaml")
    assert isinstance(params, dict)
    params["train"]["epochs"] = 2
    params["tables"] = {"image_size": 32, "networks": ["condensenet-74-g8"]}
    params["settings"] = {name: params["settings"][name] for name in SETTINGS}
    YAML().dump(params, made.path / "params.yaml")
    made.commit("Take a tiny study")
    printed = made.run("python", "-m", "flows.reproduce", "--tables", timeout=900).stdout
    made.commit("Run it")
    return made, printed


@pytest.fixture(scope="session")
def finished(workspace: tuple[Workspace, str]) -> Workspace:
    return workspace[0]


def test_the_flow_ends_with_the_table_and_where_to_look(workspace: tuple[Workspace, str]) -> None:
    printed = workspace[1]
    for name in SETTINGS:
        assert re.search(rf"^{name} +\d +\d +\d", printed, flags=re.MULTILINE), printed
    assert "out/digits/report/report.html" in printed
    assert "make ui" in printed


def test_the_tables_are_made_and_shown(workspace: tuple[Workspace, str]) -> None:
    finished, printed = workspace
    facts = json.loads((finished.path / "out/tables/latency.json").read_text())
    assert {"plain", "lowered"} <= {row["form"] for row in facts["rows"] if row["model"] == "condensenet-74-g8"}
    assert re.search(r"^condensenet-74-g8 +plain +[\d.]+ M +\d", printed, flags=re.MULTILINE), printed


def test_a_second_repro_does_nothing(finished: Workspace) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output = finished.dvc("repro")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "Data and pipelines are up to date." in output
    assert "Running stage" not in output
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < 10  # of processor time, as other work on the machine must not decide


def test_outputs_agree_with_each_other(finished: Workspace) -> None:
    out = finished.path / "out/digits"
    rows = {row["setting"]: row for row in csv.DictReader((out / "report/table.csv").read_text().splitlines())}
    assert tuple(rows) == SETTINGS
    for name, row in rows.items():
        evaluated = json.loads((out / "evaluate" / name / "metrics.json").read_text())
        exported = json.loads((out / "export" / name / "export.json").read_text())
        cost = json.loads((out / "convert" / name / "cost.json").read_text())
        timed = json.loads((out / "benchmark" / name / "latency.json").read_text())
        assert evaluated["images"] == 360
        assert float(row["test_error_pct"]) == pytest.approx(evaluated["onnxruntime"]["top1_error_pct"])
        assert int(row["macs"]) == cost["grouped"]["macs"]
        assert int(row["file_bytes"]) == (out / "export" / name / "model.onnx").stat().st_size
        assert cost["max_relative_difference"] <= 1e-5
        assert exported["images_compared"] == 360
        assert exported["plan"] == json.loads((out / "export" / name / "plan.json").read_text())["kind"] == "portable"
        kept = {form for form, facts in exported["forms"].items() if facts["kept"]}
        assert {"lowered", "plain"} <= kept == {row["form"] for row in timed["rows"]}
        assert all(row["ratio"] > 0 for row in timed["rows"])
        batch_1 = {row["form"]: row for row in timed["rows"] if (row["batch"], row["threads"]) == (1, 1)}
        assert float(row["latency_ms"]) == pytest.approx(batch_1["lowered"]["median_ms"])
        assert float(row["latency_ms_plain"]) == pytest.approx(batch_1["plain"]["median_ms"])


def test_metrics_and_plots_are_shown(finished: Workspace) -> None:
    shown = json.loads(finished.run("dvc", "metrics", "show", "--json").stdout)[""]["data"]
    assert {Path(path).stem for path in shown} == set(SETTINGS)
    for entry in shown.values():
        assert entry["data"].keys() == {"C", "G", "error_pct", "macs", "params", "ms", "ratio"}
    finished.dvc("plots", "show", "-o", "plots")
    page = (finished.path / "plots/index.html").read_text()
    for title in ("error by epoch", "loss by epoch", "error against MACs"):
        assert f'"title": "{title}"' in page
    assert "var spec = {};" not in page
    finished.run("rm", "-r", "plots")


def test_dvc_shows_the_figures_within_a_terminal(finished: Workspace) -> None:
    header, *rows = finished.run("dvc", "metrics", "show").stdout.splitlines()
    assert header.split() == ["Path", "C", "G", "error_pct", "macs", "ms", "params", "ratio"]
    assert len(rows) == len(SETTINGS)
    assert max(map(len, (header, *rows))) <= 120


def test_mlflow_holds_a_run_a_setting(finished: Workspace) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{finished.path}/mlflow.db")
    (experiment,) = [candidate for candidate in client.search_experiments() if candidate.name == "digits"]
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    whole = runs.pop("all settings")
    artifacts = {file.path for file in client.list_artifacts(whole.info.run_id)}
    assert {"table.csv", "report.html", "error-macs.png", "error-latency.png"} <= artifacts
    versions = client.search_model_versions("name = 'condensenet-digits'")
    assert {version.tags["setting"] for version in versions} == set(SETTINGS)
    assert set(runs) == set(SETTINGS)
    for name, run in runs.items():
        assert run.data.tags["mlflow.parentRunId"] == whole.info.run_id
        identity = json.loads((finished.path / "out/digits/train" / name / "run.json").read_text())
        assert run.info.run_id == identity["mlflow_run_id"]
        assert {"test/error_pct", "cost/macs", "latency/ms", "latency/ratio"} <= run.data.metrics.keys()
        assert {"latency/ms_plain", "latency/ratio_plain", "latency/ms_b16_t1"} <= run.data.metrics.keys()
        assert {"plain.onnx"} <= {Path(file.path).name for file in client.list_artifacts(run.info.run_id, "forms")}
        assert len(client.get_metric_history(run.info.run_id, "train/loss")) >= 2
        assert run.info.status == "FINISHED"


def test_mlflow_holds_a_run_of_the_tables(finished: Workspace) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{finished.path}/mlflow.db")
    (experiment,) = [candidate for candidate in client.search_experiments() if candidate.name == "tables"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["latency_ratio/mobilenet_v1/plain"] == 1
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"cost.csv", "latency.json", "tables.md"}


def test_a_change_of_one_settings_c_runs_that_setting_and_the_report(finished: Workspace) -> None:
    finished.edit("condensation_factor: 2", "condensation_factor: 1")  # the first setting, g2-c2
    status = json.loads(finished.run("dvc", "status", "--json").stdout)
    assert set(status) == {"train@g2-c2", "report"}  # what follows from them is known when they have run
    ran = set(re.findall(r"Running stage '([^']+)'", finished.dvc("repro")))
    assert ran == {*(f"{stage}@g2-c2" for stage in PER_SETTING), "report"}
    changed = json.loads(finished.run("dvc", "metrics", "diff", "--json").stdout)
    assert changed["out/digits/report/metrics/g2-c2.json"]["macs"]["diff"] > 0
    assert "macs" not in changed.get("out/digits/report/metrics/g4-c2.json", {})
