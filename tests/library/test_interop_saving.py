"""Checkpoints in the authors' format: what their code reads of them, and what comes back."""

from __future__ import annotations

import dataclasses
import pickletools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import authors_forward, configs, images, random_network, relative_difference, share_of_examples
from torch import nn

from condensenet import CondenseNet, ModelConfig, convert, load_authors_checkpoint, save_authors_checkpoint
from condensenet.interop import halve_classifier

SMALL = ModelConfig(block_depths=(1, 2, 1), growth_rates=(8, 8, 16))
LIGHT = dataclasses.replace(SMALL, block_depths=(2, 2, 2), growth_rates=(16, 16, 16), reduction=0.5)
TOLERANCE = 1e-5
OLD_PYTORCH = {  # all that PyTorch 1.1 needs to know to read a file
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch FloatStorage",
    "torch LongStorage",
}


def _at(config: ModelConfig, stage: int) -> CondenseNet:
    model = random_network(config)
    model.condense_to(stage)
    return model


def _converted(config: ModelConfig) -> CondenseNet:
    model = _at(config, config.num_condensing_stages)
    return convert(model if config.condense_classifier else halve_classifier(model))


@share_of_examples(0.75)
@given(configs(), st.data())
@torch.no_grad()
def test_every_form_and_stage_computes_as_theirs_from_the_file(tmp_path_factory, config, data):
    config = dataclasses.replace(config, in_channels=3)
    stage = data.draw(st.integers(0, config.num_condensing_stages))
    model = _converted(config) if data.draw(st.booleans()) else _at(config, stage)
    path = tmp_path_factory.mktemp("theirs") / "checkpoint.pth.tar"
    save_authors_checkpoint(model, path)
    content = torch.load(path, weights_only=True)["state_dict"]
    assert all(name.startswith("module.") for name in content)  # theirs is wrapped in DataParallel
    state = {name.removeprefix("module."): value for name, value in content.items()}
    logits = model(images(config))
    assert relative_difference(authors_forward(state, config, images(config)), logits) <= TOLERANCE

    saved_config = model.config if model.form == "grouped" else dataclasses.replace(config, condense_classifier=False)
    loaded = load_authors_checkpoint(path, saved_config)
    assert loaded.config == saved_config
    assert relative_difference(loaded(images(config)), logits) <= TOLERANCE


def test_what_resuming_reads_is_there(tmp_path):
    model = _at(SMALL, 1)
    save_authors_checkpoint(model, tmp_path / "checkpoint_004.pth.tar", epoch=4)
    content = torch.load(tmp_path / "checkpoint_004.pth.tar", weights_only=True)
    assert content.keys() == {"epoch", "model", "state_dict", "best_prec1", "optimizer"}
    assert (content["epoch"], content["model"], content["best_prec1"]) == (4, "condensenet", 0.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.3, momentum=0.5, weight_decay=1.0)
    optimizer.load_state_dict(content["optimizer"])
    (group,) = optimizer.param_groups
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 1e-4, True)
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimizer.step()
    stages = {float(value) for name, value in content["state_dict"].items() if name.endswith("_stage")}
    assert stages == {1.0}


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (_at(SMALL, 0), "condensenet"),
        (_converted(SMALL), "condensenet_converted"),
        (_at(LIGHT, 3), "densenet_LGC"),
        (_converted(LIGHT), "densenet_LGC"),
    ],
)
def test_the_file_is_one_that_the_authors_pytorch_reads(model, name, tmp_path):
    path = tmp_path / "folder" / "model.pth.tar"
    save_authors_checkpoint(model, path)
    assert torch.load(path, weights_only=True)["model"] == name
    needed = set()
    with open(path, "rb") as file:
        for _ in range(5):  # magic number, protocol, machine, content, keys of the storages that follow
            for opcode, argument, _ in pickletools.genops(file):
                assert opcode.name != "STACK_GLOBAL"
                if opcode.name == "PROTO":
                    assert argument == 2
                if opcode.name == "GLOBAL":
                    needed.add(argument)
    assert needed <= OLD_PYTORCH
    assert [file.name for file in path.parent.iterdir()] == ["model.pth.tar"]


def test_half_precision_models_are_written_as_float32(tmp_path):
    save_authors_checkpoint(_at(SMALL, 3).to(torch.bfloat16), tmp_path / "model.pth.tar")
    state = torch.load(tmp_path / "model.pth.tar", weights_only=True)["state_dict"]
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}


@torch.no_grad()
def test_a_condensed_classifier_keeps_its_function_and_loses_its_mask(tmp_path):
    config = dataclasses.replace(SMALL, condense_classifier=True)
    model = _at(config, 3)
    save_authors_checkpoint(model, tmp_path / "model.pth.tar")
    loaded = load_authors_checkpoint(tmp_path / "model.pth.tar")
    assert not loaded.config.condense_classifier
    assert torch.equal(loaded(images(SMALL)), model(images(SMALL)))
    kept = halve_classifier(loaded).classifier.group_mask  # as the authors' conversion chooses
    assert torch.equal(kept, model.classifier.group_mask)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (
            convert(_at(SMALL, 3)),
            ValueError,
            "the classifier is not halved, .* what condensenet.interop.halve_classifier",
        ),
        (_at(dataclasses.replace(SMALL, in_channels=1), 0), ValueError, "in_channels=1 is not allowed"),
        (_at(dataclasses.replace(SMALL, stem="densenet"), 0), ValueError, "init_conv does not fit: stem='densenet'"),
        (nn.Linear(1, 1), TypeError, "takes a CondenseNet, not a Linear"),
    ],
)
def test_what_their_networks_cannot_be_is_refused_and_nothing_written(model, error, message, tmp_path):
    with pytest.raises(error, match=message):
        save_authors_checkpoint(model, tmp_path / "model.pth.tar")
    assert list(tmp_path.iterdir()) == []
