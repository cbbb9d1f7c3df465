"""The authors' checkpoints (github.com/ShichenLiu/CondenseNet), in and out.

Their training form holds full weights, ``_mask``, ``_count`` and ``_stage`` a layer; their converted form an
``index`` and a group convolution a layer, and a classifier halved without training. The mask alone is believed:
``_stage`` may run ahead of it, because their code drops too little after a skipped stage.

``layout`` knows their names, ``inference`` finds the configuration, ``loading`` and ``saving`` translate.
"""

from condensenet.interop.loading import load_authors_checkpoint
from condensenet.interop.saving import authors_state_dict, halve_classifier, save_authors_checkpoint

__all__ = ["authors_state_dict", "halve_classifier", "load_authors_checkpoint", "save_authors_checkpoint"]
