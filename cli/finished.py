"""Whether a workspace holds a finished training, and of what: it is neither repeated nor replaced by another."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tasks import outputs, paths, plain_yaml
from tasks.errors import UserError
from tasks.params import Params

TRAINING = Path("state/training.json")  # what the training is of, from before it starts
INITIAL = "initial.pt"  # in the workspace: what --from gives


def is_finished(workspace: Path) -> bool:
    """Whether the stage train wrote all its outputs and removed its checkpoints."""
    training = outputs.read_json_or_empty(workspace / TRAINING)
    if not training:
        return False
    out = workspace / _outputs(training["study"], training["setting"])
    if not (out / paths.METRICS).is_file():  # it is written last
        return False
    in_progress = (workspace / "state" / "train" / training["study"] / training["setting"]).glob(f"*/{paths.RUN}")
    return _execution(out / paths.RUN) not in map(_execution, in_progress)


def check_parameters(workspace: Path, text: str, initial: bytes | None) -> None:
    """Raise ``UserError`` if a finished training had other parameters, or started from another model."""
    if not is_finished(workspace):
        return
    training = outputs.read_json_or_empty(workspace / TRAINING)
    if training["params"] != _meaning(text):
        raise _refusal(workspace, "otherwise (other images or options)")
    if training["initial"] != _sha256(initial):
        raise _refusal(workspace, "from another model than --from gives")


def check_images(workspace: Path, text: str, loaded: Params) -> bool:
    """Whether the training is finished. If not, note what it is of; raise ``UserError`` if it was of other images.

    ``text`` is that of ``params.yaml``. The images have been prepared.
    """
    identity = _identity(workspace, text, loaded)
    is_same = outputs.read_json_or_empty(workspace / TRAINING) == identity
    if is_finished(workspace):
        if not is_same:
            raise _refusal(workspace, "on other images: some were changed since")
        return True
    if not is_same:
        metrics = workspace / _outputs(identity["study"], identity["setting"]) / paths.METRICS
        metrics.unlink(missing_ok=True)  # of an earlier training: by it the end of this one is known
        outputs.write_json(workspace / TRAINING, identity)
    return False


def _identity(workspace: Path, text: str, loaded: Params) -> dict[str, str]:
    """What a training is of: parameters, initial weights and images."""
    manifest = outputs.read_json_or_empty(workspace / loaded.paths.data / paths.MANIFEST)
    (setting,) = loaded.settings.values()
    return {
        "study": loaded.study,
        "setting": setting.name,
        "params": _meaning(text),
        "initial": _sha256(None if setting.initial is None else (workspace / INITIAL).read_bytes()),
        "data": str(manifest.get("fingerprint")),
    }


def _meaning(text: str) -> str:
    """A hash of what ``params.yaml`` says, but for the processors that it names: they may be others the next time."""
    content = plain_yaml.parse(text)
    return _sha256(json.dumps({**content, "ray": None}, sort_keys=True).encode())


def _outputs(study: str, setting: str) -> Path:
    return paths.StudyPaths(study).setting("train", setting)


def _execution(run: Path) -> object:
    return outputs.read_json_or_empty(run).get("execution_id")


def _sha256(content: bytes | None) -> str:
    return "" if content is None else hashlib.sha256(content).hexdigest()


def _refusal(workspace: Path, how: str) -> UserError:
    return UserError(f"{workspace} holds a model that was trained {how}: give another --out, or remove it")
