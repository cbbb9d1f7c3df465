"""dvc.yaml: it agrees with paths.py, a change of parameters reruns the right stages, other studies compose."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from workspaces import Workspace, copy_checkout

from flows import study as studies
from flows.graph import read_graph
from tasks import params, paths

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pipeline(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy of the checkout in which nothing has been run."""
    return copy_checkout(checkout, tmp_path_factory.mktemp("pipeline") / "checkout")


def outputs(stage: str, setting: str | None) -> set[str]:
    """What ``paths`` says that a stage writes."""
    study = paths.StudyPaths("digits")
    of_no_setting = {
        "prepare": study.data,
        "yardstick": study.yardstick,
        "report": study.report,
        "tables": paths.TABLES,
    }
    folder = of_no_setting.get(stage)
    if folder is None:
        assert setting is not None
        folder = study.setting(stage, setting)
    names = {
        "prepare": [""],
        "yardstick": [paths.ONNX, paths.COST],
        "train": [paths.MODEL, paths.RUN, paths.HISTORY, paths.METRICS],
        "convert": [paths.MODEL, paths.KEPT, paths.COST],
        "export": [paths.ONNX, paths.PLAN, paths.FORMS, paths.EXPORT],
        "evaluate": [paths.METRICS, paths.PER_CLASS, paths.CONFUSION],
        "benchmark": [paths.LATENCY],
        "tables": [paths.COST_TABLE, paths.LATENCY, paths.TABLES_MD],
        "report": [paths.REPORT_HTML, paths.REPORT_MD, paths.TABLE, paths.CURVES, paths.ROWS],
    }
    return {str(folder / name) for name in names[stage]}


def test_outputs_are_those_of_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    from dvc.repo import Repo

    monkeypatch.chdir(CHECKOUT)
    with Repo(".") as repo:
        outputs_in_dvc = {stage.addressing: {str(out) for out in stage.outs} for stage in repo.index.stages}
    for address, files in outputs_in_dvc.items():
        stage, _, setting = address.partition("@")
        assert files == outputs(stage, setting or None), address


def test_every_dependency_on_code_is_there(pipeline: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    from dvc.repo import Repo

    monkeypatch.chdir(CHECKOUT)
    with Repo(".") as repo:
        named = {str(dep) for stage in repo.index.stages for dep in stage.deps}
    code = {name for name in named if name.startswith(("tasks/", "condensenet/", "conf/"))}
    assert len(code) > 20
    assert not [name for name in code if not (pipeline.path / name).exists()]


def test_stages_follow_one_another_from_prepare_to_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CHECKOUT)
    graph = read_graph()
    edges = {(above.partition("@")[0], below.partition("@")[0]) for below, ups in graph.items() for above in ups}
    assert set(pairwise(["prepare", "train", "convert", "export", "evaluate", "report"])) <= edges
    assert set(pairwise(["prepare", "yardstick", "benchmark", "report"])) <= edges
    assert ("export", "benchmark") in edges


def test_every_stage_depends_on_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    from dvc.repo import Repo

    monkeypatch.chdir(CHECKOUT)
    with Repo(".") as repo:
        stages = {stage.addressing: {str(dep) for dep in stage.deps} for stage in repo.index.stages}
    for address, deps in stages.items():
        verb = address.partition("@")[0]
        assert deps & {f"tasks/{verb}.py", f"tasks/{verb}"}, address


def test_every_study_makes_a_graph_of_its_settings(pipeline: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pipeline.path)
    before = (pipeline.path / "params.yaml").read_text()
    try:
        for file in sorted(Path("conf/study").glob("*.yaml")):
            study = file.stem
            with studies.params_in_use(studies.compose_params(study, None), composed=True):
                settings = params.load().settings
                graph = read_graph()
            assert len(graph) == 4 + 5 * len(settings), study
            assert {f"train@{name}" for name in settings} <= graph.keys()
    finally:
        (pipeline.path / "params.yaml").write_text(before)


def test_params_yaml_is_the_composed_digits_study(pipeline: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pipeline.path)
    from ruamel.yaml import YAML

    composed = YAML(typ="safe", pure=True).load(studies.compose_params("digits", None))
    assert composed == pipeline.read("params.yaml")


def test_params_diff_names_the_change(pipeline: Workspace) -> None:
    pipeline.edit("condensation_factor: 2", "condensation_factor: 4")
    try:
        lines = [line for line in pipeline.dvc("params", "diff").splitlines() if "condensation_factor" in line]
    finally:
        pipeline.run("git", "checkout", "params.yaml")
    assert len(lines) == 1
    assert re.search(r"settings\.g2-c2\.condensation_factor\s+2\s+4", lines[0])


def test_exp_run_switches_the_study(stub: Workspace) -> None:
    stub.dvc("exp", "run", "-S", "study=cifar100")
    assert (stub.path / "out/cifar100/report/report.md").is_file()
    changed = stub.read("params.yaml")
    assert isinstance(changed, dict)
    assert changed["study"] == "cifar100"
    trained = {folder.name for folder in (stub.path / "out/cifar100/train").iterdir() if folder.is_dir()}
    assert trained == set(changed["settings"])


def test_a_temporary_experiment_shares_the_state_of_its_checkout(stub: Workspace) -> None:
    stub.edit("mkdir -p out/${study} &&", "python -m where && mkdir -p out/${study} &&", "dvc.yaml")
    (stub.path / "where.py").write_text(
        "from tasks import paths\npaths.state().mkdir(exist_ok=True)\n(paths.state() / 'here').touch()\n"
    )
    stub.commit()
    stub.dvc("exp", "run", "--temp", "-S", "train.epochs=2")
    assert (stub.path / "state/here").exists()
    assert not (stub.path / "out").exists()
