"""The handwritten digits that scikit-learn ships: 1,797 images of 8x8 pixels, 1 channel, values 0 to 16.

The split is fixed: ``hold_out`` chooses 360 test images with the key "digits-test". The other 1,437 are for training
and validation. A value v becomes round(v * 255 / 16).
"""

from __future__ import annotations

import numpy as np

from tasks.params import DataParams
from tasks.sources.base import Part, Source, hold_out

TEST_IMAGES = 360
SIZE = 8


def read(data: DataParams) -> Source:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    test = hold_out(labels, TEST_IMAGES, "digits-test")
    location = "scikit-learn's digits"
    return Source(
        classes=tuple(str(name) for name in bunch.target_names),
        train=Part(location, labels[~test], images[~test]),
        test=Part(location, labels[test], images[test]),
        facts={"origin": "sklearn.datasets.load_digits"},
    )
