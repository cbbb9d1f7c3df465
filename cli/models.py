"""Models as the commands take them: a network's name, a file or a folder."""

from __future__ import annotations

from condensenet import CondenseNet, OnnxModel, convert, create_model, load
from tasks.errors import UserError


def default_size(model: CondenseNet) -> int:
    """The input size in pixels: that of the training images, if it is known, else of the paper's data set."""
    if model.preprocessing is not None:
        return model.preprocessing.image_size
    return 32 if model.config.stem == "cifar" else 224


def pytorch_model(name: str) -> CondenseNet:
    """The model of a file, which must not be ONNX; raises ``UserError`` in its place."""
    model = load(name)
    if isinstance(model, OnnxModel):
        raise UserError(f"{name} is an ONNX file: this needs a PyTorch one, such as model.pt")
    return model


def grouped(model: CondenseNet, name: str) -> CondenseNet:
    """``model`` in grouped form, for inference; raises ``UserError`` if it is not fully condensed."""
    if model.form == "grouped":
        return model
    if not model.is_condensed:
        raise UserError(
            f"{name} is at condensing stage {model.condensing_stage} of {model.num_condensing_stages}: its training "
            "has not pruned all that C demands"
        )
    return convert(model)


def untrained(name: str) -> CondenseNet:
    """A network by name in grouped form with random weights, on which neither cost nor latency depends."""
    model = create_model(name).eval()
    model.condense_to(model.num_condensing_stages)
    return convert(model)
