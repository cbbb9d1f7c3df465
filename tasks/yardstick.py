"""yardstick: MobileNetV1 at the study's input size; every latency is measured alternately with it.

The published network (width 1.0, stride-2 stem) for images of any size. Its weights are random, because latency does
not depend on them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from condensenet.data import Manifest, PreparedData
from condensenet.deploy.cost import count_cost
from condensenet.deploy.export import export_onnx
from condensenet.deploy.latency.mobilenet import MOBILENET
from condensenet.deploy.latency.mobilenet_torch import mobilenet_v1
from tasks import locks, outputs, paths
from tasks import params as parameters
from tasks.arguments import no_arguments
from tasks.console import say
from tasks.errors import one_line, run_main
from tasks.params import Params

SEED = 0


def main() -> None:
    no_arguments()
    params = parameters.load()
    outputs.existing(params.paths.data / paths.MANIFEST, "prepare")
    with locks.shared_machine(), one_line():
        cost = make_yardstick(params, PreparedData(params.paths.data).manifest)
    say(f"{params.paths.yardstick / paths.ONNX}: {cost['macs']:,} MACs, {cost['file_bytes']:,} bytes")


def make_yardstick(params: Params, manifest: Manifest) -> dict[str, Any]:
    """Write ``model.onnx`` and ``cost.json``, whose content is returned."""
    torch.manual_seed(SEED)
    model = mobilenet_v1(len(manifest.classes), manifest.channels)
    cost = {"model": MOBILENET, **dataclasses.asdict(count_cost(model, manifest.image_size))}
    folder = params.paths.yardstick
    path = export_onnx(
        model,
        folder / paths.ONNX,
        manifest.image_size,
        opset=params.export.opset,
        metadata={**cost, "weights": "random"},
    )
    cost["file_bytes"] = path.stat().st_size
    outputs.write_json(folder / paths.COST, cost)
    return cost


if __name__ == "__main__":
    run_main(main)
