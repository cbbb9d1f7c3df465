"""The whole pipeline where nothing is as usual: no network, the locale C, odd letters in the path, secrets around."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import alone
import pytest
from ruamel.yaml import YAML
from workspaces import Workspace, copy_checkout

SETTING = "g2-c2"
MARK = "m4rk3d"  # in every secret
SECRETS = {
    "AWS_ACCESS_KEY_ID": f"{MARK}-id",
    "AWS_SECRET_ACCESS_KEY": f"{MARK}-aws",
    "MLFLOW_TRACKING_PASSWORD": f"{MARK}-mlflow",
    "PREFECT_API_KEY": f"{MARK}-prefect",
}
QUIET = ("DO_NOT_TRACK", "MLFLOW_DISABLE_", "ORT_DISABLE_", "PREFECT_SERVER_ANALYTICS", "RAY_USAGE_STATS", "CI")


@dataclass(frozen=True)
class Finished:
    """What the flow left, and what it and a stage after it printed."""

    workspace: Workspace
    folder: Path  # the workspace's, with all else that was written
    temporary: Path  # where TMPDIR was, with what was removed from it meanwhile
    packets: list[str]
    printed: str


@pytest.fixture(scope="module")
def temporary() -> Iterator[Path]:
    """Short, so that Ray's folder can be in it."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def finished(checkout: Path, tmp_path_factory: pytest.TempPathFactory, temporary: Path) -> Finished:
    if reason := alone.why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("alone")
    surroundings = {"LC_ALL": "C", "PYTHONUTF8": "0", "HOME": str(folder / "home"), "TMPDIR": str(temporary / "t")}
    for name in ("HOME", "TMPDIR"):
        Path(surroundings[name]).mkdir()
    workspace = copy_checkout(checkout, folder / "ein Ordner für 北京")
    params = workspace.read("params.yaml")
    assert isinstance(params, dict)
    params["train"]["epochs"] = params["ray"]["num_workers"] = 1
    params["settings"] = {SETTING: params["settings"][SETTING]}
    YAML().dump(params, workspace.path / "params.yaml")
    workspace.commit("Take one setting")
    with kept(temporary / "t", temporary / "kept"):
        printed = run(workspace, folder / "packets", {**surroundings, **SECRETS}, "flows.reproduce")
        unreachable = {**surroundings, **SECRETS, **turkish(folder)}
        printed += run(workspace, folder / "more-packets", unreachable, "tasks.evaluate", SETTING)
    packets = [line for name in ("packets", "more-packets") for line in (folder / name).read_text().splitlines()]
    return Finished(workspace, folder, temporary, packets, printed)


@contextmanager
def kept(source: Path, links: Path) -> Iterator[None]:
    """Meanwhile every file that lives for a moment in ``source``, as Ray's logs do, gets a link in ``links``."""
    ended = threading.Event()
    links.mkdir()

    def keep() -> None:
        while not ended.wait(0.1):
            with suppress(OSError):  # a folder was removed just now
                for path in source.rglob("*"):
                    if path.is_file() and not path.is_symlink():
                        with suppress(OSError):  # it has been removed, or has its link
                            os.link(path, links / f"{path.stat().st_ino}-{path.name}")

    keeper = threading.Thread(target=keep)
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join()


def run(workspace: Workspace, packets: Path, variables: dict[str, str], *module: str) -> str:
    """As a stranger would, without the variables that `make` sets; returns all that was printed."""
    inherited = {name: value for name, value in workspace.environment.items() if not name.startswith(QUIET)}
    command = [*alone.inside(packets), sys.executable, "-m", *module]
    done = subprocess.run(
        command,
        cwd=workspace.path,
        env={**inherited, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=900,
        check=False,
    )
    printed = done.stdout.decode()
    assert done.returncode == 0, printed
    return printed


def turkish(folder: Path) -> dict[str, str]:
    """Where letters are made small and capital by other rules, in C libraries if not in Python; MLflow out of reach."""
    away = {"MLFLOW_TRACKING_URI": f"http://{MARK}-user:{MARK}-password@127.0.0.1:9"}
    made = subprocess.run(["localedef", "-i", "tr_TR", "-f", "UTF-8", folder / "tr_TR.utf8"], check=False)
    return {**away, "LOCPATH": str(folder), "LC_ALL": "tr_TR.UTF-8"} if made.returncode == 0 else away


def test_it_ends_with_the_table_and_the_runs(finished: Finished) -> None:
    from mlflow import MlflowClient

    out = finished.workspace.path / "out/digits"
    assert (out / "report/report.html").is_file()
    assert f"\n{SETTING} " in finished.printed
    client = MlflowClient(f"sqlite:///{finished.workspace.path}/mlflow.db")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert {run.info.run_name: run.info.status for run in runs} == dict.fromkeys((SETTING, "all settings"), "FINISHED")
    assert "127.0.0.1:9 is unavailable" in finished.printed
    assert len(list((finished.workspace.path / "state/tracking").glob("*-evaluate-*"))) == 1


def test_no_packet_is_sent_beyond_the_loopback(finished: Finished) -> None:
    probes = [f"{host} {port}" for host, port in (alone.PROBE, alone.RESOLVER)]
    sent = [" ".join(packet.split()[:2]) for packet in finished.packets]
    assert not (finished.folder / "home/.cache/Microsoft").exists()  # what ONNX Runtime would send later
    if probes[1] not in sent:
        assert sent == 2 * probes[:1]
        pytest.skip("names are looked up by another process here; to addresses nothing was sent")
    assert sent == 2 * probes


def test_no_secret_is_written_or_printed(finished: Finished) -> None:
    places = (finished.folder, finished.temporary)
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    assert any(path.name.endswith("-raylet.out") for path in files)  # Ray's logs are among them
    holding = {word: [path.name for path in files if word.encode() in path.read_bytes()] for word in (MARK, SETTING)}
    assert {"mlflow.db", "prefect.db", "dvc.lock", "report.html", "run.json"} <= set(holding[SETTING])
    assert holding[MARK] == ["test_alone.py"]
    assert MARK not in finished.printed
