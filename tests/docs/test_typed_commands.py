"""Every command of README.md, docs/FAQ.md and docs/TUTORIAL.md is typed here, or it is said where or why not."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from test_library_page import workspace  # noqa: F401

from cli.app import app
from condensenet import convert, load
from condensenet.interop import halve_classifier, save_authors_checkpoint

PAGES = ("README.md", "docs/FAQ.md", "docs/TUTORIAL.md")
PROGRAMS = r"(?:make|dvc|python|condensenet|pip|git|source|scp|ssh|mkdir|cp) "
BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)

TYPED = (  # here, in this order, in a folder with a small model
    "condensenet predict runs/photos/model.onnx holiday.jpg",
    "condensenet cost condensenet-86",
    "condensenet export model.pt model.onnx",
    "condensenet convert theirs.pth.tar ours.pt",
    "condensenet doctor",
    "python -m flows.plan --study imagenet --images 1281167,50000",
)
ELSEWHERE = {  # typed by a test, as it is or with smaller values: the file, and what it has of the command
    r"make demo|python -m flows\.reproduce .*": ("tests/flows/test_pipeline.py", '"flows.reproduce"'),
    r"condensenet train FOLDER": (
        "tests/cli/test_train_command.py",
        "def test_training_says_what_it_found_and_what_to_do_next(",
    ),
    r"condensenet train more --from runs/photos/model\.pt --epochs 10": (
        "tests/cli/test_train_command.py",
        "def test_a_model_is_fine_tuned_on_other_classes(",
    ),
    r"condensenet bench model\.pt": ("tests/cli/test_commands.py", "def test_bench_times_every_form("),
    r"condensenet export runs/photos/model\.pt native\.onnx --form native": (
        "tests/cli/test_commands.py",
        "def test_export_writes_what_predict_and_cost_read(",
    ),
    r"make tables|dvc repro": ("tests/flows/test_pipeline.py", 'dvc("repro")'),
    r"dvc exp run.*": ("tests/flows/test_dvc.py", '"exp", "run", "-S"'),
    r"dvc metrics show": ("tests/flows/test_pipeline.py", '"metrics", "show"'),
    r"dvc plots show": ("tests/flows/test_pipeline.py", '"plots", "show"'),
    r"dvc params diff": ("tests/flows/test_dvc.py", '"params", "diff"'),
    r"python -m tasks\.choose .*": (
        "tests/report/test_choose.py",
        "def test_the_command_prints_the_table_and_the_choice(",
    ),
    r"python -m tasks\.release .*": (
        "tests/report/test_release.py",
        "def test_a_release_is_the_file_that_ships_and_a_card(",
    ),
    r"python -m tasks\.<stage>": ("tests/cli/test_help.py", "programs(checkout)"),
    r"python -m flows\.plan .*--measure": (
        "tests/stages/test_planning.py",
        "def test_a_measured_rate_is_of_this_machine(",
    ),
    r"python -m condensenet\.deploy\.latency .*": (
        "tests/flows/test_benchmark_device.py",
        "def test_by_hand_one_file_is_enough(",
    ),
    r"python -m benchmarks\.results": (
        "tests/benchmarks/test_results.py",
        "def test_a_page_is_up_to_date_and_has_all_its_tables(",
    ),
    r"condensenet ui .*": ("tests/tracking/test_ui.py", "def test_it_serves_until_ctrl_c_and_leaves_no_process("),
    r"make docs": ("tests/docs/test_site.py", '"build"'),
}
NOT_TYPED = {
    r"make|condensenet( cost)?": "it is a name in a sentence",
    r"make (env|test|test-fast)": "they make the environment and run the tests themselves",
    r"condensenet --install-completion": "it writes to the files of the shell above it, which need not be one it knows",
    r"source .*": "it changes the shell that it is typed in",
    r"pip install .*": "it downloads packages",
    r"mkdir -p build|python -c .*vl_convert.*|dvc config .*": "it needs a package that is no dependency of ours",
    r"make (ui|prefect-ui)": "it serves until Ctrl-C",
    r"condensenet demo": "it is make demo",
    r"dvc plots diff": "it is dvc plots show, of two commits",
    r"git checkout .*": "it is git's",
    r"(scp|ssh) .*": "it needs a board",
    r"python -m benchmarks\.(?!results).*": "it takes minutes; tests/benchmarks runs each in miniature, and its --help",
}


def commands(text: str) -> Iterator[str]:
    """Lines of shell blocks and of indented text, and code spans that begin with a program; without comments."""
    rest = BLOCK.sub("", text)
    lines = [line for kind, block in BLOCK.findall(text) if kind == "sh" for line in block.splitlines()]
    lines += re.findall(rf"^    ({PROGRAMS}.*)$", rest, re.MULTILINE)
    lines += [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", rest) if re.match(PROGRAMS, span + " ")]
    yield from dict.fromkeys(re.sub(r"\s+#.*", "", line).strip() for line in lines)


def typed_by_the_tutorial() -> list[str]:
    """Lines of the page's shell blocks, all of which tests/cli/tutorial.py runs."""
    page = Path(__file__).resolve().parents[2] / "docs/TUTORIAL.md"
    text = page.read_text(encoding="utf-8")
    lines = [line for kind, block in BLOCK.findall(text) if kind == "sh" for line in block.splitlines()]
    return [re.sub(r"\s+#.*", "", line).strip() for line in lines]


