"""Models go to a hub and come back, by the hub's own client."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import hub_server

SCRIPT = """
import torch
from condensenet import CondenseNet, ModelConfig, load, push_to_hub

torch.manual_seed(0)
config = ModelConfig(block_depths=(1, 1), growth_rates=(8, 8), num_classes=3, condensation_factor=2)
model, images = CondenseNet(config).eval(), torch.ones(1, 3, 16, 16)
print(push_to_hub(model, "me/net", token="hf_secret", license="mit"))
print(torch.equal(load("hf-hub:me/net")(images), model(images)))
"""


@pytest.mark.slow
def test_a_pushed_model_comes_back_and_an_edited_card_stays(checkout: Path, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed (extra hub)")
    with hub_server() as server:
        variables = {"HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(checkout)}

        def push_and_load() -> list[str]:
            done = subprocess.run(
                [sys.executable, "-c", SCRIPT],
                env={**os.environ, **variables, "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"},
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == 0, done.stderr
            return done.stdout.splitlines()

        assert push_and_load() == [f"{server.address}/me/net", "True"]
        assert server.files is not None
        assert server.files.keys() == {"README.md", "config.json", "model.safetensors"}
        assert b"license: mit" in server.files["README.md"]
        server.files["README.md"] = b"edited"
        assert push_and_load()[1] == "True"
        assert server.files["README.md"] == b"edited"
    posts = [token for line, token in server.requests if line.startswith("POST")]
    assert set(posts) == {"Bearer hf_secret"}
