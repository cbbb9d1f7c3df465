"""Whether the parameters and images at hand are those that a setting was trained with."""

from __future__ import annotations

from collections.abc import Iterator

from tasks import paths
from tasks.report.results import SettingResult, Study
from tasks.tracking.desired import run_params

PARTS = ("G", "C", "model.", "train.")  # of a run's parameters, those of the network and its recipe


def other_training(study: Study, result: SettingResult) -> Iterator[str]:
    """What in params.yaml or in the prepared images is not what the setting was trained with; nothing if all is."""
    run = result.run or {}
    trained, data = run.get("params") or {}, run.get("dataset") or {}
    if not trained or not data.get("fingerprint"):
        file = study.params.paths.setting("train", result.name) / paths.RUN
        yield f"{file} does not say with what it was trained"
        return
    now = run_params(study.params, result.setting)
    changed = [key for key, value in trained.items() if key.startswith(PARTS) and now.get(key, value) != value]
    if changed:
        yield f"{', '.join(changed)} in params.yaml is not what was trained"
    if study.manifest is None:
        yield "its images are not prepared"
    elif (prepared := str(study.manifest.get("fingerprint"))) != data["fingerprint"]:
        yield f"images of fingerprint {prepared[:12]} are prepared, it was trained on {data['fingerprint'][:12]}"
