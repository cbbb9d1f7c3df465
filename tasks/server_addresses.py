"""Addresses of servers: shown without passwords, and whether something answers there. None of them need be valid.

A free port for a server of our own.
"""

from __future__ import annotations

import re
import socket
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

PROBE_S = 1.0
REST = r"(?:(?!://)\S)*@"  # of a password that has a slash: it ends at the last @ of the word
USER = re.compile(  # with a password, if there is one
    rf"""(?<=://)(?:
        [^/\s:@]*:{REST}(?=(?:[\w.-]+|\[[\da-f:.]+\]):\d{{1,5}}(?!\w))  # before a host with its port
        | [^/\s]*@
        | (?::|[^/\s:@\[]+:(?!\d{{1,5}}[/?#])){REST}  # else the colon may be that of a port, and @ be in a path
    )""",
    re.VERBOSE,
)
IN_QUERY = re.compile(  # but for the punctuation after it
    r"""(?<=[?&;#])((?=[\w.-]*(?:pass|pwd|secret|token|signature|credential|key))[\w.-]+|sig|odbc_connect)
        =(?:[^&\s]*[^&\s'")\]}>.,;:]|[^&\s]+)""",
    re.VERBOSE | re.IGNORECASE,
)
PORTS = {"http": 80, "https": 443}


def without_secrets(text: str) -> str:
    """``text``, an address or what quotes one, without user names and passwords in addresses.

    ``http://a:1/b@c`` is taken for a host, its port and a path; a password of digits, a slash and more looks the same.
    """
    return IN_QUERY.sub(r"\1=***", USER.sub("***@", text))


def answers(address: str) -> bool:
    """A cheap check before MLflow's own requests: False if nothing listens there. True where it cannot be told."""
    try:
        parts = urlsplit(address)
        if parts.scheme not in PORTS or parts.hostname is None:
            return True
        if parts.scheme in getproxies() and not proxy_bypass(parts.hostname):
            return True
        return listens(parts.hostname, parts.port or PORTS[parts.scheme])
    except ValueError:  # such as a port that is no number
        return False


def listens(host: str, port: int, wait_s: float = PROBE_S) -> bool:
    """Whether something accepts connections there."""
    try:
        socket.create_connection((host, port), wait_s).close()
    except (OSError, OverflowError):  # the latter for a port above 65535
        return False
    return True


def free_port(host: str) -> int:
    """A port of this machine's address ``host`` where nothing listens."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
