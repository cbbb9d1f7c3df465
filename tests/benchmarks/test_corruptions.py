"""Corruptions of images: each by a property that is computed by hand, and a run on a study."""

from __future__ import annotations

import io
import json
import math
from argparse import Namespace
from pathlib import Path

import exported_study
import markdown_tables
import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import corruptions
from benchmarks.corruptions import CORRUPTIONS
from benchmarks.pages import paper_tables
from condensenet import export_onnx, load_model
from condensenet.data import PreparedData
from tasks import paths

GREY = torch.full([4, 3, 32, 32], 0.5)


@pytest.fixture
def photographs() -> torch.Tensor:
    """Smooth random images: (8, 3, 32, 32)."""
    coarse = torch.rand(8, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(coarse, size=32, mode="bicubic").clamp(0, 1)


def by(corruption: corruptions.Corruption, images: torch.Tensor, strength: float) -> torch.Tensor:
    return corruption(images, strength, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda corruption: corruption.__name__)
def test_the_first_severity_moves_images_least_and_the_last_most(
    corruption: corruptions.Corruption, photographs: torch.Tensor
) -> None:
    moved = [(by(corruption, photographs, strength) - photographs).abs().mean() for strength in CORRUPTIONS[corruption]]
    assert 0 < moved[0] == min(moved) < moved[-1] == max(moved)


def test_noise_has_the_deviation_that_its_strength_says() -> None:
    assert by(corruptions.gaussian_noise, GREY, 0.1).std().item() == pytest.approx(0.1, rel=0.05)
    assert by(corruptions.shot_noise, GREY, 50).std().item() == pytest.approx((0.5 / 50) ** 0.5, rel=0.05)
    noisy = by(corruptions.impulse_noise, GREY, 0.07)
    for value in (0, 1):
        assert (noisy == value).float().mean().item() == pytest.approx(0.035, rel=0.15)


def test_brightness_raises_the_largest_channel_and_keeps_hue_and_saturation() -> None:
    colour = torch.tensor([0.4, 0.2, 0.1]).view(1, 3, 1, 1)
    assert by(corruptions.brightness, colour, 0.2).flatten().tolist() == pytest.approx([0.6, 0.3, 0.15])
    assert by(corruptions.brightness, torch.zeros_like(colour), 0.2).flatten().tolist() == pytest.approx([0.2] * 3)
    assert by(corruptions.brightness, colour, 0.9).flatten().tolist() == pytest.approx([1.0, 0.5, 0.25])


def test_contrast_keeps_the_mean_of_each_channel(photographs: torch.Tensor) -> None:
    less = by(corruptions.contrast, photographs, 0.4)
    assert torch.allclose(less.mean(dim=(2, 3)), photographs.mean(dim=(2, 3)), atol=1e-6)
    assert torch.allclose(less.std(dim=(2, 3)), 0.4 * photographs.std(dim=(2, 3)), atol=1e-6)


def test_pixelate_to_half_the_size_repeats_means_of_four() -> None:
    image = 2 * torch.arange(16.0).view(1, 1, 4, 4) / 255
    halved = 255 * by(corruptions.pixelate, image, 0.5)
    assert halved[0, 0].round().tolist() == [[5, 5, 9, 9], [5, 5, 9, 9], [21, 21, 25, 25], [21, 21, 25, 25]]


def test_the_same_batch_gets_the_same_noise_and_another_one_its_own(photographs: torch.Tensor) -> None:
    first, again, other = (list(corruptions.corrupted_images(photographs, batch, (2,))) for batch in (0, 0, 1))
    assert [name for name, _, _ in first] == ["none", *(corruption.__name__ for corruption in CORRUPTIONS)]
    assert all(torch.equal(one, two) for (_, _, one), (_, _, two) in zip(first, again, strict=True))
    assert not torch.equal(first[1][2], other[1][2])
    assert torch.equal(first[0][2], photographs)


def test_a_study_is_measured_on_the_first_images(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = exported_study.write_study(checkout)
    (setting,) = study.settings
    model = load_model(study.paths.setting("convert", setting) / paths.MODEL)
    export_onnx(model, study.paths.form(setting, paths.LOWERED), study.data.image_size)
    rows = list(corruptions.measure(study, Namespace(settings=None, images=3, quick=True)))
    assert len(rows) == 1 + len(CORRUPTIONS)
    assert {(row["setting"], row["images"]) for row in rows} == {(setting, 3)}
    (line,) = corruptions.summary(rows)
    assert line["clean"] == rows[0]["error_pct"]
    assert 0 <= line["mean"] <= 100


def at_each_severity(images: torch.Tensor, name: str) -> list[torch.Tensor]:
    """The images as the settings see them, by the corruption ``name`` in severities 1 to 5."""
    found = corruptions.corrupted_images(images, 0, corruptions.SEVERITIES)
    own = [(severity, image) for corruption, severity, image in found if corruption == name]
    assert [severity for severity, _ in own] == [1, 2, 3, 4, 5]
    return [image for _, image in own]


def test_noise_grows_by_the_authors_strengths() -> None:
    gaussian = [image.std().item() for image in at_each_severity(GREY, "gaussian_noise")]
    assert gaussian == pytest.approx([0.04, 0.06, 0.08, 0.09, 0.10], rel=0.03)
    shot = [image.var().item() for image in at_each_severity(GREY, "shot_noise")]
    assert shot == pytest.approx([0.5 / rate for rate in (500, 250, 100, 75, 50)], rel=0.06)
    impulses = [
        ((image == 0) | (image == 1)).float().mean().item() for image in at_each_severity(GREY, "impulse_noise")
    ]
    assert impulses == pytest.approx([0.01, 0.02, 0.03, 0.05, 0.07], rel=0.12)


def test_light_and_contrast_change_by_the_authors_strengths() -> None:
    raised = [image.mean().item() - 0.2 for image in at_each_severity(GREY - 0.3, "brightness")]
    assert raised == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.3], abs=1 / 255)
    halves = torch.stack([torch.zeros(3, 32, 16), torch.ones(3, 32, 16)], dim=-1).reshape(1, 3, 32, 32)
    spans = [(image.max() - image.min()).item() for image in at_each_severity(halves, "contrast")]
    assert spans == pytest.approx([0.75, 0.5, 0.4, 0.3, 0.15], abs=1.5 / 255)


