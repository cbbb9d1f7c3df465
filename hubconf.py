"""For ``torch.hub.load``: each network by its name with underscores, and ``load`` for files.

torch.hub.load("OWNER/REPOSITORY", "condensenet_86", num_classes=10)     # random weights
torch.hub.load("PATH OF A CHECKOUT", "load", "model.pt", source="local")
"""

from functools import partial

from condensenet import create_model, list_models, load

dependencies = ["torch", "torchvision", "numpy"]

__all__ = ["create_model", "load"]

for _name in list_models():
    globals()[_name.replace("-", "_")] = partial(create_model, _name)
    __all__.append(_name.replace("-", "_"))
