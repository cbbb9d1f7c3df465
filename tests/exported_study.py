"""A tiny study that is prepared, "trained" (random weights) and converted: what export and all after it start from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from ruamel.yaml import YAML

from condensenet.data import write_prepared
from condensenet.deploy.convert import convert
from condensenet.models.condensenet import CondenseNet
from condensenet.models.storage import save_model
from tasks import params as parameters
from tasks import paths
from tasks.params import Params

SETTING = "g2-c4"
CLASSES = ("zéro", "one, two", "never seen")
TEST_LABELS = (0, 1, 0, 0, 1, 1, 0)  # no image of the third class
RUN = {
    "execution_id": "0123456789abcdef0123456789abcdef",
    "mlflow_run_id": None,
    "study": "tiny",
    "setting": SETTING,
    "started_at": "2026-01-02T03:04:05+00:00",
    "git_commit": "0123456789abcdef0123456789abcdef01234567",
}


def write_study(checkout: Path) -> Params:
    """Write the study below the working folder; returns its parameters."""
    raw = YAML(typ="safe").load(checkout / "params.yaml")
    raw["study"] = "tiny"
    raw["data"].update(image_size=9, validation_images=0)
    raw["model"].update(num_classes=3, in_channels=1, block_depths=[1, 1], growth_rates=[4, 8], groups_3x3=2)
    raw["evaluate"] = {"batch_size": 4}
    raw["benchmark"] = {"runs": 50, "warmup": 1, "throughput_batch": 2, "threads": [1]}
    raw["settings"] = {SETTING: {"groups_1x1": 2, "condensation_factor": 4}}
    YAML().dump(raw, paths.PARAMS)
    params = parameters.load()
    _write_images(params)
    _write_model(params)
    return params


def _write_images(params: Params) -> None:
    random = np.random.default_rng(0)
    labels = {"train": [0, 1, 2], "test": list(TEST_LABELS)}
    splits = {name: (random.integers(0, 256, (len(of), 1, 9, 9), dtype=np.uint8), of) for name, of in labels.items()}
    write_prepared(params.paths.data, splits, name="tiny", classes=CLASSES)


def _write_model(params: Params) -> None:
    torch.manual_seed(0)
    model = CondenseNet(params.settings[SETTING].model)
    with torch.no_grad():
        for value in model.norm.parameters():
            value.normal_()
    model.condense_to(model.num_condensing_stages)
    save_model(convert(model.eval()), params.paths.setting("convert", SETTING) / paths.MODEL)
    folder = params.paths.setting("train", SETTING)
    folder.mkdir(parents=True)
    (folder / paths.RUN).write_text(json.dumps(RUN))
