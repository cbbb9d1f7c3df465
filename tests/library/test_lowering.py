"""The lowered file computes what the network in its condensed training form does, by standard operators alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import SMALL, condensed, configs, images, set_scales, share_of_examples
from torch import nn

from condensenet import CondenseNet, ModelConfig, convert
from condensenet.config import Stem
from condensenet.deploy.compare import TOLERANCE, compare_onnx
from condensenet.deploy.lowering import Plan, lower, portable_plan
from condensenet.deploy.lowering.reading import read_network
from condensenet.deploy.lowering.workloads import valid_variants, workloads

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def all_variants(model: CondenseNet) -> list[str]:
    """Every variant that is valid somewhere in ``model``."""
    return sorted({variant for _, workload in workloads(read_network(model)) for variant in valid_variants(workload)})


def plan_of(model: CondenseNet, size: tuple[int, int], variant: str) -> Plan:
    """``variant`` wherever it is valid, else the portable plan's."""
    plan = portable_plan(model, size)
    variants = {
        name: variant if variant in valid_variants(workload) else plan.variants[name]
        for name, workload in workloads(read_network(model))
    }
    return Plan(kind="portable", network=plan.network, input_size=size, variants=variants)


@pytest.mark.slow
@share_of_examples(0.75)
@given(configs(), st.integers(0, 3), st.sampled_from([(16, 16), (9, 13), (7, 8)]), st.sampled_from([1, 8]))
def test_any_network_keeps_its_logits(
    tmp_path_factory: pytest.TempPathFactory, config: ModelConfig, seed: int, size: tuple[int, int], count: int
) -> None:
    model, path = condensed(config, seed), tmp_path_factory.mktemp("lowered") / "model.onnx"
    grouped = convert(model)
    for variant in all_variants(grouped):
        lower(grouped, path, size, plan=plan_of(grouped, size, variant))
        compare_onnx(model, path, [images(config, count, size)])


@pytest.mark.parametrize("stem", ["densenet", "imagenet"])
def test_stems_of_odd_images(tmp_path: Path, stem: Stem) -> None:
    config = ModelConfig(
        block_depths=(1, 1), growth_rates=(4, 4), groups_1x1=1, groups_3x3=1, condensation_factor=1, stem=stem,
        num_classes=3, reduction=0.5,
    )  # fmt: skip
    model = condensed(config)
    path = lower(convert(model), tmp_path / "model.onnx", (37, 42), plan=portable_plan(convert(model), (37, 42)))
    compare_onnx(model, path, [images(config, 2, (37, 42))])


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e-3, 1e3, -1e-12, -1e3, 0.0])
def test_scales_of_any_size(tmp_path: Path, scale: float) -> None:
    model = condensed(SMALL)
    set_scales(model, scale)
    grouped = convert(model)
    for variant in all_variants(grouped):
        path = lower(grouped, tmp_path / "model.onnx", 12, plan=plan_of(grouped, (12, 12), variant))
        compare_onnx(model, path, [images(SMALL, 4, (12, 12))], tolerance=TOLERANCE)


def test_a_classifier_that_kept_the_first_features(tmp_path: Path) -> None:
    """Its index is 0, 1, 2, ... as if it read all features: they must be selected all the same."""
    grouped = convert(condensed(SMALL))
    index = grouped.classifier.index
    index.copy_(torch.arange(len(index)))
    path = lower(grouped, tmp_path / "model.onnx", 12, plan=portable_plan(grouped, 12))
    compare_onnx(grouped, path, [images(SMALL, 2, (12, 12))])


def test_features_that_hardly_pass_the_last_relu_lose_no_digits(tmp_path: Path) -> None:
    """Large final feature maps and batch norms far below zero: a clip before the mean would be off by 1e-4."""
    model = condensed(ModelConfig(**{**SMALL.__dict__, "block_depths": (1,), "growth_rates": (8,)}))
    with torch.no_grad():
        model.norm.bias[::2] -= 10 * model.norm.weight[::2].abs()
    grouped = convert(model)
    path = lower(grouped, tmp_path / "model.onnx", 64, plan=portable_plan(grouped, 64))
    compare_onnx(model, path, [images(SMALL, 2, (64, 64))])


