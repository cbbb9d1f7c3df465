"""What a study takes: counted by hand for small ones, and against what layers really keep."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from image_bytes import encoded
from image_sources import picture as picture_of
from image_sources import shards, tree

from condensenet.config import AugmentConfig, ModelConfig
from condensenet.models import kernels
from condensenet.models.condensenet import CondenseNet
from tasks import params
from tasks.errors import UserError
from tasks.params import DataParams, Params, RayParams
from tasks.planning import machine, measuring
from tasks.planning import plan as planning
from tasks.planning.measuring import Rate
from tasks.planning.plan import Images, SettingPlan
from tasks.sources import imagefolder
from tasks.sources.base import split_training_images
from tasks.sources.space import check_space
from tasks.sources.write_streams import write_streams

SMALL = ModelConfig(block_depths=(2, 2), growth_rates=(8, 16), num_classes=10)
IMAGES = Images(train=6000, validation=0, test=900, bytes_each=100.0)


@pytest.fixture
def digits(checkout: Path) -> Params:
    return params.load(checkout / "params.yaml")


def plan(rate: Rate | None = None, **changes: object) -> SettingPlan:
    made = SettingPlan(
        name="g4-c4",
        workers=2,
        parameters=1000,
        training_macs=1,
        exported_macs=1,
        epochs=10,
        epoch_areas=(1.0,) * 10,
        steps=100,
        memory_bytes=5e9,
        checkpoint_bytes=24_000,
        rate=rate,
    )
    return replace(made, **changes)


def test_activations_by_hand() -> None:
    """Each norm and convolution keeps its input, the pool and the last norm too; a layer widens to 4 k channels."""
    first = 2 * (16 + 32) + 2 * (24 + 32) + 32  # two layers and the pool, 32x32
    second = 2 * (32 + 64) + 2 * (48 + 64) + 2 * 64  # two layers and the last norm, 16x16
    by_hand = 4 * ((3 + first) * 32**2 + second * 16**2)
    assert measuring.activation_bytes(CondenseNet(SMALL), 32) == pytest.approx(by_hand, rel=1e-3)


def test_activations_grow_with_the_area_and_shrink_with_half_the_precision() -> None:
    small, large = (measuring.activation_bytes(CondenseNet(SMALL), size) for size in (32, 64))
    assert large == pytest.approx(4 * small, rel=0.05)
    assert measuring.activation_bytes(CondenseNet(SMALL), 32, "bf16") < 0.8 * small


def test_hours_by_hand() -> None:
    assert plan().hours(IMAGES) is None
    rate = Rate(images_per_s=10.0, source="given")
    assert plan(rate, decoded_per_s=5.0).hours(IMAGES) == pytest.approx(10 * (6000 + 900) / 10 / 3600)
    assert plan(rate, decoded_per_s=50.0).hours(IMAGES) == plan(rate).hours(IMAGES)
    assert plan(rate).hours(IMAGES) == pytest.approx(10 * (6000 + 300) / 20 / 3600)
    on_gpu = plan(rate, decoded_per_s=5.0, gpu_decoding=True)  # which does not decode test images
    assert on_gpu.hours(IMAGES) == pytest.approx(10 * (6000 / 10 + 900 / 5) / 2 / 3600)
    held_out = replace(IMAGES, validation=600)
    assert plan(rate).hours(held_out) == pytest.approx(10 * (6000 + 200) / 20 / 3600)


@pytest.fixture
def growing(checkout: Path, tmp_path: Path) -> Params:
    """128, 160 and 192 pixels for a third of the epochs each, tests at 224."""
    from dvc.utils.hydra import compose_and_dump

    file = tmp_path / "params.yaml"
    changes = ["study=imagenet-modern", "train.epochs=90"]
    compose_and_dump(file, str(checkout / "conf"), None, "config", str(checkout), changes)
    return params.load(file)


def grown(params: Params, images: Images, images_per_s: float) -> SettingPlan:
    setting = next(iter(params.settings.values()))
    return planning.plan_setting(params, setting, images, Rate(images_per_s=images_per_s, source="given"))


def test_images_that_grow_count_by_their_area(growing: Params) -> None:
    images = Images(train=900_000, validation=0, test=50_000, bytes_each=1.0)
    made = replace(grown(growing, images, 1000.0), decoded_per_s=None)
    trained = 30 * 900_000 * (128**2 + 160**2 + 192**2) / 192**2
    tested = 90 * 50_000 * (224 / 192) ** 2 / 3
    assert made.hours(images) == pytest.approx((trained + tested) / 1000 / growing.ray.max_workers / 3600)


def test_decoding_takes_as_long_for_a_small_crop(growing: Params) -> None:
    """1,500 images/s of 192 pixels are 2,160 of 160 and 3,375 of 128, 3,306 test images; 2,400 are loaded."""
    images = Images(train=900_000, validation=0, test=50_000, bytes_each=1.0)
    seconds = 30 * 900_000 * (1 / 2400 + 1 / 2160 + 1 / 1500) + 90 * 50_000 / 2400
    made = replace(grown(growing, images, 1500.0), decoded_per_s=2400.0)
    assert made.hours(images) == pytest.approx(seconds / 8 / 3600)
    only_loading = replace(grown(growing, images, 4000.0), decoded_per_s=2400.0)
    assert only_loading.hours(images) == pytest.approx(90 * 950_000 / 2400 / 8 / 3600)


def test_the_images_of_a_known_source_need_no_files(digits: Params) -> None:
    images = planning.count_images(digits)
    assert (images.train, images.validation, images.test) == (1257, 180, 360)
    assert images.total_bytes == 64 * 1797


def test_the_images_of_a_parquet_source_are_counted(digits: Params, tmp_path: Path) -> None:
    shards(tmp_path)
    files = {"source": "parquet", "path": str(tmp_path), "train": "train.parquet", "test": "test.parquet"}
    images = planning.count_images(replace(digits, data=replace(digits.data, **files, validation_images=2)))
    assert (images.train, images.validation, images.test) == (10, 2, 6)
    few = replace(digits.data, **files, validation_images=2, train_images=4)
    assert planning.count_images(replace(digits, data=few)).train == 4


@pytest.mark.parametrize("form", [{}, {"shorter_side": 100}, {"shorter_side": 100, "raw": True}])
def test_the_disk_is_what_the_prepared_images_take(digits: Params, tmp_path: Path, form: dict) -> None:
    picture = encoded(picture_of(1, 300, 200))
    files = {f"{part}/{name}/{index}.jpg": picture for part in ("train", "test") for name in "ab" for index in range(9)}
    tree(tmp_path / "raw", files)
    data = DataParams(source="imagefolder", path=str(tmp_path / "raw"), image_size=100, **form)
    expected = planning.count_images(replace(digits, data=data)).total_bytes
    source = imagefolder.read(data)
    write_streams("it", data, source, *split_training_images(source.train.labels, data), tmp_path / "out")
    assert expected == pytest.approx(sum(file.stat().st_size for file in (tmp_path / "out").iterdir()), rel=0.15)


def test_the_disk_of_what_is_not_here_is_estimated(digits: Params) -> None:
    """By the figures of docs/RESULTS.md: 107, 27, 42 and 259 KB an image."""
    for form, kilobytes in ((None, False), 107), ((256, False), 27), ((320, False), 42), ((256, True), 259):
        data = replace(
            digits.data, source="parquet", path="not-here", image_size=224, channels=3, augment=AugmentConfig()
        )
        data = replace(data, shorter_side=form[0], raw=form[1])
        images = planning.count_images(replace(digits, data=data), (1000, 10))
        assert images.bytes_each == pytest.approx(1000 * kilobytes, rel=0.02)


@pytest.mark.parametrize(
    ("form", "per_s"),
    [
        ({}, 544),
        ({"shorter_side": 320}, 943),
        ({"shorter_side": 256}, 1201),
        ({"shorter_side": 256, "raw": True}, 3050),
        ({"augment": AugmentConfig(crop="resized", randaugment=2)}, 1 / (1 / 544 + 0.0008)),
        ({"image_size": 32}, None),
        ({"source": "digits", "path": None}, None),
    ],
)
def test_a_core_decodes_as_many_photographs_as_were_measured(form: dict, per_s: int | None) -> None:
    data = DataParams(**{"source": "imagefolder", "path": "not-here", "image_size": 224, **form})
    assert planning.decoded_per_core_s(data) == pytest.approx(per_s)


def test_the_plan_s_rates_of_loading_are_those_of_the_tracked_measurement(checkout: Path) -> None:
    rows = json.loads((checkout / "benchmarks/results/data_throughput.json").read_text())
    measured = {row["side"]: row.get("images_s_core") for row in rows}
    sides = {"as is": "as is", "320": "shorter side 320", "256": "shorter side 256", "raw": "raw, shorter side 256"}
    for form, planned in planning.DECODED_PER_CORE_S.items():
        assert planned == pytest.approx(measured[f"ours, {sides[form]}"], rel=0.01)


@pytest.mark.parametrize(
    ("cores", "address", "expected", "line"),
    [
        (64, "", 8, None),
        (32, "", 4, "64 loading threads on 32 cores of this machine: they load as 32 would."),
        (2, "", 0.25, "64 loading threads on 2 cores of this machine: they load as 2 would."),
        (2, "10.0.0.1:6379", 8, None),
    ],
)
def test_threads_load_no_more_than_the_cores_of_one_machine(
    cores: int, address: str, expected: float, line: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(machine, "usable_cores", lambda: cores)
    ray = RayParams(num_workers=8, threads_per_worker=8)
    assert machine.loading_cores(ray) == expected
    assert machine.too_few_cores(ray) == line


def test_training_images_of_another_size_are_counted(digits: Params) -> None:
    images, setting = planning.count_images(digits), digits.settings["g4-c4"]
    larger = replace(digits, data=replace(digits.data, augment=AugmentConfig(crop="resized", crop_size=16)))
    plain, large = (planning.plan_setting(each, setting, images, None) for each in (digits, larger))
    assert large.exported_macs == plain.exported_macs
    assert large.training_macs > 3 * plain.training_macs
    assert large.memory_bytes > 2 * plain.memory_bytes


def test_a_source_that_is_not_here_needs_its_numbers(digits: Params) -> None:
    away = replace(digits, data=replace(digits.data, source="parquet", path="not-here"))
    with pytest.raises(UserError, match=r"data\.path=not-here does not exist: .*--images TRAIN,TEST"):
        planning.count_images(away)
    assert planning.count_images(away, (1000, 10)).train == 820
    with pytest.raises(UserError, match="validation_images=180"):
        planning.count_images(away, (180, 10))


def test_a_setting_of_the_digits(digits: Params) -> None:
    made = planning.plan_setting(digits, digits.settings["g4-c4"], planning.count_images(digits), None)
    assert made.steps == 16 * (1257 // 64)
    assert made.parameters == sum(value.numel() for value in CondenseNet(digits.settings["g4-c4"].model).parameters())
    assert made.exported_macs < made.training_macs
    assert made.checkpoint_bytes == 3 * 2 * 4 * made.parameters
    with pytest.raises(UserError, match="batch_size=64 is not allowed with 63 training images"):
        planning.plan_setting(digits, digits.settings["g4-c4"], replace(IMAGES, train=63), None)


def test_a_measured_rate_is_of_this_machine(digits: Params) -> None:
    rate = measuring.measure_rate(digits, digits.settings["g4-c4"])
    assert rate.images_per_s > 1
    assert rate.source == "measured here now: 1 CPU threads, batches of 32, dense network, images already decoded"


def test_a_rate_is_measured_with_more_workers_than_images_and_with_graphs(digits: Params) -> None:
    elastic = replace(digits, ray=replace(digits.ray, num_workers=(1, 100)))
    setting = digits.settings["g4-c4"]
    setting = replace(setting, train=replace(setting.train, batch_size=8, gradient_accumulation=2, cuda_graph=True))
    assert measuring.measure_rate(elastic, setting).source.startswith("measured here now: 1 CPU threads, batches of 2,")


def test_a_rate_is_measured_of_a_training_shorter_than_the_measurement(digits: Params) -> None:
    setting = digits.settings["g4-c4"]
    growing = replace(
        digits, data=replace(digits.data, augment=AugmentConfig(crop="resized", crop_size=8, first_crop_size=8))
    )
    assert measuring.measure_rate(growing, replace(setting, train=replace(setting.train, epochs=1))).images_per_s > 1


def test_memory_is_that_of_the_fewest_workers(digits: Params) -> None:
    plans = [
        planning.plan_setting(replace(digits, ray=replace(digits.ray, num_workers=workers)), setting, IMAGES, None)
        for setting in [digits.settings["g4-c4"]]
        for workers in (2, (2, 8))
    ]
    assert plans[0].memory_bytes == plans[1].memory_bytes


def test_what_does_not_fit_is_named(digits: Params) -> None:
    on_gpus = replace(digits, ray=replace(digits.ray, use_gpu=True, num_workers=4))
    lines = planning.what_cannot_fit([plan()], IMAGES, on_gpus, free_bytes=1000, gpu_bytes=[4e9, 8e9])
    assert lines[0] == "disk: 783 kB are needed, 1 kB are free"
    assert lines[1] == "GPUs: ray.num_workers=4, and there are 2"
    assert lines[2].startswith("g4-c4: a worker needs at least 5 GB of GPU memory, and there are 4 GB")
    assert planning.what_cannot_fit([plan()], IMAGES, digits, free_bytes=1e9, gpu_bytes=[]) == []


def test_memory_that_all_workers_need_together_is_compared(digits: Params) -> None:
    """The fewest workers that the study starts with, of 5 TB each."""
    elastic = replace(digits, ray=replace(digits.ray, num_workers=(3, 8)))
    large, room = plan(memory_bytes=5e12), {"free_bytes": 1e9, "gpu_bytes": []}
    expected = "g4-c4: 3 workers need at least 15 TB of memory, and 14.9 TB are free: a smaller train.batch_size"
    (line,) = planning.what_cannot_fit([large], IMAGES, elastic, **room, memory_bytes=14.9e12)
    assert line.startswith(expected)
    assert planning.what_cannot_fit([large], IMAGES, elastic, **room, memory_bytes=15.1e12) == []


@pytest.mark.parametrize(("use_gpu", "address"), [(False, ""), (False, "10.0.0.1"), (True, ""), (True, "10.0.0.1")])
def test_only_the_memory_of_the_machine_that_trains_counts(
    digits: Params, use_gpu: bool, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(machine, "usable_memory", lambda: 12_345)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    params = replace(digits, ray=replace(digits.ray, use_gpu=use_gpu))
    assert machine.memory_here(params) == (math.inf if use_gpu or address else 12_345)
    assert (machine.unchecked_gpus(params) is not None) == (use_gpu and not address)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert machine.unchecked_gpus(params) is None


def test_a_worker_on_the_cpu_keeps_what_its_kernels_keep(digits: Params) -> None:
    """By ``CONDENSENET_KERNELS=off`` as much as on a GPU; with the kernels, where they are built, less."""
    images = planning.count_images(digits)
    params = {on: replace(digits, ray=replace(digits.ray, use_gpu=on)) for on in (True, False)}
    gpu, cpu = (planning.plan_setting(params[on], digits.settings["g4-c4"], images, None) for on in (True, False))
    with measuring.without_kernels():
        layers = planning.plan_setting(params[False], digits.settings["g4-c4"], images, None)
    assert layers.memory_bytes == gpu.memory_bytes
    assert cpu.memory_bytes < 0.8 * gpu.memory_bytes if kernels.available() else cpu.memory_bytes == gpu.memory_bytes


def test_images_are_given_the_margin_that_prepare_asks_for(
    digits: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk where the plan says that they fit, ``prepare`` does not refuse them: 1,000 bytes need 1,100."""
    disk = shutil.disk_usage(tmp_path)._replace(free=1100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)
    no_checkpoints, room = plan(checkpoint_bytes=0.0), {"free_bytes": machine.free_disk(), "gpu_bytes": []}
    images = Images(train=10, validation=0, test=0, bytes_each=100.2)
    assert planning.what_cannot_fit([no_checkpoints], images, digits, **room)
    with pytest.raises(UserError, match="the prepared images need about"):
        check_space(tmp_path, images.total_bytes)
    fits = replace(images, bytes_each=99.8)
    assert not planning.what_cannot_fit([no_checkpoints], fits, digits, **room)
    check_space(tmp_path, fits.total_bytes)
