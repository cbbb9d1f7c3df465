"""Every command of docs/IMAGENET.md, typed with a miniature of ImageNet's archives."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import test_prepare_imagenet as miniature
from workspaces import copy_checkout

WANTED = {  # the rest of a command -> encoding of the prepared images
    "": "encoded",
    "-S data.shorter_side=256": "encoded",
    "-S data.shorter_side=256 -S data.raw=true": "pixels",
}


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def test_every_command_of_the_page(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    miniature.archives()
    workspace = copy_checkout(checkout, tmp_path / "checkout")
    typed = commands(checkout / "docs/IMAGENET.md")
    assert len(typed) == len(WANTED)
    for command, (rest, encoding) in zip(typed, WANTED.items(), strict=True):
        assert rest in command
        words = shlex.split(command.replace("/data/ILSVRC2012", str(tmp_path / "raw")))
        workspace.run(*words[:-1], "-S", "model.num_classes=3", words[-1])
        manifest = json.loads((workspace.path / "out/imagenet/data/manifest.json").read_text())
        assert manifest["encoding"] == encoding
        assert manifest["splits"] == {"train": 12, "validation": 0, "test": 6}
        images = workspace.path / "out/imagenet/data/train.images.bin"
        assert images.stat().st_nlink == 2  # DVC's cache has the same file, not a copy