@pytest.mark.parametrize("runtime", ["openvino", "litert", "mnn", "ncnn"])
def test_plans_for_other_runtimes_compute_the_same(tmp_path: Path, runtime: str) -> None:
    model = condensed(SMALL)
    grouped = convert(model)
    path = lower(grouped, tmp_path / "model.onnx", 12, plan=portable_plan(grouped, 12, runtime=runtime))
    compare_onnx(model, path, [images(SMALL, 2, (12, 12))])
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert kinds.isdisjoint({"Max", "Min", "ConvTranspose", "Transpose"})


def test_ncnn_gets_no_gather_and_the_others_get_wide_layers_in_groups(tmp_path: Path) -> None:
    """The 1x1 convolutions have 32, 64 and 128 outputs: up to 64 they are dense."""
    config = ModelConfig(**{**SMALL.__dict__, "block_depths": (1, 1, 1), "growth_rates": (8, 16, 32)})
    grouped = convert(condensed(config))
    plans = {runtime: portable_plan(grouped, 12, runtime=runtime) for runtime in ("openvino", "ncnn")}
    variants = [plans["openvino"].variants[f"block {block}, layer 1"] for block in (1, 2, 3)]
    assert variants == ["dense_normed dense", "dense_normed merged", "normed plain"]
    path = lower(grouped, tmp_path / "model.onnx", 12, plan=plans["ncnn"])
    assert "Gather" not in {node.op_type for node in onnx.load(path).graph.node}
    with pytest.raises(ValueError, match=r"runtime='tensorrt' is not allowed: onnxruntime, openvino, .*ncnn"):
        portable_plan(grouped, 12, runtime="tensorrt")


@pytest.mark.parametrize(("stem", "smallest"), [("cifar", 2), ("imagenet", 3), ("densenet", 5)])
def test_images_of_which_a_pooling_leaves_nothing_are_refused(stem: Stem, smallest: int, tmp_path: Path) -> None:
    model = condensed(ModelConfig(**{**SMALL.__dict__, "stem": stem}))
    grouped = convert(model)
    path = lower(grouped, tmp_path / "model.onnx", smallest, plan=portable_plan(grouped, smallest))
    compare_onnx(model, path, [images(SMALL, 2, (smallest, smallest))])
    with pytest.raises(ValueError, match=r"^input_size=.* is not allowed: the blocks would get images of .* pixels$"):
        portable_plan(grouped, (99, smallest - 1))


def test_a_network_without_a_classifier_is_refused_in_one_line() -> None:
    grouped = convert(condensed(ModelConfig(**{**SMALL.__dict__, "num_classes": 0})))
    with pytest.raises(ValueError, match="the network has no classifier"):
        portable_plan(grouped, 12)


def test_no_dense_variant_where_groups_differ_in_their_norms(tmp_path: Path) -> None:
    """After conversion each group may train its own norm for a feature: one dense convolution would mix them up."""
    grouped = convert(condensed(SMALL))
    assert any(name.startswith("dense") for name in all_variants(grouped))
    torch.manual_seed(0)
    for module in grouped.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
        if hasattr(module, "index"):
            module.index.random_(module.index.max() + 1)
    assert not any(name.startswith("dense") for name in all_variants(grouped))
    for variant in all_variants(grouped):
        path = lower(grouped, tmp_path / "model.onnx", 12, plan=plan_of(grouped, (12, 12), variant))
        compare_onnx(grouped, path, [images(SMALL, 2, (12, 12))])


