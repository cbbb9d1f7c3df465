"""The native file, whose dense blocks are compiled operators, computes what the condensed training form does."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import SMALL, condensed, configs, images, set_scales, share_of_examples

from condensenet import ModelConfig, compiled, convert, presets
from condensenet.deploy.compare import compare_onnx
from condensenet.deploy.lowering import lower, portable_plan
from condensenet.deploy.lowering.graph_builder import Graph
from condensenet.deploy.lowering.network_graph import lower_classifier, lower_stem
from condensenet.deploy.lowering.reading import read_for_size
from condensenet.deploy.native.encoding import POOL_AVERAGE, POOL_NONE, encode_blocks
from condensenet.deploy.native.writing import DOMAIN, VERSION, write_native
from condensenet.deploy.onnx_file import INPUT, OUTPUT, write_onnx
from condensenet.deploy.runtime import open_session, operator_library

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.skipif(operator_library() is None, reason="the native operator is not compiled here")

LANES = ["4", "8", "16"]


@pytest.mark.parametrize("lanes", LANES)
@share_of_examples(0.625)
@given(configs(), st.integers(0, 3), st.sampled_from([(16, 16), (9, 13), (7, 8), (34, 9)]), st.sampled_from([1, 8]))
def test_any_network_keeps_its_logits(
    lanes: str,
    tmp_path_factory: pytest.TempPathFactory,
    config: ModelConfig,
    seed: int,
    size: tuple[int, int],
    count: int,
) -> None:
    model, path = condensed(config, seed), tmp_path_factory.mktemp("native") / "model.onnx"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CONDENSENET_LANES", lanes)
        write_native(convert(model), path, size)
        compare_onnx(model, path, images(config, 8, size).split(count))  # the logits of one may cancel out


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("size", [(71, 64), (40, 97), (16, 15), (3, 200)])
def test_images_of_many_rows_go_strip_by_strip(
    lanes: str, size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONDENSENET_LANES", lanes)
    config = ModelConfig(
        block_depths=(7, 3), growth_rates=(24, 12), groups_1x1=2, groups_3x3=3, condensation_factor=3, num_classes=3
    )
    model = condensed(config)
    path = write_native(convert(model), tmp_path / "model.onnx", size)
    compare_onnx(model, path, [images(config, 1, size), images(config, 3, size)])


@pytest.mark.parametrize("lanes", LANES)
def test_blocks_in_strips_may_follow_one_another(lanes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the last two reads its input while it writes that of the next one."""
    monkeypatch.setenv("CONDENSENET_LANES", lanes)
    config = ModelConfig(
        block_depths=(1, 1, 1, 1),
        growth_rates=(128, 4, 4, 4),  # so many features that three sizes of images go in strips
        bottleneck=1,
        groups_1x1=4,
        condensation_factor=4,
        num_classes=3,
    )
    model = condensed(config)
    path = write_native(convert(model), tmp_path / "model.onnx", (160, 160))
    compare_onnx(model, path, [images(config, 1, (160, 160))])


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("size", [(14, 14), (9, 7), (5, 16), (3, 3)])
@pytest.mark.parametrize("groups", [4, 8])
def test_groups_of_many_outputs(
    groups: int, lanes: str, size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONDENSENET_LANES", lanes)
    config = ModelConfig(
        block_depths=(2, 1),
        growth_rates=(64, 128),  # 8 to 32 for each group: whole vectors, pairs of groups in one, and several vectors
        groups_1x1=groups,
        groups_3x3=groups,
        condensation_factor=4,
        num_classes=3,
    )
    model = condensed(config)
    path = write_native(convert(model), tmp_path / "model.onnx", size)
    compare_onnx(model, path, [images(config, 1, size), images(config, 2, size)])


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("classes", [8, 30, 41, 64, 77])  # one to four vectors in the last tile, whole or not
def test_a_classifier_of_any_width(classes: int, lanes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDENSENET_LANES", lanes)
    config = replace(SMALL, num_classes=classes)
    model = condensed(config)
    path = write_native(convert(model), tmp_path / "model.onnx", 12)
    compare_onnx(model, path, [images(config, 2, (12, 12))])


def test_blocks_of_their_own_still_load(tmp_path: Path) -> None:
    config = replace(SMALL, block_depths=(2, 2, 1), growth_rates=(12, 12, 12))
    model = condensed(config)
    network, size = read_for_size(convert(model), 20)
    graph = Graph()
    x = lower_stem(graph, INPUT, network.stem)
    for block in network.blocks:
        encoded = encode_blocks([block], POOL_AVERAGE if block.pools else POOL_NONE)
        lists = graph.constant(encoded.integers), graph.constant(encoded.numbers)
        x = graph.node("DenseBlock", x, *lists, domain=DOMAIN)
    lower_classifier(graph, x, network)
    shapes = {INPUT: ("batch", 3, *size)}, {OUTPUT: ("batch", config.num_classes)}
    path = write_onnx(graph.model(*shapes, domains={DOMAIN: VERSION}), tmp_path / "model.onnx", {}, infer_shapes=False)
    compare_onnx(model, path, [images(config, 2, size)])


def test_one_operator_makes_logits_of_images(tmp_path: Path) -> None:
    proto = onnx.load(write_native(convert(condensed(SMALL)), tmp_path / "model.onnx", 12))
    assert [node.op_type for node in proto.graph.node] == ["DenseBlock"]


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e-3, 1e3, -1e-12, -1e3, 0.0])
def test_scales_of_any_size(tmp_path: Path, scale: float) -> None:
    model = condensed(SMALL)
    set_scales(model, scale)
    path = write_native(convert(model), tmp_path / "model.onnx", 12)
    compare_onnx(model, path, [images(SMALL, 4, (12, 12))])


