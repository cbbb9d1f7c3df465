from __future__ import annotations

from object_server import server  # noqa: F401
from one_worker import params, ray, setting  # noqa: F401
