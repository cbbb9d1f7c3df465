"""The files in release/: their cards have the figures that are tracked, and they err so on all test images."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from condensenet import OnnxModel, load, predict
from tasks import paths
from tasks.release import CARD, FOLDER

CHECKOUT = Path(__file__).resolve().parents[2]
RELEASED = sorted((CHECKOUT / FOLDER).glob(f"*/{paths.ONNX}"))
released = pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.parent.name)
MAX_BYTES = 5_000_000  # of all: they are in git


def test_they_are_small_and_have_a_card() -> None:
    assert RELEASED
    assert sum(path.stat().st_size for path in RELEASED) < MAX_BYTES
    assert all((path.parent / CARD).is_file() for path in RELEASED)


def tracked_row(model: OnnxModel) -> dict[str, Any]:
    rows = json.loads((CHECKOUT / f"benchmarks/results/study-{model.metadata['study']}.json").read_text())
    (row,) = (row for row in rows if row["setting"] == model.metadata["setting"])
    return row


@released
def test_the_card_says_what_is_tracked_and_what_is_in_the_file(path: Path) -> None:
    model = load(path)
    row = tracked_row(model)
    train, prepare = row["train"], row["dvc_lock"]["prepare"]
    card = (path.parent / CARD).read_text()
    assert card.startswith(f"# {row['study']}-{row['setting']}\n")
    rows = [line for line in card.splitlines() if line.startswith("| ") and line[2].isalpha()]
    facts = dict(line.strip("| ").split(" | ") for line in rows)
    assert facts["Test error, %"].startswith(f"{row['test_error_pct']:.2f} (95% interval ")
    assert facts["Test error, %"].endswith(f", {row['test_images']:,} images)")
    assert facts["Multiply-adds"] == f"{row['macs']:,.0f}"
    assert facts["Parameters"] == f"{row['params']:,.0f}"
    size, unit = facts["File"].split()
    assert f"{path.stat().st_size / {'kB': 1e3, 'MB': 1e6}[unit]:.3g}" == size
    (exported,) = (
        out for out in row["dvc_lock"][f"export@{row['setting']}"]["outs"] if out["path"].endswith(f"/{paths.ONNX}")
    )
    assert (exported["size"], exported["md5"]) == (path.stat().st_size, hashlib.md5(path.read_bytes()).hexdigest())
    assert facts["Training"] == (
        f"{train['epochs']} epochs, batches of {train['batch_size']}, learning rate {train['learning_rate']}, "
        f"weight decay {train['weight_decay']}, seed {train['seed']}"
    )
    assert facts["Trained"] == f"{row['started_at'][:10]}, commit {row['git_commit'][:12]}"
    assert facts["Data"].endswith(f"fingerprint {row['data_fingerprint'][:12]}")
    assert all(prepare["params"]["params.yaml"][f"data.{split}"] in facts["Data"] for split in ("train", "test"))
    assert facts["Classes"] == ", ".join(json.loads(model.metadata["classes"]))
    assert facts["Expected calibration error, %"] == f"{clean_calibration_error(row):.2f}"


def clean_calibration_error(row: dict[str, Any]) -> float:
    """Of the same file on the same images, as ``benchmarks/corruptions.py`` measured it."""
    measured = json.loads((CHECKOUT / "benchmarks/results/corruptions.json").read_text())
    wanted = {**{name: row[name] for name in ("study", "setting", "data_fingerprint")}, "corruption": "none"}
    (clean,) = (one for one in measured if wanted.items() <= one.items())
    return float(clean["calibration_error_pct"])


@pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")
@released
def test_the_code_on_the_card_prints_a_class(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(path, tmp_path)
    Image.new("RGB", (40, 30), "blue").save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    exec((path.parent / CARD).read_text().split("```python\n")[1].split("```")[0], {})
    printed = capsys.readouterr().out
    assert any(name in printed for name in json.loads(load(path).metadata["classes"]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")
@released
def test_the_error_is_the_one_that_is_tracked(path: Path, shared: Path) -> None:
    model = load(path)
    table = pq.read_table(shared / "data/cifar10-jpeg-test.parquet")
    images, labels = [image["bytes"] for image in table["image"].to_pylist()], table["label"].to_pylist()
    answers = [best.label for (best,) in predict(model, images, top=1)]
    error_pct = 100 * sum(answer != label for answer, label in zip(answers, labels, strict=True)) / len(labels)
    assert error_pct == pytest.approx(
        tracked_row(model)["test_error_pct"], abs=0.02
    )  # two images whose best classes are equal
