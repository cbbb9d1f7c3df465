"""Plans: the variant that computes each workload of a network, as a JSON file to keep beside the model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from condensenet.deploy.lowering.network import Network, Pointwise, Size
from condensenet.files import read_regular, write_atomically
from condensenet.text import escaped, message_of, shown

Kind = Literal["portable", "measured"]
FORMAT = "condensenet lowering plan 1"
MAX_BYTES = 2**24  # the times of a network of a thousand layers take a fiftieth of it
MAX_SIDE = 65_536  # pixels


@dataclass(frozen=True, kw_only=True)
class Plan:
    """``variants`` names the variant of every workload, such as "block 1, layer 2" or "transition 1".

    ``network`` is the digest of the shapes that the plan fits; weights do not count. ``input_size`` is (height, width)
    in pixels. A measured plan also has the ``machine`` it was measured on (hardware, onnxruntime's version, threads)
    and ``times_us``, microseconds by workload and variant, "whole graph" being the whole network; in a portable plan
    they are None and empty.
    """

    kind: Kind
    network: str
    input_size: Size
    variants: Mapping[str, str]
    machine: Mapping[str, Any] | None = None
    times_us: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def as_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False)

    def save(self, path: str | Path) -> Path:
        write_atomically(Path(path), self.as_json().encode())
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Raises a one-line ``ValueError`` for a file that is not a plan, ``OSError`` for one that cannot be read."""
        try:
            return cls.from_json(read_regular(path, MAX_BYTES).decode())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not a plan: {message_of(error)}") from None

    @classmethod
    def from_json(cls, text: str) -> Plan:
        values = json.loads(text)
        if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
            raise ValueError(f'it lacks "format": "{FORMAT}"')
        _check(values)
        values["input_size"] = tuple(values["input_size"])
        return cls(**values)

    def check_fits(self, network: Network, input_size: Size) -> None:
        """Raise a one-line ``ValueError`` if the plan is for another network or image size."""
        if self.network != digest(network):
            raise ValueError(f"the plan is for another network: {escaped(self.network)} instead of {digest(network)}")
        if self.input_size != input_size:
            raise ValueError(f"the plan is for images of {self.input_size} pixels, not of {input_size}")


_FIELDS = {  # name: (what is allowed, the check)
    "kind": ("portable or measured", lambda value: value in ("portable", "measured")),
    "network": ("text", lambda value: isinstance(value, str)),
    "input_size": (
        "height and width",
        lambda value: (
            isinstance(value, list)
            and len(value) == 2
            and all(type(side) is int and 0 < side <= MAX_SIDE for side in value)
        ),
    ),
    "variants": (
        "text by workload",
        lambda value: isinstance(value, dict) and all(isinstance(variant, str) for variant in value.values()),
    ),
    "machine": ("null or an object", lambda value: value is None or isinstance(value, dict)),
    "times_us": (
        "numbers by variant, by workload",
        lambda value: (
            isinstance(value, dict)
            and all(
                isinstance(times, dict) and all(isinstance(time, int | float) for time in times.values())
                for times in value.values()
            )
        ),
    ),
}


def _check(values: dict[str, Any]) -> None:
    if values.keys() != _FIELDS.keys():
        raise ValueError(f"its keys are {shown(list(values))}; allowed: {', '.join(_FIELDS)}")
    for name, (allowed, is_valid) in _FIELDS.items():
        if not is_valid(values[name]):
            raise ValueError(f"{name}={shown(values[name])} is not allowed: {allowed}")


def digest(network: Network) -> str:
    """Of the shapes, groups and strides of all operations: a plan fits every network of the same digest."""
    stem = network.stem
    shape = {
        "stem": [*stem.weight.shape, stem.stride, stem.padding, stem.pools],
        "blocks": [
            {
                "layers": [
                    [*_pointwise(layer.conv_1x1), layer.conv_3x3.groups, *layer.conv_3x3.weight.shape]
                    for layer in block.layers
                ],
                "shrink": None if block.shrink is None else _pointwise(block.shrink),
                "pools": block.pools,
            }
            for block in network.blocks
        ],
        "classifier": [len(network.scale), len(network.index), len(network.bias)],
    }
    return hashlib.sha256(json.dumps(shape).encode()).hexdigest()[:16]


def _pointwise(conv: Pointwise) -> list[int]:
    return [conv.in_channels, conv.groups, *conv.weight.shape]
