"""Runs inside the emulation: the logits of ONNX files, as ONNX Runtime computes them there."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import numpy as np

from condensenet.deploy.runtime import open_session


def main(folder: Path) -> None:
    assert platform.machine() == "aarch64"
    for path in sorted(folder.glob("*.onnx")):
        images = np.load(folder / f"{path.stem.partition('.')[0]}.npy")
        (logits,) = open_session(path, threads=1).run(["logits"], {"image": images})
        np.save(folder / f"{path.stem}.logits.npy", logits)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
