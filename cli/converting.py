"""``condensenet convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cli.models import grouped, pytorch_model
from condensenet import CondenseNet, load_authors_checkpoint, save_authors_checkpoint, save_model
from tasks.console import say
from tasks.errors import UserError


def run(source: str, out: Path, to: str, **authors_settings: Any) -> None:
    if out.exists():
        raise UserError(f"{out} exists: remove it first, or choose another name")
    given = {name: value for name, value in authors_settings.items() if value is not None}
    model = _load(source, given)
    if to == "grouped":
        model = grouped(model, source)
    if to == "authors":
        save_authors_checkpoint(model, out)
    else:
        save_model(model, out)
    config = model.config
    say(
        f"{out}: {'the authors’ format, ' if to == 'authors' else ''}{model.form} form, "
        f"G={config.groups_1x1}, C={config.condensation_factor}, {config.num_classes} classes"
    )


def _load(source: str, given: dict[str, Any]) -> CondenseNet:
    if given:
        return load_authors_checkpoint(source, **given)
    try:
        return pytorch_model(source)
    except ValueError as error:  # what load_authors_checkpoint asks for is an option here
        options = {"stem=...": "--stem", "groups_1x1=...": "--groups", "condensation_factor=...": "--condensation"}
        asked = [option for keyword, option in options.items() if keyword in str(error)]
        if not asked:
            raise
        reason = str(error).partition(": call load_authors_checkpoint")[0]
        raise UserError(f"{reason}: add {' '.join(asked)}") from None
