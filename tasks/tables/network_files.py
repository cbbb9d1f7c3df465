"""The networks of the tables as ONNX files: CondenseNets in every form available here, and networks of other papers.

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
from condensenet.deploy.latency.mobilenet_torch import mobilenet_v1
from condensenet.deploy.lowering import Plan, lower, portable_plan
from condensenet.deploy.native.writing import write_native
from condensenet.deploy.quantize import write_int8
from condensenet.deploy.runtime import operator_library
from tasks.networks import CONDENSENETS, MOBILENET
from tasks.paths import INT8, LOWERED, NATIVE, PLAIN

FORMS = (PLAIN, LOWERED, NATIVE, INT8)  # in table order
SEED = 0
CALIBRATION_IMAGES = 8  # random ones will do: int8 is only timed here


@dataclass(frozen=True, kw_only=True)
class File:
    """An ONNX file and the multiply-adds of one image."""

    model: str
    form: str
    path: Path
    macs: int


def files_of(
    name: str,
    folder: Path,
    size: int,
    forms: Sequence[str] = FORMS,
    plan_of: Callable[[CondenseNet, int], Plan] = portable_plan,
) -> Iterator[File]:
    """The network ``name`` for ``size`` x ``size`` pixels, in those of ``forms`` that it has and that work here."""
    if name in CONDENSENETS:
        yield from condensenet_files(name, folder, size, forms, plan_of)
    else:
        yield peer_file(name, folder, size)


def peer_file(name: str, folder: Path, size: int) -> File:
    """A network from another paper as a plain export, its only form."""
    model = peer(name)
    path = export_onnx(model, folder / f"{name}.onnx", size)
    return File(model=name, form=PLAIN, path=path, macs=count_cost(model, size).macs)


def peer(name: str) -> nn.Module:
    """MobileNetV1 or a network of torchvision, with random weights."""
    torch.manual_seed(SEED)
    if name == MOBILENET:
        return mobilenet_v1().eval()
    import torchvision

    return torchvision.models.get_model(name, weights=None).eval()


def condensenet_files(
    name: str, folder: Path, size: int, forms: Sequence[str], plan_of: Callable[[CondenseNet, int], Plan]
) -> Iterator[File]:
    """The preset ``name``, lowered as ``plan_of`` its model and size says."""
    model = converted(name)
    macs = count_cost(model, size).macs
    path = {form: folder / f"{name}-{form}.onnx" for form in FORMS}
    if LOWERED in forms or INT8 in forms:  # int8 is made from the lowered form, as in the pipeline
        lower(model, path[LOWERED], size, plan=plan_of(model, size))
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
