"""Run a command where no network is, and note every packet that it sends beyond the loopback.

    unshare --user --map-root-user --net --mount python alone.py PACKETS COMMAND...

All routes lead to a device that this process reads and never answers. Names are looked up beyond it too, not by a
resolver on the loopback, whose packets would not be seen. PACKETS gets a line for each packet; the first two are sent
here, to show that they are seen: to an address, and for the name NAME. The second is missing where names are looked up
by yet another way.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

TUN, SET_DEVICE, IP_PACKETS_ALONE = "/dev/net/tun", 0x400454CA, 0x1001  # linux/if_tun.h
DEVICE = "out"
PROBE = ("192.0.2.1", 9)  # reserved for documentation
RESOLVER = ("192.0.2.53", 53)
NAME = "probe.invalid"  # reserved too
RESOLVING = f"nameserver {RESOLVER[0]}\noptions timeout:1 attempts:1\n"
PREPARE = (
    "link set lo up",
    f"link set {DEVICE} up",
    f"address add 198.51.100.2/24 dev {DEVICE}",
    f"route add default dev {DEVICE}",
)


def why_not() -> str | None:
    """Why this machine cannot do it."""
    command = [*inside(Path(os.devnull)), "true"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except FileNotFoundError as error:
        return f"{error.filename} is missing"
    return f"no network namespace here: {done.stderr.strip()[-200:]}" if done.returncode else None


def inside(packets: Path) -> tuple[str, ...]:
    """What comes before a command that is to run there."""
    return "unshare", "--user", "--map-root-user", "--net", "--mount", sys.executable, __file__, str(packets)


def main() -> None:
    device = os.open(TUN, os.O_RDWR)
    fcntl.ioctl(device, SET_DEVICE, struct.pack("16sH22x", DEVICE.encode(), IP_PACKETS_ALONE))
    Path(f"/proc/sys/net/ipv6/conf/{DEVICE}/disable_ipv6").write_text("1")  # else the kernel asks for routers by itself
    for arguments in PREPARE:
        subprocess.run(["ip", *arguments.split()], check=True)
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write(RESOLVING)
        file.flush()
        subprocess.run(["mount", "--bind", file.name, "/etc/resolv.conf"], check=True)  # seen here alone
    with open(sys.argv[1], "w") as packets:
        threading.Thread(target=note, args=(device, packets), daemon=True).start()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.sendto(b"", PROBE)
        with suppress(OSError):
            socket.gethostbyname(f"{NAME}.")  # the dot: in no domain of this network
        status = subprocess.run(sys.argv[2:], check=False).returncode
        time.sleep(0.5)  # for the last packets
    sys.exit(status)


def note(device: int, packets) -> None:  # type: ignore[no-untyped-def]
    while True:
        packet = os.read(device, 65536)
        header = 4 * (packet[0] & 15)
        (port,) = struct.unpack_from(">H", packet, header + 2)
        text = "".join(chr(byte) for byte in packet[header:] if 32 <= byte < 127)  # the name that is looked up
        print(socket.inet_ntoa(packet[16:20]), port, text[:80], file=packets, flush=True)


if __name__ == "__main__":
    main()
