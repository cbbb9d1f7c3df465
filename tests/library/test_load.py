"""``load`` and what travels with a model: every kind of file, preprocessing, predictions."""

from __future__ import annotations

import dataclasses
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import condensed, images
from PIL import Image

import condensenet
from condensenet import (
    AugmentConfig,
    CondenseNet,
    ModelConfig,
    OnnxModel,
    PreparedData,
    Preprocessing,
    TrainConfig,
    convert,
    export_onnx,
    from_pretrained,
    load,
    predict,
    save_authors_checkpoint,
    save_model,
    save_pretrained,
    write_prepared,
)
from condensenet.data import evaluation_batches
from condensenet.data.preprocess import load_images
from condensenet.deploy.compare import compare_onnx
from condensenet.interop.hub import model_card
from condensenet.training import fit

CONFIG = ModelConfig(block_depths=(2, 1), growth_rates=(8, 16), num_classes=3, condensation_factor=2, groups_1x1=2)
CLASSES = ("cat", "dog", "emu")
PREPROCESSING = Preprocessing(
    image_size=16, resize_shorter=18, channels=3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), classes=CLASSES
)
X = images(CONFIG, 2, (16, 16))


@pytest.fixture
def model() -> CondenseNet:
    model = condensed(CONFIG).requires_grad_(False)
    model.preprocessing = PREPROCESSING
    return model


