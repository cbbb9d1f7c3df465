"""The commands on model files: predict, cost, convert, export, bench, doctor."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer

from condensenet import (
    ModelConfig,
    OnnxModel,
    Preprocessing,
    convert,
    count_cost,
    create_model,
    load,
    operator_library,
    save_authors_checkpoint,
    save_model,
)
from tasks.errors import UserError

CONFIG = ModelConfig(block_depths=(1, 1, 1), growth_rates=(8, 8, 8), num_classes=3, condensation_factor=2)
PREPROCESSING = Preprocessing(
    image_size=16,
    resize_shorter=18,
    channels=3,
    mean=(0.5,) * 3,
    std=(0.25,) * 3,
    classes=("blue", "green", "red"),
)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A condensed network in training form."""
    torch.manual_seed(0)
    model = create_model("condensenet-50", **dataclasses.asdict(CONFIG))
    model.condense_to(model.num_condensing_stages)
    model.preprocessing = PREPROCESSING
    path = tmp_path_factory.mktemp("model") / "model.pt"
    save_model(model.eval(), path)
    return path


def test_cost_of_a_name_is_the_papers(command, capsys):
    command("cost", "condensenet-86", "--json")
    facts = json.loads(capsys.readouterr().out)
    assert facts["paper_flops"] == 65_816_394
    assert facts["input_size"] == [32, 32]
    command("cost", "condensenet-74-g8")
    assert "224x224 pixels, G=8, C=8" in capsys.readouterr().out
    command("cost", "condensenet-86", "--condensation", "8", "--json")
    assert json.loads(capsys.readouterr().out)["macs"] < facts["macs"]


@pytest.mark.parametrize("arguments", [["cost", "a"], ["export", "a", "b"], ["bench", "a"], ["train", "a"]])
def test_a_size_beyond_all_images_is_refused_by_every_command(command, arguments):
    with pytest.raises(typer.BadParameter, match="4096"):
        command(*arguments, "--size", 100_000)


def test_cost_of_a_file_is_at_its_own_size(command, capsys, model_file):
    command("cost", model_file, "--json")
    expected = count_cost(load(model_file), 16)
    facts = json.loads(capsys.readouterr().out)
    assert (facts["macs"], facts["params"]) == (expected.macs, expected.params)
    with pytest.raises(UserError, match="--groups and --condensation go with a network's name"):
        command("cost", model_file, "--groups", "2")


def test_predict_prints_a_line_an_image(command, capsys, model_file, photos):
    pictures = sorted(photos.glob("*/0.jpg"))
    command("predict", model_file, *pictures, "--top", "2")
    lines = capsys.readouterr().out.splitlines()
    assert [Path(line.split()[0]) for line in lines] == pictures
    assert all(line.count("%") == 2 for line in lines)
    command("predict", model_file, *pictures, "--json")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {each["name"] for each in rows[0]["predictions"]} == set(PREPROCESSING.classes)
    assert sum(each["probability"] for each in rows[0]["predictions"]) == pytest.approx(1, abs=1e-5)


def test_predict_escapes_names_from_files(command, capsys, tmp_path, model_file, photos):
    model = load(model_file)
    model.preprocessing = dataclasses.replace(PREPROCESSING, classes=("blue", "gr\x1b[2Jeen", "r\u202eed"))
    save_model(model, tmp_path / "model.pt")
    picture = (photos / "red/0.jpg").rename(tmp_path / "a\nb.jpg")
    command("predict", tmp_path / "model.pt", picture)
    output = capsys.readouterr().out
    assert output.count("\n") == 1
    assert output.removesuffix("\n").isprintable()
    assert "a\\nb.jpg" in output
    assert "gr\\x1b[2Jeen" in output