def test_the_file_says_what_it_is_and_needs_nothing_of_ours(tmp_path: Path) -> None:
    model = convert(condensed(SMALL))
    plan = portable_plan(model, 12)
    path = lower(model, tmp_path / "model.onnx", 12, plan=plan, metadata={"setting": "a", "macs": 7})
    proto = onnx.load(path)
    assert {entry.domain for entry in proto.opset_import} == {""}
    assert {node.domain for node in proto.graph.node} == {""}
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    assert metadata["form"] == "lowered"
    assert metadata["plan"] == "portable"
    assert (metadata["setting"], metadata["macs"]) == ("a", "7")
    assert Plan.from_json(metadata["plan_json"]) == plan
    code = (
        "import sys, numpy as np, onnxruntime as o; s = o.InferenceSession(sys.argv[1]);"
        "x = np.load(sys.argv[2]); np.save(sys.argv[3], s.run(['logits'], {'image': x})[0]);"
        "assert not [name for name in sys.modules if name.startswith(('condensenet', 'torch'))]"
    )
    batch = images(SMALL, 3, (12, 12))
    np.save(tmp_path / "x.npy", batch.numpy())
    arguments = [str(path), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    subprocess.run([sys.executable, "-I", "-c", code, *arguments], check=True, cwd=tmp_path)
    with torch.inference_mode():
        expected = model(batch).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-5 * np.abs(expected).max())


def test_a_saved_plan_gives_identical_bytes(tmp_path: Path) -> None:
    model = convert(condensed(SMALL))
    plan = portable_plan(model, 12)
    again = Plan.load(plan.save(tmp_path / "plan.json"))
    assert again == plan
    first = lower(model, tmp_path / "a.onnx", 12, plan=plan).read_bytes()
    assert lower(model, tmp_path / "b.onnx", 12, plan=again).read_bytes() == first


def test_plans_that_do_not_fit_are_refused_in_one_line(tmp_path: Path) -> None:
    model = convert(condensed(SMALL))
    plan = portable_plan(model, 12)
    other = convert(condensed(ModelConfig(**{**SMALL.__dict__, "block_depths": (1, 1)})))
    with pytest.raises(ValueError, match=r"^the plan is for another network: \w+ instead of \w+$"):
        lower(other, tmp_path / "model.onnx", 12, plan=plan)
    with pytest.raises(ValueError, match=r"^the plan is for images of \(12, 12\) pixels, not of \(16, 16\)$"):
        lower(model, tmp_path / "model.onnx", 16, plan=plan)
    with pytest.raises(ValueError, match=r"^a model in training form cannot be lowered: convert it first$"):
        lower(condensed(SMALL), tmp_path / "model.onnx", 12, plan=plan)
    variants = {**plan.variants, "block 1, layer 2": "gathered magic"}
    with pytest.raises(ValueError, match=r"^the plan's 'gathered magic' cannot compute block 1, layer 2; allowed: "):
        lower(model, tmp_path / "model.onnx", 12, plan=Plan(**{**plan.__dict__, "variants": variants}))
    with pytest.raises(
        ValueError, match=r"^the plan's workloads are not those of the network: block 1; block 1, layer 1; "
    ):
        lower(model, tmp_path / "model.onnx", 12, plan=Plan(**{**plan.__dict__, "variants": {}}))
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"{",
        b"\xff\x00",
        b"[]",
        b"null",
        b"{}",
        b"[" * 100_000,
        b'{"format": "condensenet lowering plan 1"}',
        b'{"format": "condensenet lowering plan 1", "kind": "other", "network": "", "input_size": [1, 1], '
        b'"variants": {}, "machine": null, "times_us": {}}',
    ],
)
def test_a_file_that_is_no_plan_is_refused_in_one_line(tmp_path: Path, junk: bytes) -> None:
    (tmp_path / "plan.json").write_bytes(junk)
    with pytest.raises(ValueError, match="is not a plan: ") as error:
        Plan.load(tmp_path / "plan.json")
    assert "\n" not in str(error.value)


def test_a_truncated_plan_is_refused(tmp_path: Path) -> None:
    text = portable_plan(convert(condensed(SMALL)), 12).as_json()
    json.loads(text)
    for length in range(0, len(text) - 1, 37):
        with pytest.raises(ValueError, match=r"."):
            Plan.from_json(text[:length])
