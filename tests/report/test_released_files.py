"""The files in release/: each has, on all test images, the error that its card and the tracked results name."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from condensenet import load, predict
from tasks import paths
from tasks.release import CARD, FOLDER

CHECKOUT = Path(__file__).resolve().parents[2]
RELEASED = sorted((CHECKOUT / FOLDER).glob(f"*/{paths.ONNX}"))
MAX_BYTES = 5_000_000  # of all: they are in git


def test_they_are_small_and_have_a_card() -> None:
    assert RELEASED
    assert sum(path.stat().st_size for path in RELEASED) < MAX_BYTES
    assert all((path.parent / CARD).is_file() for path in RELEASED)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")
@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.parent.name)
def test_the_error_is_the_one_that_is_tracked(path: Path, shared: Path) -> None:
    model = load(path)
    rows = json.loads((CHECKOUT / f"benchmarks/results/study-{model.metadata['study']}.json").read_text())
    (tracked,) = (row for row in rows if row["setting"] == model.metadata["setting"])
    assert f"| Test error, % | {tracked['test_error_pct']:.2f} (" in (path.parent / CARD).read_text()
    table = pq.read_table(shared / "data/cifar10-jpeg-test.parquet")
    images, labels = [image["bytes"] for image in table["image"].to_pylist()], table["label"].to_pylist()
    answers = [best.label for (best,) in predict(model, images, top=1)]
    error_pct = 100 * sum(answer != label for answer, label in zip(answers, labels, strict=True)) / len(labels)
    assert error_pct == pytest.approx(tracked["test_error_pct"], abs=0.02)  # two images whose best classes are equal