def test_predict_names_what_is_missing(command, tmp_path, model_file, photos, monkeypatch):
    with pytest.raises(UserError, match=r"none.jpg does not exist"):
        command("predict", model_file, tmp_path / "none.jpg")
    with pytest.raises(UserError, match="is a folder: name the files in it"):
        command("predict", model_file, photos)
    bare = load(model_file)
    bare.preprocessing = None
    save_model(bare, tmp_path / "bare.pt")
    with pytest.raises(UserError, match="does not say how images are prepared") as error:
        command("predict", tmp_path / "bare.pt", photos / "red/0.jpg")
    assert "\n" not in str(error.value)
    monkeypatch.chdir(tmp_path)
    advice = str(error.value).partition("for ImageNet's images: ")[2]
    exec(advice.replace("[...]", str([*"abcdefghij"][: bare.num_classes])), {})
    command("predict", "named.pt", photos / "red/0.jpg")


def test_convert_goes_to_the_authors_format_and_back(command, capsys, tmp_path, model_file):
    command("convert", model_file, tmp_path / "theirs.pth.tar", "--to", "authors")
    with pytest.raises(UserError, match="add --stem"):
        command("convert", tmp_path / "theirs.pth.tar", tmp_path / "back.pt")
    asked = ("--stem", "cifar", "--groups", "4", "--condensation", "2")
    command("convert", tmp_path / "theirs.pth.tar", tmp_path / "back.pt", *asked)
    command("convert", tmp_path / "back.pt", tmp_path / "grouped.pt", "--to", "grouped")
    assert "grouped form, G=4, C=2, 3 classes" in capsys.readouterr().out
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path / "grouped.pt")(x), convert(load(model_file))(x))
    with pytest.raises(UserError, match=r"back.pt exists"):
        command("convert", model_file, tmp_path / "back.pt")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["lowered", "plain", "native"])
def test_export_writes_what_predict_and_cost_read(command, capsys, tmp_path, model_file, photos, form):
    if form == "native" and operator_library() is None:
        pytest.skip("the native operator is not compiled here")
    out = tmp_path / "model.onnx"
    command("export", model_file, out, "--form", form)
    assert "8 random images" in capsys.readouterr().out
    exported = load(out)
    assert isinstance(exported, OnnxModel)
    assert (exported.form, exported.preprocessing) == (form, PREPROCESSING)
    for source in (model_file, out):
        command("predict", source, photos / "red/0.jpg", "--top", "1")
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    for source in (model_file, out):
        command("cost", source, "--json")
    ours, theirs = capsys.readouterr().out.split("}\n", 1)
    assert json.loads(ours + "}")["macs"] == json.loads(theirs)["macs"]


def test_export_refuses_what_it_cannot_do(command, tmp_path, model_file):
    for arguments, message in (
        (["model.pt"], r"must end in \.onnx"),
        (["a.onnx", "--size", "32"], "--size 32 is not allowed"),
        (["a.onnx", "--form", "plain", "--measure"], "go with --form lowered"),
        (["a.onnx", "--runtime", "tvm"], "runtime='tvm' is not allowed"),
    ):
        with pytest.raises((UserError, ValueError), match=message):
            command("export", model_file, tmp_path / arguments[0], *arguments[1:])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine.onnx").write_text("precious")
    with pytest.raises(UserError, match=r"mine\.onnx exists: remove it first"):
        command("export", model_file, tmp_path / "mine.onnx")
    assert (tmp_path / "mine.onnx").read_text() == "precious"
    save_model(create_model("condensenet-50"), tmp_path / "new.pt")
    with pytest.raises(UserError, match="is at condensing stage 0 of 3"):
        command("export", tmp_path / "new.pt", tmp_path / "a.onnx")


@pytest.mark.slow
def test_bench_times_every_form(command, capsys, model_file):
    command("bench", model_file, "--json")
    facts = json.loads(capsys.readouterr().out)
    forms = [row["model"].rpartition(" ")[2] for row in facts["rows"]]
    assert forms == ["plain", "lowered", *(["native"] if operator_library() else [])]
    command("bench", model_file)
    header, columns, *rows = capsys.readouterr().out.splitlines()
    assert "16x16 pixels, batch 1, median of 50 runs" in header
    assert "mobilenet_v1" in columns
    assert len(rows) >= len(forms)


