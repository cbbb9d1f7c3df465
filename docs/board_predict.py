"""The likeliest class of images, on a machine with NumPy, Pillow and ONNX Runtime alone.

python board_predict.py model.onnx IMAGE...
"""

import argparse
import json
import os

import numpy as np
from PIL import Image


def prepare(path, about):
    """One image as the network takes it: float32 (1, channels, size, size)."""
    size, shorter = about["image_size"], about["resize_shorter"]
    image = Image.open(path).convert("L" if about["channels"] == 1 else "RGB")
    width, height = (side * shorter // min(image.size) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    image = image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))
    pixels = np.asarray(image, dtype=np.float32).reshape(size, size, -1).transpose(2, 0, 1) / 255
    mean, std = (np.asarray(about[name], dtype=np.float32).reshape(-1, 1, 1) for name in ("mean", "std"))
    return ((pixels - mean) / std)[None]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="model.onnx")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    options = parser.parse_args()
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else ONNX Runtime reports to Microsoft
    import onnxruntime

    session = onnxruntime.InferenceSession(options.model, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    names = ("image_size", "resize_shorter", "channels", "mean", "std", "classes")
    about = {name: json.loads(metadata[name]) for name in names}
    for path in options.images:
        (logits,) = session.run(["logits"], {"image": prepare(path, about)})
        exponents = np.exp(logits[0] - logits[0].max())
        best = int(exponents.argmax())
        print(f"{path}: {about['classes'][best]} {100 * exponents[best] / exponents.sum():.1f}%")


if __name__ == "__main__":
    main()
