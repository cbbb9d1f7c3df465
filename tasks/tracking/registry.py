"""The model registry: one registered model for a study, a version for each exported file, aliases for the best ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ALIASES = {  # alias: the metric of which it has the lowest value
    "best-error": "test_error_pct",
    "fastest": "latency_ms",
    "smallest": "file_bytes",
}


def name_of(study: str) -> str:
    return f"condensenet-{study}"


def version(client: Any, study: str, model: Any, card: str) -> str:
    """The number of the version that holds the logged ``model``, made if need be, with ``card`` as its description."""
    name = name_of(study)
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name, description=f"The exported networks of the study {study}, a version each.")
    versions = client.search_model_versions(f"name = '{name}' AND run_id = '{model.source_run_id}'")
    found = next((each for each in versions if each.tags.get("model_id") == model.model_id), None)
    if found is None:
        tags = {"setting": model.name, "model_id": model.model_id}
        found = client.create_model_version(
            name, source=model.artifact_location, run_id=model.source_run_id, tags=tags, model_id=model.model_id
        )
    if found.description != card:
        client.update_model_version(name, found.version, description=card)
    return str(found.version)


def file_of(models: Sequence[Any], sha256: str) -> Any | None:
    """The newest of the logged ``models`` whose file has this content."""
    return next((model for model in reversed(models) if model.tags.get("sha256") == sha256), None)


def set_aliases(client: Any, study: str, aliases: Mapping[str, str], versions: Mapping[str, str]) -> None:
    """Let every alias name the version of its execution; one whose execution has none is left where it was."""
    for alias, execution in aliases.items():
        if execution in versions:
            client.set_registered_model_alias(name_of(study), alias, versions[execution])


def best(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """alias -> the key of ``metrics`` (execution -> its figures) that it names; the first of equals."""
    named = {}
    for alias, figure in ALIASES.items():
        values = {key: own[figure] for key, own in metrics.items() if figure in own}
        if values:
            named[alias] = min(values, key=lambda key: values[key])
    return named
