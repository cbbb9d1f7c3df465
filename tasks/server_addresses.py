"""Addresses of servers: shown without passwords, and whether something answers there."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

PROBE_S = 1.0
PORTS = {"http": 80, "https": 443}


def shown(address: str) -> str:
    """``address`` without a password in it."""
    parts = urlsplit(address)
    if "@" not in parts.netloc:
        return address
    return urlunsplit(parts._replace(netloc="***@" + parts.netloc.rpartition("@")[2]))


def answers(address: str) -> bool:
    """A cheap check before MLflow's own requests: False if nothing listens there. True where it cannot be told."""
    parts = urlsplit(address)
    if parts.scheme not in PORTS or parts.hostname is None:
        return True
    if parts.scheme in getproxies() and not proxy_bypass(parts.hostname):
        return True
    try:
        socket.create_connection((parts.hostname, parts.port or PORTS[parts.scheme]), PROBE_S).close()
    except OSError:
        return False
    return True
