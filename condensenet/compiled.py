"""Where a compiled part of the package is, if it was built and is of the sources that lie beside it."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import logging
from pathlib import Path

log = logging.getLogger(__name__)


def load(module: str) -> ctypes.CDLL | None:
    """The library of ``module``, such as "condensenet.models.kernels._compiled"; None and a warning if it is no use."""
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        return None
    try:
        library = ctypes.CDLL(found.origin)
    except OSError as error:  # built for another machine, or a library that it needs is not here
        log.warning("%s cannot be loaded and stays unused: %s", module, error)
        return None
    if not hasattr(library, "source_digest"):
        log.warning("%s is not of this package and stays unused: install again", module)
        return None
    library.source_digest.restype = ctypes.c_char_p
    sources = sorted(Path(found.origin).parent.glob("*.[ch]"))  # none in a wheel
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    if sources and digest != library.source_digest().decode():
        log.warning("%s is of another version of its source and stays unused: install again", module)
        return None
    return library