def test_doctor_finds_what_is_here(command, capsys, monkeypatch):
    for variable in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "RAY_ADDRESS"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(SystemExit) as ended:
        command("doctor", "--json")
    findings = {each["subject"]: each for each in json.loads(capsys.readouterr().out)}
    assert ended.value.code == 0
    assert torch.__version__.startswith(findings["torch"]["detail"].partition("+")[0])
    assert findings["native operator"]["status"] == ("ok" if operator_library() else "note")


def test_doctor_finds_a_server_that_does_not_answer(command, capsys, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://user:secret@127.0.0.1:9/api")
    with pytest.raises(SystemExit) as ended:
        command("doctor")
    output = capsys.readouterr().out
    assert ended.value.code == 1
    assert "nothing answers there" in output
    assert "secret" not in output


@pytest.mark.parametrize(
    ("variable", "value", "status", "detail"),
    [
        ("RAY_ADDRESS", "auto", "note", "auto: not checked"),
        ("RAY_ADDRESS", "127.0.0.1:9", "broken", "nothing answers there"),
        ("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db", "note", "not checked"),
        ("CONDENSENET_KERNELS", "maybe", "broken", "CONDENSENET_KERNELS=maybe is not allowed: on or off"),
        ("CONDENSENET_LANES", "5", "broken", "CONDENSENET_LANES=5 is not allowed"),
    ],
)
def test_doctor_has_a_line_for_what_is_set(command, capsys, monkeypatch, variable, value, status, detail):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as ended:
        command("doctor", "--json")
    subject = "compiled code" if variable.startswith("CONDENSENET") else variable
    (finding,) = (each for each in json.loads(capsys.readouterr().out) if each["subject"] == subject)
    assert finding["status"] == status
    assert detail in finding["detail"]
    assert ended.value.code == int(status == "broken")


def test_doctor_needs_none_of_the_pipeline(checkout):
    code = (
        "import sys\n"
        "for name in ('pydantic', 'ruamel', 'ray', 'mlflow', 'prefect', 'dvc', 'psutil'): sys.modules[name] = None\n"
        "from cli.checkup import run\n"
        "run(False)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "condensenet " in done.stdout


@pytest.mark.parametrize(("name", "missing"), [("demo", "params.yaml"), ("report", "params.yaml")])
def test_commands_for_a_checkout_say_so_elsewhere(command, tmp_path, monkeypatch, name, missing):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"{missing} is missing here: run this in a checkout"):
        command(name)


def test_report_does_not_decode_the_parameters_of_other_programs(command, tmp_path):
    (tmp_path / "params.yaml").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"dvc\.yaml is missing in"):
        command("report", tmp_path)


def test_ui_needs_something_to_show(command, tmp_path):
    with pytest.raises(UserError, match="nothing has been trained in"):
        command("ui", tmp_path)


def test_authors_files_are_read_by_every_command(command, capsys, tmp_path):
    config = dataclasses.replace(CONFIG, num_classes=10, condense_classifier=True)
    model = create_model("condensenet-50", **dataclasses.asdict(config))
    model.condense_to(model.num_condensing_stages)
    save_authors_checkpoint(convert(model.eval()), tmp_path / "theirs.pth.tar")
    command("cost", tmp_path / "theirs.pth.tar", "--json")
    assert json.loads(capsys.readouterr().out)["macs"] == count_cost(convert(model), 32).macs


def test_a_command_whose_packages_are_not_installed_names_the_extra(photos):
    script = """
import sys
sys.modules["ruamel.yaml"] = None
sys.argv = ["condensenet", "train", sys.argv[1]]
from cli.main import main
main()
"""
    done = subprocess.run([sys.executable, "-c", script, str(photos)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: the command needs ruamel.yaml: pip install 'condensenet[pipeline]'\n"