def where(command: str) -> list[str]:
    return [
        *(["the tutorial"] if command in typed_by_the_tutorial() else []),
        *(["here"] if command in TYPED else []),
        *(rule for rule in (*ELSEWHERE, *NOT_TYPED) if re.fullmatch(rule, command)),
    ]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_typed_or_has_a_reason_not_to_be(checkout: Path, page: str) -> None:
    found = list(commands((checkout / page).read_text(encoding="utf-8")))
    assert len(found) > 10
    assert [command for command in found if not where(command)] == []


def test_every_rule_is_about_a_command_and_its_test_is_there(checkout: Path) -> None:
    found = [command for page in PAGES for command in commands((checkout / page).read_text(encoding="utf-8"))]
    assert set(TYPED) <= set(found)
    for rule in (*ELSEWHERE, *NOT_TYPED):
        assert any(re.fullmatch(rule, command) for command in found), rule
    for file, text in ELSEWHERE.values():
        assert text in (checkout / file).read_text(encoding="utf-8"), (file, text)


@pytest.mark.parametrize("command", ["condensenet train photos --new", "condensenet export model.pt new.onnx"])
def test_a_command_that_nobody_types_is_found(command: str) -> None:
    assert where(command) == []


@pytest.mark.slow
def test_the_cheap_commands_do_what_the_pages_say(
    checkout: Path,
    workspace: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process; the command's own start is tested with its help."""
    for name in ("conf", "dvc.yaml", "params.yaml"):
        (workspace / name).symlink_to(checkout / name)
    (workspace / "model.pt").symlink_to("runs/photos/model.pt")
    model = load("model.pt")
    model.reset_classifier(10)  # of CIFAR-10, by which the file is told from one for ImageNet
    save_authors_checkpoint(convert(halve_classifier(model)), workspace / "theirs.pth.tar")
    outputs = {}
    for command in TYPED:
        program, *arguments = shlex.split(command)
        if program == "condensenet":
            with pytest.raises(SystemExit) as ended:
                sys.exit(app(arguments, standalone_mode=False, prog_name=program))
            assert not ended.value.code, command
        else:
            monkeypatch.setattr(sys, "argv", ["plan", *arguments[2:]])
            with suppress(SystemExit):  # of a machine that cannot hold the study
                runpy.run_module(arguments[1], run_name="__main__")
        outputs[command] = capsys.readouterr().out
    assert "holiday.jpg" in outputs[TYPED[0]]
    assert "MACs" in outputs[TYPED[1]]
    assert load("model.onnx").preprocessing == load("model.pt").preprocessing
    assert load("ours.pt").form == "grouped"
    assert "1,281,167" in outputs[TYPED[-1]]