@pytest.mark.parametrize("name", ["condensenet-74-g8", "condensenet-74-g4"])
def test_the_networks_of_the_paper(name: str, tmp_path: Path) -> None:
    model = condensed(presets[name])
    path = write_native(convert(model), tmp_path / "model.onnx", 224)
    compare_onnx(model, path, [images(presets[name], 2, (224, 224))])


def test_a_nan_and_an_infinity_come_out_as_they_do_elsewhere(tmp_path: Path) -> None:
    grouped = convert(condensed(SMALL))
    files = [
        write_native(grouped, tmp_path / "native.onnx", 12),
        lower(grouped, tmp_path / "lowered.onnx", 12, plan=portable_plan(grouped, 12)),
    ]
    batch = images(SMALL, 3, (12, 12)).numpy()
    batch[0, :, 3, 4], batch[1, :, 3, 4] = np.nan, np.inf
    ours, others = (open_session(path, 1).run(None, {"image": batch})[0] for path in files)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(others))
    assert np.isnan(ours[0]).all()
    np.testing.assert_allclose(ours[2], others[2], rtol=1e-4, atol=1e-5)


def test_runs_at_the_same_time_do_not_disturb_one_another(tmp_path: Path) -> None:
    path = write_native(convert(condensed(SMALL)), tmp_path / "model.onnx", 33)
    session = open_session(path, 2)
    inputs = [images(SMALL, count, (33, 33)).numpy() * (count + 1) for count in (1, 2, 3, 1)]
    expected = [open_session(path, 1).run(None, {"image": batch})[0] for batch in inputs]
    results: list[np.ndarray | None] = [None] * 40

    def run(first: int) -> None:
        for number in range(first, 40, 4):
            results[number] = session.run(None, {"image": inputs[number % 4]})[0]

    threads = [threading.Thread(target=run, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, logits in enumerate(results):
        assert logits is not None
        np.testing.assert_allclose(logits, expected[number % 4], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize(
    "size", [(21, 21), (90, 120), (163, 60)]
)  # the last two in strips with one, two, three threads
def test_the_same_bits_in_every_run_and_with_any_threads(
    tmp_path: Path, size: tuple[int, int], lanes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONDENSENET_LANES", lanes)
    config = ModelConfig(
        block_depths=(6, 2), growth_rates=(16, 12), groups_1x1=2, groups_3x3=4, condensation_factor=2, num_classes=3
    )
    path = write_native(convert(condensed(config)), tmp_path / "model.onnx", size)
    batch = images(config, 1, size).numpy()
    expected = open_session(path, 1).run(None, {"image": batch})[0].tobytes()
    for threads in (1, 2, 3, 5):
        session = open_session(path, threads)
        for _ in range(5):
            assert session.run(None, {"image": batch})[0].tobytes() == expected


def test_a_batch_of_none(tmp_path: Path) -> None:
    path = write_native(convert(condensed(SMALL)), tmp_path / "model.onnx", 12)
    assert open_session(path, 1).run(None, {"image": np.zeros((0, 3, 12, 12), np.float32)})[0].shape == (0, 5)


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    path = write_native(convert(condensed(SMALL)), tmp_path / "model.onnx", 12, metadata={"setting": "a"})
    proto = onnx.load(path)
    properties = {entry.key: entry.value for entry in proto.metadata_props}
    assert properties == {"setting": "a", "form": "native"}
    assert {entry.domain for entry in proto.opset_import} == {"", "condensenet"}


def test_without_the_library_the_file_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_native(convert(condensed(SMALL)), tmp_path / "model.onnx", 12)
    monkeypatch.setattr("condensenet.deploy.runtime.operator_library", lambda: None)
    with pytest.raises(
        ValueError, match=r"cannot be loaded .* operators of condensenet.deploy.native were not built here$"
    ):
        open_session(path)


def test_a_model_in_training_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="convert it first"):
        write_native(condensed(SMALL), tmp_path / "model.onnx", 12)


MUTATE = """
import sys
import numpy as np, onnx
from onnx import numpy_helper
from condensenet.deploy.runtime import open_session

proto, rng, refused = onnx.load(sys.argv[1]), np.random.default_rng(0), 0
int64 = onnx.TensorProto.INT64
lists = [entry for entry in proto.graph.initializer if entry.data_type == int64 and len(entry.dims) == 1]
values = numpy_helper.to_array(lists[0])
for trial in range(300):
    changed = values.copy()
    changed[rng.integers(len(values))] = rng.choice([-1, 0, 1, 2, 3, 7, 1 << 20, 1 << 31, -(1 << 62), 1 << 62])
    changed = changed[: rng.integers(len(values))] if trial % 3 == 0 else changed
    lists[0].CopyFrom(numpy_helper.from_array(changed, lists[0].name))
    open(sys.argv[2], "wb").write(proto.SerializeToString())
    try:
        open_session(sys.argv[2], 1).run(None, {"image": np.zeros((1, 3, 12, 12), np.float32)})
    except Exception as error:
        refused += 1
        assert "DenseBlock" in str(error), error
print(refused)
"""


@pytest.mark.slow
def test_a_damaged_list_is_refused_or_harmless(tmp_path: Path) -> None:
    path = write_native(convert(condensed(SMALL)), tmp_path / "model.onnx", 12)
    done = subprocess.run(
        [sys.executable, "-c", MUTATE, str(path), str(tmp_path / "damaged.onnx")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 150


@pytest.mark.parametrize("damage", ["truncated", "zeros at the end", "empty", "missing"])
def test_an_incomplete_library_stays_unused(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Loading it would end the process by SIGBUS."""
    content, library = operator_library().read_bytes(), tmp_path / "library.so"
    half = content[: len(content) // 2]
    if damage != "missing":
        library.write_bytes({"truncated": half, "empty": b""}.get(damage, half.ljust(len(content), b"\0")))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: SimpleNamespace(origin=str(library)))
    assert compiled.load("condensenet.deploy.native._operators") is None
    assert "is incomplete or was changed and is not used: reinstall the package" in caplog.text


def test_a_library_of_something_else_stays_unused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    content, library = Path(sys.modules["_ctypes"].__file__).read_bytes(), tmp_path / "library.so"
    library.write_bytes(content + hashlib.sha256(content).digest())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: SimpleNamespace(origin=str(library)))
    assert compiled.load("condensenet.deploy.native._operators") is None
    assert "is not part of this package and is not used" in caplog.text
