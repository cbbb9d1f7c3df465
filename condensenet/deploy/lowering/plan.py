"""Plans: which variant computes each place of a network, as a JSON file that can be kept beside the model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from condensenet.deploy.lowering.network import Network, Pointwise
from condensenet.files import write_atomically

Kind = Literal["portable", "measured"]
Size = tuple[int, int]
FORMAT = "condensenet lowering plan 1"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """``variants`` names the variant of every place, such as "block 1, layer 2" or "transition 1".

    ``network`` is the digest of the network's shape, which a plan fits or not; weights have no part in it.
    ``input_size`` is (height, width) in pixels. Of a measured plan only, and else None or empty: ``machine`` is what it
    was measured on (hardware, onnxruntime's version, threads), ``times_us`` the microseconds of each variant by place,
    and "whole graph" among them.
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
        """Raises ``ValueError`` in one line for a file that is no plan, ``OSError`` for one that cannot be read."""
        text = Path(path).read_bytes()
        try:
            return cls.from_json(text.decode())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no plan: {' '.join(str(error).split())}") from None

    @classmethod
    def from_json(cls, text: str) -> Plan:
        values = json.loads(text)
        if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
            raise ValueError(f'it does not say "format": "{FORMAT}"')
        _check(values)
        values["input_size"] = tuple(values["input_size"])
        return cls(**values)

    def check_fits(self, network: Network, input_size: Size) -> None:
        """Raise ``ValueError`` in one line if the plan is for another network or another size of images."""
        if self.network != digest(network):
            raise ValueError(f"the plan is for another network: {self.network} instead of {digest(network)}")
        if self.input_size != input_size:
            raise ValueError(f"the plan is for images of {self.input_size} pixels, not of {input_size}")


_FIELDS = {  # name: what it must be, in words, and whether it is
    "kind": ("portable or measured", lambda value: value in ("portable", "measured")),
    "network": ("text", lambda value: isinstance(value, str)),
    "input_size": (
        "height and width",
        lambda value: isinstance(value, list) and len(value) == 2 and all(type(side) is int for side in value),
    ),
    "variants": (
        "text by place",
        lambda value: isinstance(value, dict) and all(isinstance(variant, str) for variant in value.values()),
    ),
    "machine": ("null or an object", lambda value: value is None or isinstance(value, dict)),
    "times_us": (
        "numbers by variant, by place",
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
        raise ValueError(f"its keys are {', '.join(map(str, values)) or 'none'}; allowed: {', '.join(_FIELDS)}")
    for name, (words, allows) in _FIELDS.items():
        if not allows(values[name]):
            raise ValueError(f"{name}={str(values[name])[:60]!r} is not allowed: {words}")


def digest(network: Network) -> str:
    """What of a network decides which plans fit it: the shapes, groups and strides of all its operations."""
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
