"""``lower``: a model in grouped form as one fast ONNX file of standard operators; and the plan without measuring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from condensenet.deploy.lowering.emit import block_sizes, emit
from condensenet.deploy.lowering.network import Network, read_network
from condensenet.deploy.lowering.places import check_variants, portable_variants
from condensenet.deploy.lowering.plan import Plan, digest
from condensenet.deploy.onnx_file import check_opset, needs, properties
from condensenet.files import write_atomically
from condensenet.models.condensenet import CondenseNet
from condensenet.models.shapes import image_shape


def lower(
    model: CondenseNet,
    path: str | Path,
    input_size: int | Sequence[int],
    *,
    plan: Plan,
    opset: int = 18,
    metadata: Mapping[str, object] | None = None,
) -> Path:
    """Write ``model`` by ``plan`` as one ONNX file and return its path.

    As with ``export_onnx`` the file takes ``image`` (batch, channels, height, width), float32, and gives ``logits``
    (batch, classes), the batch is free, and it appears whole or not at all. Its metadata properties are ``metadata``
    (text as it is, anything else as JSON), ``form`` "lowered", ``plan`` (the plan's kind) and ``plan_json``. The same
    model, plan and metadata give the same bytes. ``opset`` is the least: a plan with an operator of a newer one raises
    it, as "in place" does to 24.

    Raises ``ValueError`` in one line for a model that is not in grouped form, an opset or a size that cannot be, and
    a plan that does not fit; ``ImportError`` without onnx.
    """
    check_opset(opset)
    network, size = check_plan(model, input_size, plan)
    onnx = needs("onnx")
    proto = emit(network, size, plan.variants, opset)
    values = {**(metadata or {}), "form": "lowered", "plan": plan.kind, "plan_json": plan.as_json()}
    onnx.helper.set_model_props(proto, properties(values))
    onnx.checker.check_model(proto, full_check=True)
    write_atomically(Path(path), proto.SerializeToString(deterministic=True))
    return Path(path)


def portable_plan(model: CondenseNet, input_size: int | Sequence[int]) -> Plan:
    """The plan by fixed rules, which measures nothing and is the same on every machine. Raises as ``lower``."""
    network, size = read(model, input_size)
    return Plan(kind="portable", network=digest(network), input_size=size, variants=portable_variants(network))


def check_plan(model: CondenseNet, input_size: int | Sequence[int], plan: Plan) -> tuple[Network, tuple[int, int]]:
    """What ``read`` gives; raises ``ValueError`` in one line if ``plan`` is for another network or size of images."""
    network, size = read(model, input_size)
    plan.check_fits(network, size)
    check_variants(network, plan.variants)
    return network, size


def read(model: CondenseNet, input_size: int | Sequence[int]) -> tuple[Network, tuple[int, int]]:
    """The network's arrays, and (height, width); raises ``ValueError`` for images of which a pooling leaves nothing."""
    _, height, width = image_shape(model, input_size)
    network = read_network(model)
    sizes = block_sizes(network, (height, width))
    if min(map(min, sizes)) < 1:
        left = " and ".join(str(size) for size in sizes)
        raise ValueError(f"{input_size=} is not allowed: the blocks would get images of {left} pixels")
    return network, (height, width)