def photo(path: Path, size: tuple[int, int], seed: int = 0) -> Path:
    """A file of ``size`` (width, height), in the format of its suffix."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_a_model_file_keeps_the_preprocessing_in_either_form(model, tmp_path):
    for name, saved in (("training.pt", model), ("grouped.pt", convert(model))):
        save_model(saved, tmp_path / name)
        loaded = load(tmp_path / name)
        assert loaded.preprocessing == PREPROCESSING
        assert torch.equal(loaded(X), saved(X))
    assert load(_moved(tmp_path / "training.pt", tmp_path / "folder/model.pt").parent).form == "training"


def _moved(old: Path, new: Path) -> Path:
    new.parent.mkdir()
    return old.rename(new)


def test_a_checkpoint_of_a_training_in_progress_is_the_model_at_that_step(tmp_path):
    rng = np.random.default_rng(0)
    splits = {
        name: (rng.integers(0, 256, (8, 3, 16, 16), dtype=np.uint8), [0, 1, 2, 0, 1, 2, 0, 1])
        for name in ("train", "validation", "test")
    }
    write_prepared(tmp_path / "data", splits, name="noise", classes=CLASSES)
    network = CondenseNet(dataclasses.replace(CONFIG, in_channels=3))
    data = PreparedData(tmp_path / "data")
    list(fit(network, data, AugmentConfig(), TrainConfig(epochs=1, batch_size=4), checkpoints=tmp_path / "made"))
    (file,) = (tmp_path / "made").glob("checkpoint-*.pt")
    with torch.no_grad():
        assert torch.equal(load(file)(X), network.eval()(X))


def test_an_authors_checkpoint_is_loaded_by_the_same_call(model, tmp_path):
    config = dataclasses.replace(CONFIG, block_depths=(1, 1, 1), growth_rates=(8, 8, 8), num_classes=10)
    theirs = convert(condensed(dataclasses.replace(config, condense_classifier=True))).requires_grad_(False)
    save_authors_checkpoint(theirs, tmp_path / "theirs.pth.tar")
    assert torch.equal(load(tmp_path / "theirs.pth.tar")(X), theirs(X))
    save_authors_checkpoint(model, tmp_path / "open.pth.tar")
    with pytest.raises(ValueError, match=r"open.pth.tar is neither a model of this library .* stem"):
        load(tmp_path / "open.pth.tar")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["plain", "lowered", "native"])
def test_an_onnx_file_predicts_what_its_model_predicts(model, tmp_path, form):
    path, grouped = tmp_path / "model.onnx", convert(model)
    metadata = PREPROCESSING.as_dict()
    if form == "plain":
        condensenet.export_onnx(grouped, path, 16, metadata=metadata)
    elif form == "lowered":
        condensenet.lower(grouped, path, 16, plan=condensenet.portable_plan(grouped, 16), metadata=metadata)
    elif condensenet.operator_library() is None:
        pytest.skip("the native operator is not compiled here")
    else:
        condensenet.write_native(grouped, path, 16, metadata=metadata)
    loaded = load(path)
    assert isinstance(loaded, OnnxModel)
    assert loaded.preprocessing == PREPROCESSING
    assert loaded.image_shape == (3, 16, 16)
    picture = photo(tmp_path / "photo.png", (40, 30))
    (ours,), (expected,) = predict(loaded, [picture]), predict(model, [picture])
    assert [each.name for each in ours] == [each.name for each in expected]
    assert [each.probability for each in ours] == pytest.approx([each.probability for each in expected], abs=1e-5)


@pytest.mark.slow
def test_an_onnx_file_with_wrong_preprocessing_is_named(model, tmp_path):
    metadata = PREPROCESSING.as_dict() | {"channels": 7}
    path = condensenet.export_onnx(convert(model), tmp_path / "odd.onnx", 16, metadata=metadata)
    with pytest.raises(ValueError, match=r"odd\.onnx: channels=7 is not allowed"):
        load(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("manifest.json", b"{}", "the manifest of prepared images"),
        ("plan.json", b"{}", "the plan of a lowered form"),
        ("model.onnx", b"no", "cannot be loaded by ONNX Runtime"),
        ("model.pt", b"no", "is not a file of plain tensors, or is incomplete"),
        ("missing.pt", None, "does not exist"),
        ("condensenet-86", None, "no weights are published for condensenet-86"),
    ],
)
def test_what_holds_no_network_is_named_in_one_line(tmp_path, monkeypatch, name, content, message):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(name).write_bytes(content)
    with pytest.raises((ValueError, OSError), match=message) as error:
        load(name)
    assert "\n" not in str(error.value)


def test_a_folder_with_an_onnx_file_alone_is_that_file_and_a_model_beside_it_comes_first(model, tmp_path):
    released = Path(__file__).parents[2] / "release/cifar10-short-g4-c4"
    loaded = load(released)
    assert isinstance(loaded, OnnxModel)
    assert loaded.path == released / "model.onnx"
    (tmp_path / "model.onnx").write_bytes(b"not read")
    save_model(model, tmp_path / "model.pt")
    assert torch.equal(load(tmp_path)(X), model(X))


def test_a_folder_without_a_network_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"holds no network: none of model\.pt, config\.json and model\.onnx is in"):
        load(tmp_path)
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="it is a list"):
        load(tmp_path / "list.pt")


# Preprocessing and predictions


def test_preprocessing_survives_json_and_metadata():
    assert Preprocessing.from_dict(json.loads(json.dumps(PREPROCESSING.as_dict()))) == PREPROCESSING
    metadata = {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in PREPROCESSING.as_dict().items()
    }
    assert Preprocessing.from_metadata(metadata) == PREPROCESSING
    assert Preprocessing.from_metadata({"classes": "[]"}) is None
    with pytest.raises(ValueError, match="mean=1 is not allowed: it must be a list"):
        Preprocessing.from_metadata({**metadata, "mean": "1"})
    for text in ("[" * 200_000, "no"):
        with pytest.raises(ValueError, match="preprocessing: the metadata is not JSON"):
            Preprocessing.from_metadata({**metadata, "mean": text})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resize_shorter": 15}, "resize_shorter=15 is not allowed: it must be image_size=16 or more"),
        ({"channels": 2}, "channels=2 is not allowed"),
        ({"mean": (0.5,)}, "for each of the 3 channels"),
        ({"mean": (0.5, float("nan"), 0.5)}, "for each of the 3 channels"),
        ({"mean": (0.5, 10**400, 0.5)}, r"a number in \[-1000000, 1000000\] for each of the 3 channels"),
        ({"std": (float("inf"), 1.0, 1.0)}, "for each of the 3 channels"),
        ({"classes": "abc"}, "classes='abc' is not allowed: it must be a list"),
        ({"std": (0.0, 1.0, 1.0)}, "it must be above 0"),
        ({"crop": "top"}, "crop='top' is not allowed: center$"),
        (
            {"image_size": 10**5, "resize_shorter": 10**5},
            r"image_size=100000 is not allowed: it must be in \[1, 4096\]",
        ),
        ({"classes": ("a", 3)}, "the names must be texts"),
    ],
)
def test_preprocessing_that_cannot_be_applied_is_rejected(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PREPROCESSING, **change)
    with pytest.raises(ValueError, match="preprocessing: "):
        Preprocessing.from_dict({"size": 3})


def test_images_are_prepared_as_in_the_evaluation_of_training(tmp_path):
    """By hand: without a margin, pixels of the right size are only normalised; others as the data's reader has them."""
    small = torch.arange(3 * 16 * 16, dtype=torch.uint8).reshape(3, 16, 16)
    mean, std = (torch.tensor(values)[:, None, None] for values in (PREPROCESSING.mean, PREPROCESSING.std))
    whole = dataclasses.replace(PREPROCESSING, resize_shorter=16)
    torch.testing.assert_close(load_images([small], whole)[0], (small / 255 - mean) / std)

    from condensenet.data import PreparedWriter

    photos = [photo(tmp_path / f"{number}.png", (50 + number, 30), number) for number in range(3)]
    histogram = np.ones((3, 256), dtype=np.int64)
    with PreparedWriter(
        tmp_path / "data", name="photos", classes=CLASSES, encoding="encoded", image_size=16, channels=3
    ) as writer:
        for split in ("train", "test"):
            for label, path in enumerate(photos):
                writer.splits[split].add(path.read_bytes(), label)
        writer.histogram_CV += histogram
        writer.finish()
    data = PreparedData(tmp_path / "data")
    ((expected, _),) = evaluation_batches(data.split("test"), 8)
    assert torch.equal(load_images(photos, data.manifest.preprocessing), expected)