def test_a_white_point_is_blurred_by_the_authors_deviations() -> None:
    point = torch.zeros(1, 1, 33, 33)
    point[..., 16, 16] = 1
    for deviation, blurred in zip((0.4, 0.6, 0.7, 0.8, 1), at_each_severity(point, "gaussian_blur"), strict=True):
        weights = [math.exp(-(step**2) / (2 * deviation**2)) for step in range(-8, 9)]
        expected = [weight / sum(weights) ** 2 for weight in weights[8:11]]  # along the middle row
        assert blurred[0, 0, 16, 16:19].tolist() == pytest.approx(expected, abs=1 / 255)


def test_the_pixels_and_the_quality_that_are_left_are_the_authors(photographs: torch.Tensor) -> None:
    ramp = (torch.arange(32.0) * 8 / 255).expand(1, 3, 32, 32)
    assert [len(image[0, 0, 0].unique()) for image in at_each_severity(ramp, "pixelate")] == [30, 28, 27, 24, 20]
    image = (255 * photographs[0]).round().to(torch.uint8).permute(1, 2, 0).numpy()
    for quality, shown in zip((80, 65, 58, 50, 40), at_each_severity(photographs[:1], "jpeg"), strict=True):
        Image.fromarray(image).save(file := io.BytesIO(), "JPEG", quality=quality)
        assert (255 * shown[0].permute(1, 2, 0)).round().tolist() == np.asarray(Image.open(file)).tolist()


