"""Every command of docs/IMAGENET.md, typed with a miniature of ImageNet's archives and a small network."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import test_prepare_imagenet as miniature
from workspaces import Workspace, copy_checkout

SMALL = (  # one network of two layers, one epoch of three steps, one worker
    "model.num_classes=3",
    "+model.block_depths=[1,1]",
    "+model.growth_rates=[8,8]",
    "~settings.condensenet-74-g4",
    "data.image_size=32",
    "train.epochs=1",
    "train.batch_size=4",
    "ray.num_workers=1",
    "ray.threads_per_worker=1",
    "ray.use_gpu=false",
)
MODERN = ("train.warmup_epochs=0", "data.augment.crop_size=24", "data.augment.first_crop_size=16")
SECONDS = 900  # of a command, on a busy machine


def blocks(page: Path) -> list[list[str]]:
    return [block.splitlines() for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)]


@pytest.fixture(scope="module")
def workspace(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("imagenet")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        miniature.archives()
    return copy_checkout(checkout, folder / "checkout")


def typed(workspace: Workspace, command: str) -> str:
    """What the command prints; a study is made small."""
    words = shlex.split(command.replace("/data/ILSVRC2012", str(workspace.path.parent / "raw")))
    small = SMALL + (MODERN if "study=imagenet-modern" in words else ())
    if words[:2] == ["dvc", "exp"]:
        *words, target = words
        words += [word for each in small for word in ("-S", each)] + [target]
    elif "flows.plan" in words:
        words += [word for each in small if not each.startswith("~") for word in ("--set", each)]
    return workspace.run(*words, timeout=SECONDS).stdout


def links(data: Path) -> int:
    return (data / "train.images.bin").stat().st_nlink


def test_every_command_of_the_page_from_the_archives_to_the_table(checkout: Path, workspace: Workspace) -> None:
    (plan,), forms, (train,), (modern, relink), tables = blocks(checkout / "docs/IMAGENET.md")
    out = workspace.path / "out"
    assert "imagenet: 12 training and 6 test images" in typed(workspace, plan)
    for command, encoding in zip(reversed(forms), ("pixels", "encoded", "encoded"), strict=True):
        typed(workspace, command)
        manifest = json.loads((out / "imagenet/data/manifest.json").read_text())
        assert manifest["encoding"] == encoding
        assert manifest["splits"] == {"train": 12, "validation": 0, "test": 6}
        if command != forms[0]:  # whose images, as small as these, are those of the form before
            assert links(out / "imagenet/data") == 2  # DVC's cache has the same file, no copy
    typed(workspace, train)
    assert json.loads((out / "imagenet/data/manifest.json").read_text()) == manifest  # prepared once
    typed(workspace, modern)
    typed(workspace, relink)
    assert links(out / "imagenet-modern/data") >= 2
    for study in ("imagenet", "imagenet-modern"):
        report = (out / study / "report/report.md").read_text()
        assert re.search(r"condensenet-74-g8.*\d", report)
        errors = json.loads((out / study / "evaluate/condensenet-74-g8/metrics.json").read_text())
        assert errors["images"] == 6
    shown = [typed(workspace, command) for command in tables]
    assert "condensenet-74-g8" in shown[0]
    assert "condensenet-74-g8" in shown[1]
    assert "error_pct" in shown[2]
