"""One's own images: what is found in a folder, what is chosen for it, and what mistakes are told in one line."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from ruamel.yaml import YAML

from cli import finished, recipe, training
from cli.dataset import Dataset, find, warning
from cli.recipe import Options
from condensenet import Preprocessing, create_model, presets, save_model
from tasks import outputs, params, paths, sources
from tasks.errors import UserError
from tasks.prepare import prepare

PHOTOS = Dataset(
    source="imagefolder",
    path=Path("photos"),
    train="train",
    test="test",
    classes=("a", "b", "c"),
    images_by_class=(16, 16, 16),
    shorter_side=375,
    square=None,
    channels=3,
)


def sources_of(dataset: Dataset) -> sources.Source:
    return sources.read(
        params.DataParams(source=dataset.source, path=str(dataset.path), train=dataset.train, test=dataset.test)
    )


def test_a_fifth_of_each_class_is_held_out_by_links(photos, tmp_path):
    dataset = find(photos, tmp_path / "run")
    assert dataset.classes == ("blue", "green", "red")
    assert sum(dataset.images_by_class) == 24 - 5
    assert set(dataset.images_by_class) == {6, 7}  # 5 of 24 in three equal classes
    assert (dataset.square, dataset.channels) == (None, 3)
    links = sorted(path for path in (tmp_path / "run/images").rglob("*") if path.is_symlink())
    assert sorted(link.resolve() for link in links) == sorted(path.resolve() for path in photos.rglob("*.*"))
    again = find(photos, tmp_path / "other")
    names = [{path.relative_to(d.path) for path in d.path.rglob("*.*")} for d in (dataset, again)]
    assert names[0] == names[1]


@pytest.mark.parametrize(("train", "test"), [("train", "val"), ("Training", "test"), ("train", "validation")])
def test_a_split_that_is_there_is_used_as_it_is(photos, tmp_path, train, test):
    root = tmp_path / "split"
    for name in (train, test):
        shutil.copytree(photos, root / name)
    dataset = find(root, tmp_path / "run")
    assert (dataset.path, dataset.train, dataset.test) == (root, train, test)
    assert dataset.images_by_class == (8, 8, 8)
    assert not (tmp_path / "run").exists()


def test_a_folder_train_alone_is_split(photos, tmp_path):
    root = tmp_path / "split"
    shutil.copytree(photos, root / "train")
    assert sum(find(root, tmp_path / "run").images_by_class) == 19


def write_parquet(photos: Path, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted(photos.rglob("*.*"))
    names = sorted({file.parent.name for file in files})
    table = pa.table(
        {
            "image": [{"bytes": file.read_bytes(), "path": file.name} for file in files],
            "label": [names.index(file.parent.name) for file in files],
        }
    )
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table.replace_schema_metadata({"class_names": json.dumps(names)}), path)


def test_parquet_files_are_split_by_rows_unless_they_are_named(photos, tmp_path):
    write_parquet(photos, tmp_path / "one/images.parquet")
    dataset = find(tmp_path / "one", tmp_path / "run")
    assert (dataset.source, sum(dataset.images_by_class)) == ("parquet", 19)
    assert len(sources_of(dataset).test.labels) == 5
    write_parquet(photos, tmp_path / "odd/cats, dogs [1].parquet")  # no list of names and no glob
    assert sum(find(tmp_path / "odd", tmp_path / "odd-run").images_by_class) == 19
    for name in ("train-0", "val-0"):
        write_parquet(photos, tmp_path / f"two/{name}.parquet")
    dataset = find(tmp_path / "two", tmp_path / "run")
    assert (dataset.train, dataset.test) == ("train*.parquet", "val*.parquet")
    (tmp_path / "two/train-0.parquet").unlink()
    with pytest.raises(UserError, match=r"but no train\*\.parquet"):
        find(tmp_path / "two", tmp_path / "run")


def test_rows_are_split_once_and_anew_when_the_files_change(photos, tmp_path):
    import pyarrow.parquet as pq

    folder, split = tmp_path / "one", tmp_path / "run/images"
    write_parquet(photos, folder / "a.parquet")
    write_parquet(photos, folder / "b.parquet")
    pq.write_table(pq.read_table(folder / "b.parquet"), folder / "b.parquet", row_group_size=4)
    find(folder, tmp_path / "run")
    times = {name: (split / name).stat().st_mtime_ns for name in ("train.parquet", "test.parquet")}
    find(folder, tmp_path / "run")
    assert {name: (split / name).stat().st_mtime_ns for name in times} == times
    rows = [pq.read_table(split / name).to_pylist() for name in times]
    assert sorted(map(str, rows[0] + rows[1])) == sorted(map(str, 2 * pq.read_table(folder / "a.parquet").to_pylist()))
    assert {row["label"] for row in rows[1]} == {0, 1, 2}
    (folder / "b.parquet").unlink()
    find(folder, tmp_path / "run")
    assert sum(pq.read_metadata(split / name).num_rows for name in times) == len(rows[0] + rows[1]) // 2


def test_a_class_of_two_has_a_test_image(photos, tmp_path):
    (photos / "few").mkdir()
    for name in ("1.jpg", "2.jpg"):
        shutil.copy(next((photos / "red").glob("*.jpg")), photos / "few" / name)
    read = sources_of(find(photos, tmp_path / "run"))
    few = read.classes.index("few")
    assert [np.bincount(part.labels)[few] for part in (read.train, read.test)] == [1, 1]


def test_hidden_files_of_macos_are_no_images(photos, tmp_path):
    for file in [*photos.rglob("*.jpg")]:
        file.with_name(f"._{file.name}").write_bytes(b"not an image")
    read = sources_of(find(photos, tmp_path / "run"))
    assert (len(read.train.labels), len(read.test.labels)) == (19, 5)


def test_folders_called_like_images_and_hidden_folders_hold_no_image_more(photos, tmp_path):
    """As in an ``imagefolder`` that is split already."""
    (photos / "red/0.jpg").unlink()
    for name in ("red/0.jpg", "red/.ipynb_checkpoints"):
        (photos / name).mkdir()
        shutil.copy(photos / "blue/0.jpg", photos / name / "copy.jpg")
    read = sources_of(find(photos, tmp_path / "run"))
    assert len(read.train.labels) + len(read.test.labels) == 24  # with the one in the folder red/0.jpg
    assert not list((tmp_path / "run").rglob(".ipynb_checkpoints"))


@pytest.mark.parametrize("split", [False, True])
def test_photographs_in_other_formats_are_counted(photos, tmp_path, capsys, split):
    for name in ("blue/a.heic", "red/b.HEIC", "red/c.bmp", "red/._d.bmp", "red/notes.txt"):
        (photos / name).touch()
    root = photos
    if split:
        root = tmp_path / "split"
        shutil.copytree(photos, root / "train")
        shutil.copytree(photos, root / "test", ignore=shutil.ignore_patterns("*.heic", "*.HEIC", "*.bmp"))
    find(root, tmp_path / "run")
    line = "3 files are left out (.heic 2, .bmp 1): JPEG, PNG, GIF and WebP are read\n"
    assert capsys.readouterr().out == line


def test_a_folder_val_beside_train_and_test_is_named(photos, tmp_path, capsys):
    for name in ("train", "test", "val"):
        shutil.copytree(photos, tmp_path / "split" / name)
    assert find(tmp_path / "split", tmp_path / "run").test == "test"
    assert capsys.readouterr().out == "val is not used: the test images are those in test\n"


def test_parquet_files_that_are_split_give_no_warning(photos, tmp_path, capsys):
    write_parquet(photos, tmp_path / "one/images.parquet")
    find(tmp_path / "one", tmp_path / "run")
    assert capsys.readouterr().out == ""
    sources.read(params.DataParams(source="parquet", path=str(tmp_path / "one"), train="*.parquet", test="*.parquet"))
    assert "used for training and for testing" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["train", "Test", "val"])
def test_a_class_may_be_called_like_a_split(photos, tmp_path, name):
    (photos / "red").rename(photos / name)
    dataset = find(photos, tmp_path / "run")
    assert set(dataset.classes) == {"blue", "green", name}
    assert sum(dataset.images_by_class) == 19


def test_mistakes_in_a_folder_are_one_line(photos, tmp_path):
    def fails(message: str, folder: Path = photos) -> None:
        with pytest.raises(UserError, match=message) as error:
            find(folder, tmp_path / "run")
        assert "\n" not in str(error.value)

    fails("is not a folder", photos / "red/0.jpg")
    fails(r"has 8 images, but no folders: put the images of each class into a folder", photos / "red")
    (photos / "empty").mkdir()
    fails(r"empty has no images \(.jpg, .*each class needs two or more, or remove its folder")
    shutil.copy(photos / "red/0.jpg", photos / "empty")
    fails(r"empty has one image \(")
    for name in ("empty", "green", "blue"):
        shutil.rmtree(photos / name)
    fails("has one class only, red")
    shutil.copytree(photos, tmp_path / "split/test")
    fails("there is test, but no train", tmp_path / "split")


def test_classes_that_a_split_lacks_are_named(photos, tmp_path):
    for name in ("train", "val"):
        shutil.copytree(photos, tmp_path / "split" / name)
    shutil.rmtree(tmp_path / "split/val/green")
    with pytest.raises(UserError, match=r"the first is 'green' \(in train\)"):
        find(tmp_path / "split", tmp_path / "run")
    (tmp_path / "split/val/green").mkdir()
    for file in (tmp_path / "split/train/green").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="class green has no training image"):
        find(tmp_path / "split", tmp_path / "run")


def test_images_of_all_classes_are_looked_at(tmp_path):
    for name, count, mode, size in (("drawings", 100, "L", 40), ("photographs", 20, "RGB", 200)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(count):
            Image.new(mode, (size, size)).save(tmp_path / f"images/{name}/{number:03}.png")
    dataset = find(tmp_path / "images", tmp_path / "run")
    assert (dataset.channels, dataset.square) == (3, None)  # the first 64 are small gray squares


def test_very_uneven_classes_are_a_warning():
    assert warning(PHOTOS) is None
    line = warning(dataclasses.replace(PHOTOS, images_by_class=(200, 10, 30)))
    assert line is not None
    assert line.startswith("warning: b has 10 training images, a 200: ")


# What is chosen


@pytest.mark.parametrize(
    ("change", "size", "blocks"),
    [
        ({"square": 8, "shorter_side": 8}, 8, 3),
        ({"square": 32, "shorter_side": 32}, 32, 3),
        ({"shorter_side": 40}, 32, 3),
        ({"shorter_side": 100}, 64, 4),
        ({}, 128, 4),
        ({"images_by_class": (10_000,) * 3}, 224, 5),
    ],
)
def test_the_network_grows_with_the_images(change, size, blocks):
    dataset = dataclasses.replace(PHOTOS, **change)
    assert recipe.choose_size(dataset) == size
    network = recipe.choose_network(size)
    assert len(network.block_depths) == blocks
    assert network.min_image_size <= size


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("images", [4, 48, 1000, 100_000])
def test_a_batch_fits_the_images_and_the_workers(images, workers):
    dataset = dataclasses.replace(PHOTOS, images_by_class=(images, images, images))
    config = recipe.network(dataset, 128, Options(), None)
    content = recipe.parameters("p", dataset, Options(workers=workers), config, 128, gpus=0, cores=2)
    parsed = params.parse(content)
    (setting,) = parsed.settings.values()
    assert setting.train.batch_size % workers == 0
    assert setting.train.batch_size <= 3 * images - parsed.data.validation_images
    assert recipe.FEWEST_EPOCHS <= setting.train.epochs <= recipe.MOST_EPOCHS


def test_options_come_before_what_is_chosen():
    options = Options(model="condensenet-86", groups=2, condensation=8, epochs=3, batch_size=10, learning_rate=0.5)
    config = recipe.network(PHOTOS, 32, options, None)
    expected = dataclasses.replace(
        presets["condensenet-86"], groups_1x1=2, condensation_factor=8, num_classes=3, in_channels=3
    )
    assert config == expected
    content = recipe.parameters("p", PHOTOS, options, config, 32, gpus=0, cores=2)
    assert [content["train"][key] for key in ("epochs", "batch_size", "learning_rate")] == [3, 10, 0.5]
    assert list(content["settings"]) == ["g2-c8"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(model="resnet"), "--model resnet is not allowed: condensenet-50, "),
        (Options(groups=3), "groups_1x1=3 does not divide"),
        (Options(size=8, model="condensenet-74-g4"), "images of 8 pixels are too small for .*: --size 31 or more"),
        (Options(batch_size=9, workers=2), "must be divisible by ray.num_workers=2"),
        (Options(batch_size=10**400), "batch_size=.* is not allowed"),
        (Options(learning_rate=-1.0), "learning_rate=-1.0 is not allowed"),
    ],
)
def test_wrong_options_are_one_line_and_leave_nothing(photos, tmp_path, options, message):
    with pytest.raises(UserError, match=message) as error:
        training.run(photos, tmp_path / "run", options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_workspace_is_never_a_folder_with_other_things(photos, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("years of work")
    for out, message in ((tmp_path / "mine", "is no workspace of"), (photos / "run", "in the folder of the images")):
        with pytest.raises(UserError, match=message):
            training.run(photos, out, Options())
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_workspace_in_use_is_left_as_it_is(photos, tmp_path, monkeypatch):
    """The first training still looks at its images; it then fails, and removes only what is its own."""
    workspace, others = tmp_path / "run", []

    def find_while_another_begins(folder: Path, into: Path) -> Dataset:
        if not others:
            others.append(into)
            with pytest.raises(UserError, match="run is in use by another training") as error:
                training.run(photos, workspace, Options(epochs=3))
            assert "\n" not in str(error.value)
            assert (workspace / "params.yaml").read_text() == training.HEADER
        return find(folder, into)

    monkeypatch.setattr(training, "find", find_while_another_begins)
    with pytest.raises(UserError, match="--model resnet is not allowed"):
        training.run(photos, workspace, Options(model="resnet"))
    assert others == [workspace]
    assert not workspace.exists()


def test_a_missing_model_to_start_from_leaves_nothing(photos, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        training.run(photos, tmp_path / "run", Options(start=tmp_path / "none.pt"))
    assert not (tmp_path / "run").exists()


def test_fine_tuning_takes_the_network_of_the_checkpoint(photos, tmp_path):
    model = create_model("condensenet-50", num_classes=10)
    save_model(model, tmp_path / "model.pt")
    workspace = tmp_path / "run"
    options = Options(start=tmp_path / "model.pt")
    loaded, text = training.prepare_workspace(workspace, photos, options)
    (setting,) = loaded.settings.values()
    assert setting.model == dataclasses.replace(model.config, num_classes=3)
    assert setting.initial == "initial.pt"
    assert YAML(typ="safe", pure=True).load(text) == YAML(typ="safe", pure=True).load(workspace / "params.yaml")
    assert params.load(workspace / "params.yaml") == loaded
    with pytest.raises(UserError, match="--groups is not allowed with --from"):
        training.run(photos, tmp_path / "other", dataclasses.replace(options, groups=2))


def test_fine_tuning_goes_on_at_the_size_of_the_checkpoints_images(photos, tmp_path):
    model = create_model("condensenet-50", num_classes=10)
    model.preprocessing = Preprocessing(image_size=24, resize_shorter=27, channels=3, mean=(0,) * 3, std=(1,) * 3)
    save_model(model, tmp_path / "model.pt")
    options = Options(start=tmp_path / "model.pt")
    loaded, _ = training.prepare_workspace(tmp_path / "run", photos, options)
    assert loaded.data.image_size == 24
    loaded, _ = training.prepare_workspace(tmp_path / "given", photos, dataclasses.replace(options, size=32))
    assert loaded.data.image_size == 32


def test_a_photograph_whose_text_is_too_large_leaves_no_workspace_behind(photos, tmp_path):
    text = PngInfo()
    text.add_text("comment", "x" * 2_000_000, zip=True)
    Image.new("RGB", (50, 50)).save(photos / "red/text.png", pnginfo=text)
    workspace = tmp_path / "run"
    training.prepare_workspace(workspace, photos, Options())  # prepare names it, and counts it as --max-corrupt says
    assert (workspace / "params.yaml").exists()


def pretend_it_was_trained(workspace: Path, loaded: params.Params, text: str) -> None:
    """Leave what the stages prepare and train leave, as far as it is looked at."""
    outputs.write_json(workspace / loaded.paths.data / paths.MANIFEST, {"fingerprint": "of the images"})
    assert not finished.check_images(workspace, text, loaded)  # as the command does before it trains
    (setting,) = loaded.settings.values()
    out = workspace / loaded.paths.setting("train", setting.name)
    outputs.write_json(out / paths.RUN, {"execution_id": "1"})
    outputs.write_json(out / paths.METRICS, {})


def test_a_finished_model_is_not_replaced_by_another(photos, tmp_path):
    workspace = tmp_path / "run"
    loaded, text = training.prepare_workspace(workspace, photos, Options())
    assert not finished.is_finished(workspace)
    pretend_it_was_trained(workspace, loaded, text)
    training.prepare_workspace(workspace, photos, Options())  # the same
    assert finished.check_images(workspace, text, loaded)
    with pytest.raises(UserError, match="holds a model that was trained otherwise"):
        training.prepare_workspace(workspace, photos, Options(epochs=2))
    outputs.write_json(workspace / loaded.paths.data / paths.MANIFEST, {"fingerprint": "of others"})
    with pytest.raises(UserError, match="was trained on other images: some were changed since"):
        finished.check_images(workspace, text, loaded)


def test_a_finished_model_is_not_replaced_by_one_tuned_from_another_file(photos, tmp_path):
    workspace = tmp_path / "run"
    for name in ("first", "second"):
        save_model(create_model("condensenet-50", num_classes=10), tmp_path / f"{name}.pt")
    pretend_it_was_trained(
        workspace, *training.prepare_workspace(workspace, photos, Options(start=tmp_path / "first.pt"))
    )
    kept = (workspace / finished.INITIAL).read_bytes()
    with pytest.raises(UserError, match="was trained from another model than --from gives"):
        training.prepare_workspace(workspace, photos, Options(start=tmp_path / "second.pt"))
    assert (workspace / finished.INITIAL).read_bytes() == kept


def test_a_training_is_finished_once_its_outputs_are_there_and_its_checkpoints_are_not(photos, tmp_path):
    workspace = tmp_path / "run"
    loaded, text = training.prepare_workspace(workspace, photos, Options())
    pretend_it_was_trained(workspace, loaded, text)
    in_progress = workspace / "state/train/photos/g4-c4"
    outputs.write_json(in_progress / "0123" / paths.RUN, {"execution_id": "another, interrupted"})
    assert finished.is_finished(workspace)
    outputs.write_json(in_progress / "4567" / paths.RUN, {"execution_id": "1"})  # killed before it could remove them
    assert not finished.is_finished(workspace)
    shutil.rmtree(in_progress)
    other, text = training.prepare_workspace(tmp_path / "run", photos, Options())
    assert finished.is_finished(workspace)
    (workspace / finished.TRAINING).unlink()  # begun anew: what an earlier training left is not its end
    assert not finished.check_images(workspace, text, other)
    assert not finished.is_finished(workspace)


def test_what_is_chosen_can_be_prepared(photos, tmp_path, monkeypatch):
    loaded, _ = training.prepare_workspace(tmp_path / "run", photos, Options())
    monkeypatch.chdir(tmp_path / "run")
    manifest = prepare(loaded, loaded.paths.data)
    assert dict(manifest.splits) == {"train": 19, "validation": 0, "test": 5}
    assert np.allclose(manifest.preprocessing.mean, manifest.mean)
    assert manifest.preprocessing.image_size == loaded.data.image_size == 32


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("photos", "photos"),
        ("my photos (2)", "my-photos-2"),
        ("2024-photos", "images-2024-photos"),
        ("Tables", "images-Tables"),
        ("no", "images-no"),
        ("ü", "images"),
        ("x" * 300, "x" * 100),
    ],
)
def test_a_study_is_named_like_its_folder(folder: str, name: str) -> None:
    assert recipe.study_name(Path(folder)) == name
    assert re.match(params.NAME_PATTERN, name)
