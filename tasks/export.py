"""export: the converted model as ONNX files, every logit of the test set compared with PyTorch.

``model.onnx``, which ships, is lowered by a plan (``plan.json``); ``forms/`` holds the other forms that were kept.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from torch import Tensor

from condensenet.data import ImageSplit, Manifest, evaluation_batches
from condensenet.deploy.compare import TOLERANCE, Difference, check_difference, measure_differences
from condensenet.deploy.cost import count_cost
from condensenet.deploy.latency.measure import Latency
from condensenet.models.condensenet import CondenseNet
from tasks import locks, outputs, paths, tracking
from tasks.arguments import stage_arguments
from tasks.console import progress, say
from tasks.errors import one_line, run_main
from tasks.export_forms import (
    NO_LIBRARY,
    Export,
    choose_plan,
    int8_facts,
    surely_slower,
    time_int8,
    write_forms,
)
from tasks.params import Params, Setting
from tasks.paths import INT8, LOWERED, NATIVE

BATCH_SIZE = 64


def main() -> None:
    params, setting = stage_arguments()
    run = outputs.read_run(params, setting)
    folder = params.paths.setting("export", setting.name)
    facts = export(params, setting, run)
    for line in lines(folder, facts):
        say(line)
    with locks.shared_machine():
        tracking.record(run, "export")


def export(params: Params, setting: Setting, run: dict[str, Any]) -> dict[str, Any]:
    """Write ``model.onnx``, ``plan.json``, ``forms/`` and ``export.json``, whose content is returned.

    Raises ``UserError`` for a plan that does not fit, before anything is written, and if a file differs from PyTorch.
    """
    model = outputs.read_model(params, setting)
    data = outputs.read_data(params, model)
    made = to_export(params, setting, run, model, data.manifest)
    folder = params.paths.setting("export", setting.name)
    with locks.shared_machine(), one_line():
        try:
            forms = write_and_compare(made, data.split("train"), data.split("test"))
        except ValueError:
            shutil.rmtree(folder, ignore_errors=True)  # files that were not proved equal are not left lying about
            raise
        first = time_int8(made)
    forms[INT8] |= settle_int8(made, first)
    made.plan.save(folder / paths.PLAN)
    facts = {"plan": made.plan.kind, **shipped_facts(forms[LOWERED]), "forms": forms}
    outputs.write_json(folder / paths.EXPORT, facts)
    return facts


def to_export(params: Params, setting: Setting, run: dict[str, Any], model: CondenseNet, manifest: Manifest) -> Export:
    """What all forms are made of, the plan among it; raises ``UserError`` for one that does not fit."""
    return Export(
        model=model,
        size=manifest.image_size,
        opset=params.export.opset,
        plan=choose_plan(params, setting.name, model, manifest.image_size),
        metadata=describe(model, manifest, run, setting),
        study=params.paths,
        setting=setting.name,
    )


def write_and_compare(made: Export, train: ImageSplit, test: ImageSplit) -> dict[str, dict[str, Any]]:
    """Facts of each form for ``export.json``. Raises ``ValueError`` if one other than int8 differs from PyTorch."""
    written = write_forms(made, train)
    differences = measure_differences(made.model, written, _images(test, f"compare {made.setting}"))
    for form, difference in differences.items():
        check_difference(difference, written[form], math.inf if form == INT8 else TOLERANCE)
    forms = {form: form_facts(written[form], differences[form]) for form in written}
    return forms if NATIVE in forms else {**forms, NATIVE: {"kept": False, "why": NO_LIBRARY}}


def settle_int8(made: Export, first: Latency) -> dict[str, Any]:
    """Keep the int8 file or remove it. If it was surely slower beside other work, a quiet machine is not needed."""
    if not surely_slower(first):
        with locks.quiet_machine(), one_line():
            first = time_int8(made)
    facts = int8_facts(first)
    if not facts["kept"]:
        made.path(INT8).unlink()
    return facts


def describe(model: CondenseNet, manifest: Manifest, run: dict[str, Any], setting: Setting) -> dict[str, Any]:
    """The file's metadata: what it is, what it costs, where it is from, and how to feed it."""
    facts = {
        "study": run["study"],
        "setting": setting.name,
        "groups_1x1": model.config.groups_1x1,
        "condensation_factor": model.config.condensation_factor,
        **dataclasses.asdict(count_cost(model, manifest.image_size)),
        "execution_id": run["execution_id"],
        "git_commit": run["git_commit"],
        "dataset": manifest.name,
        "dataset_fingerprint": manifest.fingerprint,
        **manifest.preprocessing.as_dict(),
        "input": "image: float32 (batch, channel, row, column), each channel (pixel / 255 - mean) / std",
        "output": "logits: float32 (batch, class), before softmax",
    }
    return {key: value for key, value in facts.items() if value is not None}  # no commit outside a repository


def _images(split: ImageSplit, label: str) -> Iterator[Tensor]:
    batches = evaluation_batches(split, BATCH_SIZE)
    for images, _ in progress(batches, total=-(-len(split) // BATCH_SIZE), label=label, units="batches"):
        yield images


def opset_of(path: Path) -> int:
    """The opset of a file's standard operators, which a plan may have raised above ``export.opset``."""
    return next(opset.version for opset in onnx.load(path).opset_import if not opset.domain)


def form_facts(path: Path, difference: Difference) -> dict[str, Any]:
    """The facts of a form that was kept, for ``export.json``."""
    return {
        "kept": True,
        "opset": opset_of(path),
        "file_bytes": path.stat().st_size,
        "images_compared": difference.images,
        "max_relative_difference": difference.max_relative,
        "max_absolute_difference": difference.max_absolute,
    }


def shipped_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """Of the file that ships, at the top of ``export.json``."""
    return {name: value for name, value in facts.items() if name != "kept"}


def lines(folder: Path, facts: dict[str, Any]) -> Iterator[str]:
    """A line a form, and why one was not kept."""
    for form, of_form in facts["forms"].items():
        name = paths.ONNX if form == LOWERED else f"{paths.FORMS}/{form}.onnx"
        if not of_form["kept"]:
            yield f"{folder / name}: not kept, {of_form['why']}"
            continue
        yield (
            f"{folder / name}: {form}, {of_form['file_bytes']:,} bytes; "
            f"{of_form['images_compared']} test images compared, "
            f"largest relative difference {of_form['max_relative_difference']:.2g}"
        )


if __name__ == "__main__":
    run_main(main)
