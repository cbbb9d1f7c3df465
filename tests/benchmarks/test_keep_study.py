"""Which rows of a study's file stay when other settings were run on another machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.keep_study import merged, recipe
from tasks import params


def row(setting: params.Setting, fingerprint: str = "f", **values: object) -> dict[str, object]:
    about = {"setting": setting.name, "started_at": "2026-11-22", "data_fingerprint": fingerprint}
    return {**recipe(setting), **about, **values}


def test_rows_of_settings_that_were_not_run_again_stay_if_they_compare(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, *_ = params.load(checkout / "params.yaml").settings.values()
    settings = {setting.name: setting for setting in (first, second)}
    new = {second.name: row(second, test_error_pct=11.0)}
    kept, again = row(first, test_error_pct=12.0), row(second, test_error_pct=99.0)
    assert merged(new, [again, kept], settings) == {first.name: kept, second.name: new[second.name]}
    assert list(merged(new, [again, kept], settings)) == [first.name, second.name]
    other_recipe = row(replace(first, train=replace(first.train, epochs=first.train.epochs + 1)))
    for other in (other_recipe, row(first, fingerprint="g")):
        assert merged(new, [other], settings) == new
        assert "has another recipe or other images" in capsys.readouterr().out
    assert merged(new, [{**kept, "setting": "no longer there"}], settings) == new
    assert merged({}, [row(first, fingerprint="g")], settings).keys() == {first.name}