def test_no_noise_is_that_of_another_batch_corruption_or_severity(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []

    def recorder(number: int) -> corruptions.Corruption:
        def corruption(images: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
            seeds.append(generator.initial_seed())
            return images

        return corruption

    monkeypatch.setattr(corruptions, "CORRUPTIONS", {recorder(number): (1,) * 5 for number in range(len(CORRUPTIONS))})
    for batch in range(40):
        list(corruptions.corrupted_images(GREY[:1, :, :1, :1], batch, corruptions.SEVERITIES))
    assert len(set(seeds)) == len(seeds) == 40 * len(CORRUPTIONS) * 5


def test_each_figure_is_that_of_the_answers_to_normalised_images(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a network that is sure to 80% of the same classes whatever it sees: one of seven answers is wrong.

    Shot noise is left out of the comparison: a rate that differs in its last bit may give another count.
    """
    monkeypatch.chdir(tmp_path)
    study = exported_study.write_study(checkout)
    (setting,) = study.settings
    file = study.paths.form(setting, paths.LOWERED)
    file.parent.mkdir(parents=True)
    file.touch()
    seen: list[torch.Tensor] = []
    answers = torch.tensor([1, *exported_study.TEST_LABELS[1:]])
    assert exported_study.TEST_LABELS[0] == 0

    def logits(images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return torch.where(torch.nn.functional.one_hot(answers, 3) > 0, math.log(8.0), 0.0)  # 8 : 1 : 1

    monkeypatch.setattr(corruptions, "onnx_logits", lambda path: logits)
    rows = list(corruptions.measure(study, Namespace(settings=None, images=None, quick=False)))
    assert len(rows) == 1 + 5 * len(CORRUPTIONS)
    for row in rows:
        assert row["images"] == 7
        assert row["error_pct"] == pytest.approx(100 / 7)
        assert row["calibration_error_pct"] == pytest.approx(100 * (6 / 7 - 0.8))
    data = PreparedData(study.paths.data)
    pixels = torch.from_numpy(np.stack(data.split("test").raw(np.arange(7)))) / 255
    expected = list(corruptions.corrupted_images(pixels, 0, corruptions.SEVERITIES))
    assert [(row["corruption"], row["severity"]) for row in rows] == [
        (name, severity) for name, severity, _ in expected
    ]
    for images, (name, _, corrupted) in zip(seen, expected, strict=True):
        assert name == "shot_noise" or torch.allclose(
            images, (corrupted - data.manifest.mean[0]) / data.manifest.std[0], atol=0.03
        )


def made_up(**fields: object) -> list[dict[str, object]]:
    """Rows of two settings in two corruptions and two severities, the last one with these ``fields``."""
    cases = [("none", 0), *((name, severity) for name in ("jpeg", "contrast") for severity in (1, 5))]
    rows = [
        {
            "study": "cifar",
            "setting": setting,
            "corruption": name,
            "severity": severity,
            "images": 10,
            "error_pct": 10.0 * (1 + severity),
            "calibration_error_pct": 2.0,
            "data_fingerprint": "f",
        }
        for setting in ("g4-c1", "g4-c4")
        for name, severity in cases
    ]
    return [*rows[:-1], {**rows[-1], **fields}]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (made_up(images=500), "rows of different images cannot be compared: 10, 500"),
        (made_up(study="digits"), "rows of different study cannot be compared: cifar, digits"),
        (made_up(data_fingerprint="e"), "rows of different data_fingerprint cannot be compared: e, f"),
        (made_up()[:-1], "g4-c4 has 0 rows of contrast with severity 5, not one"),
        (made_up(severity=1), "g4-c4 has 2 rows of contrast with severity 1, not one"),
        (made_up()[1:], "g4-c1 has 0 rows of none with severity 0, not one"),
        (
            [row for row in made_up() if row["corruption"] != "jpeg" or row["setting"] == "g4-c1"],
            "g4-c4 has 0 rows of jp",
        ),
    ],
)
def test_rows_of_another_extent_are_not_averaged(rows: list[dict[str, object]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        corruptions.mean_error(rows, "g4-c1", "jpeg")


def test_the_mean_is_over_severities_and_a_corruption_that_was_not_measured_has_none() -> None:
    assert corruptions.mean_error(made_up(), "g4-c1", "jpeg") == 40.0  # of 20 and 60
    assert corruptions.mean_error(made_up(), "g4-c4", "none", "calibration_error_pct") == 2.0
    with pytest.raises(ValueError, match="g4-c1 has no row of pixelate"):
        corruptions.mean_error(made_up(), "g4-c1", "pixelate")


def test_the_tracked_rows_can_be_compared(checkout: Path) -> None:
    corruptions.check_rows(json.loads((checkout / "benchmarks/results/corruptions.json").read_text()))


def test_the_paper_page_has_a_row_a_setting_with_the_mean_over_corruptions() -> None:
    (row, _) = markdown_tables.rows(paper_tables.corrupted({paper_tables.CORRUPTIONS: made_up()}))
    assert (row["Setting"], row["Clean test error, %"], row["Clean calibration error, %"]) == ("g4-c1", "10.00", "2.00")
    assert (row["jpeg"], row["contrast"], row["Mean corrupted error, %"]) == ("40.00", "40.00", "40.00")
    assert row["Mean corrupted calibration error, %"] == "2.00"
    assert "Not run yet" in paper_tables.corrupted({})
