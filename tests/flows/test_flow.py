"""The flow ``reproduce`` on a stub of the pipeline: the graph, failures, locks, signals, parameters."""

from __future__ import annotations

import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Event, Thread

import psutil
import pytest
from prefect.context import refresh_global_settings_context
from prefect.settings import get_current_settings
from processes import command_line
from workspaces import Workspace, ask, serve_prefect, wait_until

from flows import study as studies
from flows.artifacts import artifact_key, legible
from flows.concurrency import POLL_S, StageSlots, own_ray, trainings_at_once
from flows.graph import keep_settings, read_graph, without
from flows.reproduce import dvc_commands
from flows.server import ensure_server
from flows.stage_process import StageFailed, StageRunner, Stopped
from tasks import params
from tasks.errors import UserError

STAGES = [f"train@{letter}" for letter in "abcdef"]
FLOW = (sys.executable, "-m", "flows.reproduce")
GRAPH = {
    "prepare": frozenset(),
    "train@g2-c2": frozenset({"prepare"}),
    "train@g4-c2": frozenset({"prepare"}),
    "report": frozenset({"train@g2-c2", "train@g4-c2"}),
}


@pytest.fixture
def inside(stub: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A stub workspace as the working folder of this process."""
    monkeypatch.chdir(stub.path)
    return stub


def events(workspace: Workspace) -> list[str]:
    file = workspace.path / "state" / "events"
    return file.read_text().splitlines() if file.exists() else []


def test_the_graph_is_dvcs_own_upstream_first(inside: Workspace) -> None:
    graph = read_graph()
    assert graph == GRAPH
    assert next(iter(graph)) == "prepare"
    assert list(graph)[-1] == "report"


def test_the_real_graph_ends_in_the_report(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout)
    graph = read_graph()
    assert graph["train@g4-c2"] == {"prepare"}
    assert graph["benchmark@g4-c2"] == {"export@g4-c2", "train@g4-c2", "yardstick"}
    assert list(graph)[-1] == "report"
    assert graph["tables"] == frozenset()
    assert len(graph) == 4 + 5 * len(params.load().settings)


def test_a_setting_alone_leaves_out_what_needs_the_others() -> None:
    graph = {**GRAPH, "tables": frozenset()}
    kept = keep_settings(graph, ["g2-c2", "g4-c2"], ["g4-c2"])
    assert list(kept) == ["prepare", "train@g4-c2"]
    assert keep_settings(graph, ["g2-c2", "g4-c2"], ["g2-c2", "g4-c2"]) == graph


def test_stages_are_left_out_by_their_verbs() -> None:
    graph = {**GRAPH, "tables": frozenset(), "benchmark@g4-c2": frozenset({"train@g4-c2"})}
    assert without(graph, "tables", "benchmark") == GRAPH


def test_a_broken_dvc_yaml_is_one_line(inside: Workspace) -> None:
    inside.edit("foreach: ${settings}", "foreach: ${nothing}", "dvc.yaml")
    with pytest.raises(UserError, match="nothing") as error:
        read_graph()
    assert "\n" not in str(error.value)


def test_the_flow_does_what_dvc_repro_does(served_stub: Workspace, stub_origin: Workspace, tmp_path: Path) -> None:
    done = served_stub.flow()
    assert "train@g4-c2 ran" in done.stdout
    assert "g2-c2" in done.stdout.rpartition("setting")[2]  # the table
    assert "make ui" in done.stdout
    assert "didn't change" not in done.stdout
    assert "dvc plots show\n" in done.stdout
    by_flow = served_stub.read("dvc.lock")
    assert "up to date" in served_stub.dvc("repro")
    (served_stub.path / "dvc.lock").unlink()
    served_stub.run("rm", "-r", "out", ".dvc/cache")
    served_stub.dvc("repro")
    assert served_stub.read("dvc.lock") == by_flow


def test_a_difference_of_parameters_is_pointed_to_only_if_there_is_one(inside: Workspace) -> None:
    assert "dvc params diff" not in dvc_commands()
    inside.edit("batch_size: 64", "batch_size: 32")
    assert "dvc params diff" in dvc_commands()


def test_a_failed_stage_stops_its_dependants_alone_and_is_named(served_stub: Workspace) -> None:
    (served_stub.path / "fail").write_text("g2-c2\n")
    done = served_stub.flow(check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == "error: train@g2-c2: error, g2-c2 was told to fail"
    assert "Traceback" not in done.stdout + done.stderr
    assert "end g4-c2" in events(served_stub)
    assert not (served_stub.path / "out/digits/report").exists()
    assert "told to fail" in (served_stub.path / "state/logs/train@g2-c2.log").read_text()
    (served_stub.path / "fail").unlink()
    alone = served_stub.flow("--setting", "g4-c2").stdout
    assert "train@g4-c2 unchanged" in alone
    assert "g2-c2" not in alone
    assert "the report needs all settings" in alone
    assert not (served_stub.path / "out/digits/report").exists()


def test_two_flows_at_once_run_each_stage_once(stub: Workspace, tmp_path: Path) -> None:
    """Both start a temporary Prefect server on one new database."""
    (stub.path / "slow").write_text("2\n")
    together = [stub.with_variables(PREFECT_HOME=str(tmp_path / "prefect")).start(*FLOW) for _ in range(2)]
    outputs = [flow.communicate(timeout=200) for flow in together]
    assert [flow.returncode for flow in together] == [0, 0], outputs
    assert sorted(events(stub)) == ["begin g2-c2", "begin g4-c2", "end g2-c2", "end g4-c2"]
    assert "up to date" in stub.dvc("repro")


def test_the_server_of_the_command_keeps_its_history_and_ends_with_it(stub: Workspace, tmp_path: Path) -> None:
    home = tmp_path / "prefect"
    with_own_server = stub.with_variables(PREFECT_HOME=str(home))
    with_own_server.flow()
    assert not servers(with_own_server)
    with serve_prefect(home) as variables:
        later = stub.with_variables(**variables)
        (run,) = ask(later, "flow_runs")
        assert run["state_type"] == "COMPLETED"
        assert "condensenet" in run["tags"]
        tasks = ask(later, "task_runs")
        assert [task["state_type"] for task in tasks] == ["COMPLETED"] * len(GRAPH)
        assert {task["name"]: sorted(set(task["tags"]) - {"condensenet"}) for task in tasks} == {
            "prepare": ["digits"],
            "train@g2-c2": ["digits", "g2-c2"],
            "train@g4-c2": ["digits", "g4-c2"],
            "report": ["digits"],
        }
        lines = {str(line["message"]) for line in ask(later, "logs", limit=200)}
        assert {"g2-c2 epoch 1 of 1", "g4-c2 epoch 1 of 1"} <= lines
        assert any("Finished in state Completed" in line for line in lines)  # the last line of the flow
        assert {"reproduce-digits-table", "reproduce-digits-report"} <= {row["key"] for row in ask(later, "artifacts")}


def test_every_thread_of_the_command_logs_to_its_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The uploader's messages come from a thread of its own; Prefect would start a second server for them."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_URL", "")
    refresh_global_settings_context()
    monkeypatch.setattr("flows.server._start", lambda home: f"http://127.0.0.1:9/{home.name}")
    addresses: list[str | None] = []
    try:
        ensure_server()
        thread = Thread(target=lambda: addresses.append(get_current_settings().api.url), daemon=True)
        thread.start()
        thread.join(10)
    finally:
        monkeypatch.undo()
        refresh_global_settings_context()
    assert addresses == [f"http://127.0.0.1:9/{tmp_path.name}"]


def test_a_killed_command_leaves_no_server_behind(stub: Workspace, tmp_path: Path) -> None:
    (stub.path / "slow").write_text("60\n")
    with_own_server = stub.with_variables(PREFECT_HOME=str(tmp_path / "prefect"))
    flow = with_own_server.start(*FLOW)
    wait_until(lambda: any(line.startswith("begin") for line in events(stub)), 200)
    assert servers(with_own_server)
    flow.kill()
    flow.communicate(timeout=90)
    wait_until(lambda: not servers(with_own_server), 40)


def servers(workspace: Workspace) -> list[psutil.Process]:
    """The Prefect servers started in the workspace's folder, by whomever."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "cwd"])
        if process.info["cwd"] == str(workspace.path) and {"prefect", "uvicorn"} & set(process.info["cmdline"] or ())
    ]


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_stopped_flow_leaves_no_process_behind(served_stub: Workspace, sign: signal.Signals) -> None:
    (served_stub.path / "slow").write_text("60\n")
    flow = served_stub.start(*FLOW)
    wait_until(lambda: "begin g4-c2" in events(served_stub) or "begin g2-c2" in events(served_stub), 90)
    started = psutil.Process(flow.pid).children(recursive=True)
    assert any("repro" in command_line(process) for process in started)
    flow.send_signal(sign)
    time.sleep(1)
    flow.send_signal(sign)  # as `timeout` and impatient people do
    output = "\n".join(flow.communicate(timeout=90))
    assert flow.returncode != 0
    wait_until(lambda: not any(process.is_running() for process in started), 30 if sign is signal.SIGKILL else 1)
    if sign is signal.SIGINT:
        assert "interrupted: the same command continues from here" in output
    assert not [line for line in events(served_stub) if line.startswith("end")]


