"""``condensenet predict``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from condensenet import OnnxModel, Prediction, load, predict
from condensenet.text import escaped
from tasks.console import say
from tasks.errors import UserError

HOW = (
    "tell it once in Python, for ImageNet's images: from condensenet import Preprocessing, load, save_model; "
    "model = load({name!r}); "
    "model.preprocessing = Preprocessing(image_size=224, resize_shorter=256, channels=3, mean=(0.485, 0.456, 0.406), "
    "std=(0.229, 0.224, 0.225), classes=[...]); save_model(model, 'named.pt')"
)


def run(name: str, images: Sequence[Path], top: int, as_json: bool) -> None:
    model = load(name)
    if model.preprocessing is None:
        advice = (
            "export it again from a model.pt that has it" if isinstance(model, OnnxModel) else HOW.format(name=name)
        )
        raise UserError(f"{name} does not say how images are prepared for it, nor its classes: {advice}")
    predictions = predict(model, images, top=top)
    if as_json:
        for path, best in zip(images, predictions, strict=True):
            print(json.dumps({"image": str(path), "predictions": [dataclasses.asdict(each) for each in best]}))
        return
    names = [escaped(str(path)) for path in images]
    width = max(map(len, names))
    for shown, best in zip(names, predictions, strict=True):
        say(f"{shown:<{width}}  {'  '.join(_shown(each) for each in best)}")


def _shown(prediction: Prediction) -> str:
    return f"{prediction.name} {100 * prediction.probability:.1f}%"
