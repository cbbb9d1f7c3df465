"""Which rows of a study's file stay when other settings were run, and that none is lost."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from report_outputs import write_study

from benchmarks import keep_study
from benchmarks.keep_study import foreign_rows, merged, recipe
from tasks import params
from tasks.errors import UserError


def row(setting: params.Setting, fingerprint: str = "f", study: str = "digits", **values: object) -> dict[str, object]:
    about = {"study": study, "setting": setting.name, "started_at": "2026-11-22", "data_fingerprint": fingerprint}
    return {**recipe(setting), **about, **values}


def test_rows_of_settings_that_were_not_run_again_stay(checkout: Path) -> None:
    first, second, *_ = params.load(checkout / "params.yaml").settings.values()
    new = {second.name: row(second, test_error_pct=11.0)}
    kept, again = row(first, test_error_pct=12.0), row(second, test_error_pct=99.0)
    rows = merged(new, [again, kept], [first.name, second.name, "not run"])
    assert list(rows.items()) == [(first.name, kept), (second.name, new[second.name])]


def test_what_cannot_stand_beside_the_new_rows_is_named(checkout: Path) -> None:
    study = params.load(checkout / "params.yaml")
    first, second, *_ = study.settings.values()
    new = {second.name: row(second)}
    assert foreign_rows([row(first), row(second)], study, new) == ""
    longer = replace(first, train=replace(first.train, epochs=first.train.epochs + 1))
    reasons = {
        "another recipe": row(longer),
        "other images": row(first, fingerprint="g"),
        "of study imagenet": row(first, study="imagenet"),
    }
    for reason, old in reasons.items():
        assert foreign_rows([row(second), old], study, new) == f"{first.name} ({reason})"
    gone = {**row(first), "setting": "gone"}
    assert foreign_rows([gone], study, new) == "gone (not in params.yaml)"


def test_a_file_of_another_study_stays_as_it_is(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((checkout / "params.yaml").read_text())
    study, kept = params.load(), tmp_path / "rows.json"
    first = next(iter(study.settings.values()))
    kept.write_text(json.dumps([row(first, study="cifar10-short")]))
    before = kept.read_bytes()
    monkeypatch.setattr("sys.argv", ["keep_study", "--json", str(kept)])
    with pytest.raises(ValueError, match="no setting of digits is evaluated yet"):
        keep_study.main()
    write_study(study)
    with pytest.raises(ValueError, match=rf"would lose them: {first.name} \(of study cifar10-short\)"):
        keep_study.main()
    assert kept.read_bytes() == before
    kept.unlink()
    keep_study.main()
    rows = json.loads(kept.read_text())
    assert [row["setting"] for row in rows] == list(study.settings)
    assert rows[1]["test_error_pct"] == pytest.approx(100 * 10 / 360)
    assert (rows[1]["test_images"], rows[1]["macs"]) == (360, 500_000)
    assert [epoch[0] for epoch in rows[0]["curve"]] == list(range(1, first.train.epochs + 1))
    assert rows[0]["latency"]["ratio"] == pytest.approx(rows[0]["latency"]["median_ms"] / 0.5)
    keep_study.main()
    assert json.loads(kept.read_text()) == rows


def test_a_recipe_that_was_not_trained_is_not_written(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (checkout / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text)
    write_study(params.load())
    (tmp_path / "params.yaml").write_text(re.sub(r"epochs: \d+", "epochs: 300", text, count=1))
    monkeypatch.setattr("sys.argv", ["keep_study", "--json", "rows.json"])
    with pytest.raises(ValueError, match=r"cannot be kept: train\.epochs in params\.yaml is not what was trained"):
        keep_study.main()
    assert not (tmp_path / "rows.json").exists()


def test_a_users_mistake_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["keep_study", "--json", "rows.json"])
    with pytest.raises(UserError, match=r"params\.yaml is missing"):
        keep_study.main()
    with pytest.raises(SystemExit, match=r"^error: params\.yaml is missing"):
        keep_study.start(keep_study.main)