def test_a_stage_waits_for_a_running_dvc_repro(inside: Workspace) -> None:
    (inside.path / "slow").write_text("4\n")
    inside.dvc("repro", "prepare")
    by_hand = inside.start(sys.executable, "-m", "dvc", "repro", "train@g4-c2")
    wait_until(lambda: "begin g4-c2" in events(inside), 60)
    lines: list[str] = []
    outcome = StageRunner().run("train@g4-c2", lines.append)
    assert by_hand.wait(60) == 0
    assert outcome.status == "unchanged"
    assert any("another dvc command is working" in line for line in lines)
    assert events(inside).count("begin g4-c2") == 1


def test_a_stage_that_dvc_does_not_know_is_one_line(inside: Workspace) -> None:
    with pytest.raises(StageFailed) as error:
        StageRunner().run("train@g9-c9", lambda line: None)
    assert "g9-c9" in str(error.value)
    assert "\n" not in str(error.value)


def test_overrides_go_on_top_of_edits(inside: Workspace) -> None:
    inside.edit("batch_size: 64", "batch_size: 32")
    text = studies.compose_params(None, {"train.epochs": 7, "settings.g4-c2.condensation_factor": 4})
    with studies.params_in_use(text, composed=False) as changed:
        assert sorted(changed) == ["settings.g4-c2.condensation_factor", "train.epochs"]
    loaded = params.load()
    assert loaded.settings["g4-c2"].train.epochs == 7
    assert loaded.settings["g4-c2"].train.batch_size == 32
    assert loaded.settings["g4-c2"].model.condensation_factor == 4
    kept = list((inside.path / "state/params").glob("params-*.yaml"))
    assert len(kept) == 1
    assert "batch_size: 32" in kept[0].read_text()
    assert "epochs: 7" not in kept[0].read_text()


