"""The ONNX files that the latency table compares: CondenseNets in every form available here, and other networks.

Weights are random, since latency does not depend on them. But each CondenseNet is really condensed and converted, so
its index layers look like a trained network's, and its batch norm statistics are not trivial.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from condensenet import CondenseNet, convert, count_cost, export_onnx, presets
from condensenet.deploy.latency.mobilenet import NAME as MOBILENET
from condensenet.deploy.latency.mobilenet_torch import mobilenet_v1
from condensenet.deploy.lowering import Plan, check_plan, lower, measure_plan, portable_plan
from condensenet.deploy.native.writing import write_native
from condensenet.deploy.quantize import write_int8
from condensenet.deploy.runtime import operator_library
from tasks.paths import INT8, LOWERED, NATIVE, PLAIN

CONDENSENETS = ("condensenet-74-g4", "condensenet-74-g8")
TORCHVISION = (
    "mobilenet_v2",
    "mobilenet_v3_large",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x2_0",
    "resnet18",
    "resnet50",
    "densenet121",
)
FORMS = (PLAIN, LOWERED, NATIVE, INT8)  # in table order
SEED = 0
CALIBRATION_IMAGES = 8  # random ones will do: int8 is only timed here


@dataclass(frozen=True, kw_only=True)
class File:
    """One line of the table: an ONNX file and the multiply-adds of one image."""

    model: str
    form: str
    path: Path
    macs: int


@dataclass(frozen=True)
class Plans:
    """``--plan``: portable, measured, or plan files, of which each network uses the one made for it."""

    choice: Sequence[str]
    cache: Path | None = None

    def of(self, model: CondenseNet, size: int) -> Plan:
        if list(self.choice) == ["portable"]:
            return portable_plan(model, size)
        if list(self.choice) == ["measured"]:
            return measure_plan(model, size, threads=1, cache=self.cache)
        refusals = []
        for plan in map(Plan.load, self.choice):
            try:
                check_plan(model, size, plan)
            except ValueError as error:
                refusals.append(str(error))
            else:
                return plan
        raise ValueError(refusals[0])


def peer_files(folder: Path, size: int, names: Sequence[str]) -> Iterator[File]:
    """Networks from other papers, as plain exports, their only form."""
    for name in names:
        model = peer(name)
        path = export_onnx(model, folder / f"{name}.onnx", size)
        yield File(model=name, form=PLAIN, path=path, macs=count_cost(model, size).macs)


def peer(name: str) -> nn.Module:
    torch.manual_seed(SEED)
    if name == MOBILENET:
        return mobilenet_v1().eval()
    import torchvision

    return torchvision.models.get_model(name, weights=None).eval()


def condensenet_files(name: str, folder: Path, plans: Plans, forms: Sequence[str], size: int) -> Iterator[File]:
    """The preset ``name`` in those of ``forms`` that are available here."""
    model = converted(name)
    macs = count_cost(model, size).macs
    path = {form: folder / f"{name}-{form}.onnx" for form in FORMS}
    lower(model, path[LOWERED], size, plan=plans.of(model, size))  # int8 is made from it, as in the pipeline
    makers: dict[str, Callable[[], object]] = {
        PLAIN: lambda: export_onnx(model, path[PLAIN], size),
        LOWERED: lambda: None,
        NATIVE: lambda: write_native(model, path[NATIVE], size),
        INT8: lambda: write_int8(path[LOWERED], path[INT8], random_images(size)),
    }
    for form in FORMS:
        if form in forms and is_available(form):
            makers[form]()
            yield File(model=name, form=form, path=path[form], macs=macs)


def is_available(form: str) -> bool:
    return form != NATIVE or operator_library() is not None


def converted(name: str) -> CondenseNet:
    """The grouped form of the preset ``name``, fully condensed from random weights."""
    torch.manual_seed(SEED)
    model = CondenseNet(presets[name])
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(-0.5, 1.5)  # most are positive in a trained network, some are not
                module.bias.normal_(std=0.3)
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 1.5)
    model.eval().condense_to(model.config.num_condensing_stages)
    return convert(model)


def random_images(size: int) -> list[np.ndarray]:
    return [np.random.default_rng(SEED).standard_normal((CALIBRATION_IMAGES, 3, size, size), dtype=np.float32)]
