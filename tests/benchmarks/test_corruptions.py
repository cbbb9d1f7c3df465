"""Corruptions of images: each by a property that is computed by hand, and a run on a study."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import exported_study
import markdown_tables
import pytest
import torch

from benchmarks import corruptions, paper_tables
from benchmarks.corruptions import CORRUPTIONS
from condensenet import export_onnx, load_model
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


def test_the_paper_page_has_a_row_a_setting_with_the_mean_over_corruptions() -> None:
    rows = [
        {"setting": "g4-c1", "corruption": name, "severity": severity, "error_pct": error, "calibration_error_pct": 2.0}
        for name, severity, error in (("none", 0, 10.0), ("jpeg", 1, 20.0), ("jpeg", 5, 30.0), ("contrast", 3, 15.0))
    ]
    (row,) = markdown_tables.rows(paper_tables.corrupted({paper_tables.CORRUPTIONS: rows}))
    assert (row["Setting"], row["Clean test error, %"], row["Clean calibration error, %"]) == ("g4-c1", "10.00", "2.00")
    assert (row["jpeg"], row["contrast"], row["Mean corrupted error, %"]) == ("25.00", "15.00", "20.00")
    assert row["Mean corrupted calibration error, %"] == "2.00"
    assert "Not run yet" in paper_tables.corrupted({})