def test_a_study_does_not_replace_uncommitted_edits(inside: Workspace) -> None:
    inside.edit("batch_size: 64", "batch_size: 32")
    edited = (inside.path / "params.yaml").read_text()
    text = studies.compose_params("cifar10", None)
    with pytest.raises(UserError, match="uncommitted edits"), studies.params_in_use(text, composed=True):
        pass
    assert (inside.path / "params.yaml").read_text() == edited


def test_a_study_replaces_what_a_study_wrote(inside: Workspace) -> None:
    for name in ("cifar10", "cifar100", "digits"):
        with studies.params_in_use(studies.compose_params(name, None), composed=True) as changed:
            assert "study" in changed
        assert params.load().study == name


def test_a_setting_that_the_study_lacks_is_an_error_before_params_yaml_changes(inside: Workspace) -> None:
    with pytest.raises(UserError, match=r"setting 'g4-c2' is not in params.yaml: condensenet-50, "):
        studies.compose_params("cifar10", None, ["g4-c2"])
    assert "g4-c2" in params.load().settings
    with pytest.raises(UserError, match=r"setting 'g4-c3' is not in params.yaml"):
        studies.compose_params(None, None, ["g4-c2", "g4-c3"])


def test_parameters_do_not_change_under_a_running_flow(inside: Workspace) -> None:
    with (
        studies.params_in_use(studies.compose_params(None, None), composed=False) as changed,
        pytest.raises(UserError, match="another flow is running"),
        studies.params_in_use(studies.compose_params(None, ["train.epochs=3"]), composed=False),
    ):
        pass
    assert changed == []
    assert "epochs: 3\n" not in (inside.path / "params.yaml").read_text()


