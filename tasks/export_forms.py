"""The forms of an exported model and the plan of the lowered one: which are written, and which of them are kept.

lowered: standard operators, rewritten by a plan: ``model.onnx``, what ships. plain: torch.onnx's graph, to compare.
native: our own operator, where its library was compiled. int8: ONNX Runtime's static quantization, where it is faster.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from condensenet.data import ImageSplit, evaluation_batches
from condensenet.deploy.export import export_onnx
from condensenet.deploy.latency.measure import Latency, measure_latency
from condensenet.deploy.lowering import Plan, check_plan, lower, measure_plan, portable_plan
from condensenet.deploy.native.writing import write_native
from condensenet.deploy.quantize import write_int8
from condensenet.deploy.runtime import operator_library
from condensenet.machine import hardware
from condensenet.models.condensenet import CondenseNet
from condensenet.text import message_of
from tasks import locks, paths
from tasks.errors import UserError, one_line
from tasks.params import Params
from tasks.paths import INT8, LOWERED, NATIVE, PLAIN

CALIBRATION_IMAGES = 64  # spread over the training images; more changed no error that was looked at
CALIBRATION_BATCH = 16
NO_LIBRARY = "the operator's library is not compiled here"


@dataclass(frozen=True, kw_only=True)
class Export:
    """What all forms are made of."""

    model: CondenseNet
    size: int
    opset: int
    plan: Plan
    metadata: Mapping[str, Any]
    study: paths.StudyPaths
    setting: str

    def path(self, form: str) -> Path:
        return self.study.form(self.setting, form)

    def metadata_of(self, form: str) -> dict[str, Any]:
        """The metadata of one form; what was not lowered has no plan."""
        return {**self.metadata, "form": form, "plan": self.plan.kind if form == LOWERED else "none"}


def choose_plan(params: Params, setting: str, model: CondenseNet, size: int) -> Plan:
    """The plan that ``export.plan`` names; it is measured on a machine kept quiet for it. Raises ``UserError``."""
    choice = params.export.plan
    with one_line():
        if choice == "portable":
            return portable_plan(model, size)
        if choice == "measured":
            with locks.quiet_machine():
                return measure_plan(model, size, threads=1, cache=paths.plan_times())
    path = Path(choice.replace("{setting}", setting))
    if not path.is_file():
        raise UserError(f"export.plan={choice!r} is not allowed: {path} is no file")
    try:
        plan = Plan.load(path)
        check_plan(model, size, plan)
    except (OSError, ValueError) as error:
        reason = message_of(error)
        raise UserError(f"export.plan={choice!r} is not allowed for {setting}: {reason}") from error
    return plan


def write_forms(export: Export, train: ImageSplit) -> dict[str, Path]:
    """Write every form that can be written here, none of an earlier export staying; the paths by form."""
    shutil.rmtree(export.path(PLAIN).parent, ignore_errors=True)
    model, size, opset = export.model, export.size, export.opset
    files = {form: export.path(form) for form in (LOWERED, PLAIN, INT8)}
    lower(model, files[LOWERED], size, plan=export.plan, opset=opset, metadata=export.metadata_of(LOWERED))
    export_onnx(model, files[PLAIN], size, opset=opset, metadata=export.metadata_of(PLAIN))
    if operator_library() is not None:
        files[NATIVE] = export.path(NATIVE)
        write_native(model, files[NATIVE], size, opset=opset, metadata=export.metadata_of(NATIVE))
    write_int8(files[LOWERED], files[INT8], calibration_images(train), metadata={"form": INT8})
    return files


def calibration_images(train: ImageSplit) -> Iterator[np.ndarray]:
    """Batches (N, C, H, W) of training images as they are stored, evenly spread: they may lie class by class."""
    every = -(-len(train) // CALIBRATION_IMAGES)
    for images, _ in evaluation_batches(train, CALIBRATION_BATCH, rank=0, world_size=every):
        yield images.numpy()


def time_int8(export: Export) -> Latency:
    """The int8 file and the lowered one in turn, batch 1, one thread; its ratio is to the lowered one's time."""
    files = {form: export.path(form) for form in (INT8, LOWERED)}
    return measure_latency(files, yardstick=LOWERED, threads=(1,))[0]


def surely_slower(int8: Latency) -> bool:
    """In nine of ten rounds."""
    return int8.ratio_p10 >= 1


def int8_facts(int8: Latency) -> dict[str, Any]:
    """Whether the int8 file is kept, and why: it must be faster in nine of ten rounds."""
    spread = f"{int8.ratio_p10:.2f} to {int8.ratio_p90:.2f}"
    return {
        "kept": int8.ratio_p90 < 1,
        "why": f"{int8.ratio:.2f} times the lowered file's time ({spread}), in turn on one thread, batch 1",
        "timed_on": hardware()["cpu"],
    }