def test_predictions_are_the_likeliest_classes_by_name(model, tmp_path):
    picture = photo(tmp_path / "photo.jpg", (40, 30))
    model.train()
    ((best, second),) = predict(model, [picture], top=2)
    assert model.training  # as before
    probabilities = model.eval()(load_images([picture], PREPROCESSING))[0].softmax(dim=0)
    assert best.name == CLASSES[int(probabilities.argmax())]
    assert best.probability == pytest.approx(float(probabilities.max()))
    assert second.probability <= best.probability
    assert len(predict(model, [picture.read_bytes()])[0]) == 3  # all classes, if there are fewer than five
    model.reset_classifier(4)
    assert predict(model, [picture], top=1)[0][0].name in "0123"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_other_types_predict_and_are_exported_as_float32(model, tmp_path, dtype):
    picture = photo(tmp_path / "photo.jpg", (40, 30))
    ((expected, *_),) = predict(model, [picture])
    other = convert(model.to(dtype))
    ((best, *_),) = predict(other, [picture])
    assert best.probability == pytest.approx(expected.probability, abs=0.02)
    export_onnx(other, tmp_path / "model.onnx", PREPROCESSING.image_size)
    differences = compare_onnx(other, tmp_path / "model.onnx", [load_images([picture], PREPROCESSING)])
    assert differences.max_relative < 1e-4


def test_weights_that_no_file_could_be_loaded_with_are_not_saved(model, tmp_path):
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = float("nan")
    with pytest.raises(ValueError, match="has a value that is not finite"):
        save_model(model, tmp_path / "model.pt")
    assert list(tmp_path.iterdir()) == []


def test_predictions_that_cannot_be_made_are_errors(model, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"text.jpg cannot be decoded"):
        predict(model, [tmp_path / "text.jpg"])
    with pytest.raises(ValueError, match="images must be a list"):
        predict(model, "photo.jpg")
    with pytest.raises(ValueError, match="top=0 is not allowed"):
        predict(model, [], top=0)
    with pytest.raises(ValueError, match=r"uint8 \(3, height, width\)"):
        predict(model, [torch.zeros(1, 4, 4, dtype=torch.uint8)])
    for shape in ((3, 0, 4), (3, 1, 41), (3, 10**6, 1)):
        with pytest.raises(ValueError, match=f"{shape[2]}x{shape[1]} pixels: one side is more than 40 times the other"):
            predict(model, [torch.zeros(shape, dtype=torch.uint8)])
    model.preprocessing = None
    with pytest.raises(ValueError, match="does not say how images are prepared"):
        predict(model, [tmp_path / "text.jpg"])


# The Hub and torch.hub