def test_flows_that_begin_together_with_the_same_parameters_all_run(inside: Workspace) -> None:
    text = studies.compose_params("cifar10", None)
    together = Barrier(4)

    def begin(_: int) -> str:
        together.wait(timeout=10)
        with studies.params_in_use(text, composed=True):
            together.wait(timeout=10)
            return params.load().study

    with ThreadPoolExecutor(4) as flows:
        assert list(flows.map(begin, range(4))) == ["cifar10"] * 4


def test_parameters_that_a_killed_flow_was_replacing_are_nobodys_edits(inside: Workspace) -> None:
    for study in ("cifar10", "digits"):
        with studies.params_in_use(studies.compose_params(study, None), composed=True):
            pass
    before = (inside.path / "state/params/composed-before.yaml").read_text()
    assert "study: cifar10" in before
    (inside.path / "params.yaml").write_text(before)  # as if the other had not yet taken its place
    with studies.params_in_use(studies.compose_params("cifar100", None), composed=True):
        assert params.load().study == "cifar100"


NESTED: list[object] = []
for _ in range(2_000):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    ("study", "overrides", "message"),
    [
        ("mnist", None, "study='mnist' is not allowed: .*cifar10"),
        (None, ["train.epochs"], "key=value"),
        (None, ["train.epochs=many"], "train.epochs='many' is not allowed"),
        (None, {"settings.g4-c2.condensation_factor": 3}, "condensation_factor=3 does not divide"),
        ("digits", ["train.epoch=3"], "train.epoch"),
        (None, ["train.epochs=range(1,1000000000)"], "train.epochs=range"),
        (
            None,
            ["train.epochs=${train.batch_size}"],
            r"'train.epochs=\${train.batch_size}' is not allowed: \${...} is not",
        ),
        ("digits", {"data.path": "${oc.env:HOME}"}, r"path=\"\${oc.env:HOME}\"' is not allowed: \${...} is not"),
        (
            "digits",
            ["+a=1", *(f"+{x}=[{y},{y}]" for x, y in (("b", "${a}"), ("c", "${b}")))],
            r"'\+b=\[\${a},.* is not",
        ),
        (None, ["train.epochs=[" + "1," * 5000 + "1]"], "overrides of more than 8192 characters are not allowed"),
        (None, {"train.epochs": NESTED}, "overrides are nested too deeply"),
        (None, ["train.epochs=" + "[" * 500 + "]" * 500], "overrides .*RecursionError|overrides .*recursion"),
        (None, ["train.epochs=" + "9" * 5000], r"overrides .*\.\.\.: .*digits"),
        ("digits", ["train.epochs=" + "9" * 5000], r"overrides .*\.\.\.: .*digits"),
    ],
)
def test_wrong_parameters_are_refused_in_one_line(
    inside: Workspace, study: str | None, overrides: studies.Overrides, message: str
) -> None:
    before = (inside.path / "params.yaml").read_text()
    with pytest.raises(UserError, match=message) as error:
        studies.compose_params(study, overrides)
    assert "\n" not in str(error.value)
    assert (inside.path / "params.yaml").read_text() == before


BROKEN = {  # whose parsing by DVC alone would take minutes and gigabytes, or end with a traceback
    "more than 10000 values": "a0: &a0 [1]\n"
    + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)),
    "nested too deeply": "z: " + "[" * 3000 + "]" * 3000,
    "digits": "z: " + "9" * 5000,
    "int": "z: !!int foo",
    "utf-8": "# caf\xe9",
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_file_is_refused_before_dvc_reads_it_and_is_no_study_to_replace(
    inside: Workspace, message: str
) -> None:
    text = studies.compose_params("cifar10", None)
    (inside.path / "params.yaml").write_bytes(BROKEN[message].encode("latin-1"))
    with pytest.raises(UserError, match=f"params.yaml: .*{message}") as error:
        studies.compose_params(None, ["train.epochs=7"])
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="uncommitted edits"), studies.params_in_use(text, composed=True):
        pass


