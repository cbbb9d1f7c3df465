"""Loading the compiled parts of the package, if they were built from the sources beside them."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)


DIGEST_BYTES = 32  # of a sha256
LANES = "CONDENSENET_LANES"  # in the environment: at most so many floats in a vector


def check_lanes() -> None:
    """Raise ``ValueError`` unless ``CONDENSENET_LANES`` is empty or a number of floats that a vector can have."""
    value = os.environ.get(LANES, "")
    if value not in ("", "4", "8", "16"):
        raise ValueError(f"{LANES}={value} is not allowed: 16, 8 or 4")


def _is_whole(path: Path) -> bool:
    """Whether the file ends with its sha256, as setup.py has built it: running what is missing in it would be fatal."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return content[-DIGEST_BYTES:] == hashlib.sha256(content[:-DIGEST_BYTES]).digest()


def load(module: str) -> ctypes.CDLL | None:
    """The shared library ``module``, such as "condensenet.models.kernels._compiled"; None if there is none to use.

    A library that was built but cannot be used is named in a warning. Raises ``ValueError`` if ``CONDENSENET_LANES``
    has a value that is not allowed.
    """
    check_lanes()
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return None
    if not _is_whole(Path(spec.origin)):
        log.warning("%s is incomplete or was changed and is not used: reinstall the package", module)
        return None
    try:
        library = ctypes.CDLL(spec.origin)
    except OSError as error:  # built for another machine, or one of its own libraries is missing
        log.warning("%s cannot be loaded and is not used: %s", module, error)
        return None
    if not hasattr(library, "source_digest"):
        log.warning("%s is not part of this package and is not used: reinstall the package", module)
        return None
    library.source_digest.restype = ctypes.c_char_p
    sources = sorted(Path(spec.origin).parent.glob("*.[ch]"))  # there may be none beside it
    sources += sorted((Path(__file__).parent / "simd").glob("*.h"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    if sources and digest != library.source_digest().decode():
        log.warning("%s was built from other sources and is not used: reinstall the package", module)
        return None
    return library
