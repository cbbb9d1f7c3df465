"""``lower``: a model in grouped form as one fast ONNX file of standard operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from condensenet.deploy.lowering.network import Network, Size
from condensenet.deploy.lowering.network_graph import lower_network
from condensenet.deploy.lowering.plan import Plan
from condensenet.deploy.lowering.reading import read_for_size
from condensenet.deploy.lowering.workloads import check_variants
from condensenet.deploy.onnx_file import write_onnx
from condensenet.deploy.opset import DEFAULT_OPSET, check_opset
from condensenet.models.condensenet import CondenseNet


def lower(
    model: CondenseNet,
    path: str | Path,
    input_size: int | Sequence[int],
    *,
    plan: Plan,
    opset: int = DEFAULT_OPSET,
    metadata: Mapping[str, object] | None = None,
) -> Path:
    """Write ``model`` by ``plan`` as one ONNX file and return its path.

    As with ``export_onnx``, the file takes ``image`` (batch, channels, height, width), float32, and gives ``logits``
    (batch, classes), with any batch size, and it is written atomically. Its metadata properties are ``metadata``
    (text as it is, anything else as JSON), ``form`` "lowered", ``plan`` (the plan's kind) and ``plan_json``. The same
    model, plan and metadata give the same bytes. ``opset`` is a minimum: a variant that needs a newer one raises it,
    as "in place" does to 24.

    Raises a one-line ``ValueError`` for a model that is not in grouped form, an opset or a size that is not allowed,
    and a plan that does not fit; ``ImportError`` without onnx.
    """
    check_opset(opset)
    network, size = check_plan(model, input_size, plan)
    proto = lower_network(network, size, plan.variants, opset)
    values = {**(metadata or {}), "form": "lowered", "plan": plan.kind, "plan_json": plan.as_json()}
    return write_onnx(proto, path, values)


def check_plan(model: CondenseNet, input_size: int | Sequence[int], plan: Plan) -> tuple[Network, Size]:
    """As ``read_for_size``; also raises a one-line ``ValueError`` if ``plan`` is for another network or image size."""
    network, size = read_for_size(model, input_size)
    plan.check_fits(network, size)
    check_variants(network, plan.variants)
    return network, size