def test_trainings_share_the_machine(inside: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = params.load()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("flows.concurrency.usable_cores", lambda: 8)
    assert trainings_at_once(loaded) == 4
    monkeypatch.setattr("flows.concurrency.usable_cores", lambda: 1)
    assert trainings_at_once(loaded) == 1
    on_gpus = replace(loaded, ray=replace(loaded.ray, use_gpu=True, num_workers=2))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,6,7")
    assert trainings_at_once(on_gpus) == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert trainings_at_once(on_gpus) == 1
    monkeypatch.setenv("CONDENSENET_TRAININGS", "3")
    assert trainings_at_once(loaded) == 3
    monkeypatch.setenv("CONDENSENET_TRAININGS", "none")
    for wrong in ("none", "0", "9" * 5000):
        monkeypatch.setenv("CONDENSENET_TRAININGS", wrong)
        with pytest.raises(UserError, match=f"CONDENSENET_TRAININGS='{wrong[:9]}.* is not allowed: it must be 1 to"):
            trainings_at_once(loaded)


def test_the_trainings_of_a_flow_share_one_ray_that_they_start(
    inside: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = params.load()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with own_ray(loaded) as ray:
        assert ray is not None
        assert ray.variables["CONDENSENET_RAY"] == str(ray.folder)
        runner, printed = StageRunner({"GREETING": "hello"}, ray.lifeline), list[str]()
        inside.edit("echo ${data.source}", "echo $GREETING; echo ${data.source}", "dvc.yaml")
        runner.run("prepare", printed.append)
    assert "hello" in (inside.path / "out/digits/data").read_text() + "".join(printed)
    assert not ray.folder.exists()
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with own_ray(loaded) as ray:
        assert ray is None


def test_waiting_stages_run_one_at_a_time_in_the_order_of_the_graph() -> None:
    slots, runner, started, release = StageSlots(1, 1, (*STAGES, "report")), StageRunner(), list[str](), Event()

    def work(name: str) -> None:
        with slots.acquire(name, runner):
            started.append(name)
            release.wait(10)

    threads = [Thread(target=work, args=(name,)) for name in ("train@f", "train@c", "train@a", "train@b")]
    threads[0].start()
    wait_until(lambda: started == ["train@f"], 10)
    for thread in threads[1:]:
        thread.start()
    wait_until(lambda: set(slots.waiting) == {"train@a", "train@b", "train@c"}, 10)
    with slots.acquire("report", runner):  # other stages do not wait for trainings
        time.sleep(3 * POLL_S)
        assert started == ["train@f"]
    release.set()
    for thread in threads:
        thread.join(10)
    assert started == ["train@f", "train@a", "train@b", "train@c"]


def test_a_stage_stops_waiting_for_a_slot_when_the_flow_is_stopped() -> None:
    slots, runner, stopped = StageSlots(1, 1, STAGES), StageRunner(), Event()

    def wait_for_a_slot() -> None:
        with pytest.raises(Stopped), slots.acquire("train@b", runner):
            pass
        stopped.set()

    with slots.acquire("train@a", runner):
        waiting = Thread(target=wait_for_a_slot)
        waiting.start()
        assert not stopped.wait(3 * POLL_S)
        runner.stop()
        assert stopped.wait(10)
    waiting.join(10)


def test_artifact_keys_are_what_prefect_allows() -> None:
    assert artifact_key("My_Study", "table") == "reproduce-my-study-table"


def test_a_table_in_prefect_shows_four_digits_of_fractions_and_all_of_counts() -> None:
    row = {"setting": "g4-c4", "macs": 477440, "test_error_pct": 0.8333333333333334, "latency_ms": None}
    assert legible(row) == row | {"test_error_pct": 0.8333}


def test_the_command_needs_no_server_to_refuse(stub: Workspace) -> None:
    done = stub.flow("--set", "train.epochs=0", check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: params.yaml: train: epochs=0 is not allowed")


def test_help_names_the_arguments(stub: Workspace) -> None:
    text = stub.run(*FLOW, "--help").stdout
    for argument in ("--study", "--setting", "--set"):
        assert argument in text
