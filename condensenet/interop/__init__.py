"""Loading and saving the authors' checkpoints (github.com/ShichenLiu/CondenseNet).

Each layer of their training form has full weights, ``_mask``, ``_count`` and ``_stage``; each of their converted form
an ``index`` and a group convolution, with a classifier that is halved without training. Only the mask is trusted:
``_stage`` may be ahead of it, because their code drops too little after a skipped stage.

``layout`` has their names, ``configuration`` infers a network's configuration, ``loading`` and ``saving`` translate.
"""

from condensenet.interop.loading import load_authors_checkpoint
from condensenet.interop.saving import authors_state_dict, halve_classifier, save_authors_checkpoint

__all__ = ["authors_state_dict", "halve_classifier", "load_authors_checkpoint", "save_authors_checkpoint"]