@pytest.mark.parametrize("form", ["training", "grouped"])
def test_a_folder_for_the_hub_holds_all_of_a_model(model, tmp_path, form):
    pytest.importorskip("safetensors", reason="safetensors is not installed (extra hub)")
    saved = model if form == "training" else convert(model)
    save_pretrained(saved, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    for loaded in (from_pretrained(tmp_path), load(tmp_path), load(tmp_path / "model.safetensors")):
        assert (loaded.config, loaded.form, loaded.preprocessing) == (saved.config, form, PREPROCESSING)
        assert torch.equal(loaded(X), saved(X))
    card = (tmp_path / "README.md").read_text()
    assert "cat, dog, emu" in card
    assert "library_name: condensenet" in card
    assert f'load("{tmp_path}")' in card
    assert "license" not in card
    (tmp_path / "README.md").write_text("my own\n")
    save_pretrained(saved, tmp_path)
    assert (tmp_path / "README.md").read_text() == "my own\n"


def test_a_card_for_the_hub_names_the_repository_and_only_what_is_known(model):
    assert "predict(model" in model_card(model, "hf-hub:me/net", "apache-2.0")
    model.preprocessing = None
    card = model_card(model, "hf-hub:me/net", "apache-2.0")
    assert 'load("hf-hub:me/net")' in card
    assert "license: apache-2.0" in card
    assert "predict(" not in card


def test_a_folder_that_is_no_model_of_the_hub_is_one_line(tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed (extra hub)")
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"form": "training", "config": dataclasses.asdict(CONFIG)}))
    (tmp_path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="does not hold a model of this library") as error:
        from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


def test_torch_hub_finds_the_networks(checkout, model, tmp_path):
    made = torch.hub.load(str(checkout), "condensenet_50", source="local", num_classes=4)
    assert made.num_classes == 4
    save_model(model, tmp_path / "model.pt")
    assert torch.hub.load(str(checkout), "load", str(tmp_path / "model.pt"), source="local").form == "training"


def test_the_version_is_that_of_the_package():
    assert version("condensenet") == condensenet.__version__
    assert (Path(condensenet.__file__).parent / "py.typed").is_file()


def test_images_of_the_inputs_size_are_used_whole(tmp_path):
    """As they are in evaluation; a larger one of the same content is resized to that size, without a margin."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3, 16, 16), dtype=np.uint8)
    write_prepared(
        tmp_path, {name: (pixels, [0, 1, 2] * 2) for name in ("train", "test")}, name="noise", classes=CLASSES
    )
    data = PreparedData(tmp_path)
    preprocessing = data.manifest.preprocessing
    assert preprocessing.resize_shorter == 16
    ((expected, _),) = evaluation_batches(data.split("test"), 8)
    assert torch.equal(load_images(list(torch.from_numpy(pixels)), preprocessing), expected)
    doubled = torch.full((3, 32, 32), 51, dtype=torch.uint8)
    doubled[:, :, 16:] = 204
    view = load_images([doubled], preprocessing)[0]
    mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
    halves = [(torch.tensor(value / 255) - mean) / std for value in (51, 204)]
    torch.testing.assert_close(view[:, 0, 0], halves[0])
    torch.testing.assert_close(view[:, 0, -1], halves[1])


def test_names_of_classes_are_escaped():
    strange = dataclasses.replace(PREPROCESSING, classes=("a\x1b[2J", "b\n", "c"))
    assert strange.classes == (r"a\x1b[2J", r"b\n", "c")


def test_other_weights_beside_a_model_are_not_taken_for_it(tmp_path):
    (tmp_path / "other.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"other\.safetensors cannot be loaded by itself: its folder must hold model"):
        load(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    "content",
    [
        {"fingerprint": [], "environment": {}, "trainer": {"model": {}}},
        {"fingerprint": {}, "environment": {}, "trainer": {}},
        {"fingerprint": {"model.block_depths": [2]}, "environment": {}, "trainer": {"model": {}}},
        {
            "fingerprint": {"model.block_depths": [9], "model.growth_rates": [4096]},
            "environment": {},
            "trainer": {"model": {}},
        },
    ],
)
def test_a_damaged_checkpoint_is_one_line(content, tmp_path):
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"checkpoint\.pt (is not a checkpoint|does not hold the model)") as error:
        load(tmp_path / "checkpoint.pt")
    assert "\n" not in str(error.value)
