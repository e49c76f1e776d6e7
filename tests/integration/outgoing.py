"""A world with a network that leads nowhere: whatever any process sends off this machine is seen and goes no further.

Run below `unshare --map-root-user --net`. The default route is a TUN device, and this process holds its other end: so
it sees each packet, of Python and of native code, with no hook in any process. Loopback works as ever.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_HEADER = 0x0001 | 0x1000
_DEVICE = "out0"
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp"}


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """Let the default route lead to this process; the list grows by a line for each packet (protocol, to whom)."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", _DEVICE.encode(), _IFF_TUN_NO_HEADER))
    for command in (
        "link set lo up",
        f"addr add 10.123.0.1/24 dev {_DEVICE}",
        f"link set {_DEVICE} up",
        f"route add default dev {_DEVICE}",
        f"-6 route add default dev {_DEVICE}",
    ):
        subprocess.run(["ip", *command.split()], check=True)
    seen: list[str] = []
    ended = threading.Event()

    def read() -> None:
        # What was sent before the end is told, however long the look at each packet took.
        while (waiting := select.select([device], [], [], 0.2)[0]) or not ended.is_set():
            if waiting:
                seen.extend(_told(os.read(device, 65536)))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield seen
    finally:
        ended.set()
        reader.join()
        os.close(device)


def _told(packet: bytes) -> Iterator[str]:
    if packet[0] >> 4 == 4:
        protocol, to, payload = packet[9], socket.inet_ntop(socket.AF_INET, packet[16:20]), packet[20:]
    else:
        protocol, to, payload = packet[6], socket.inet_ntop(socket.AF_INET6, packet[24:40]), packet[40:]
    if protocol not in _PROTOCOLS:
        return  # the kernel's own: neighbours and multicast groups of the new device
    sender, port = struct.unpack("!HH", payload[:4])
    name = f", asks for {payload[20:60]!r}" if port == 53 else ""
    yield f"{_PROTOCOLS[protocol]} to {to}:{port}{name}, from {_process(_PROTOCOLS[protocol], sender)}"


def _process(protocol: str, port: int) -> str:
    """The command line of the process with an open socket at this port, while it still has it."""
    inodes = set()
    for table in Path("/proc/net").glob(f"{protocol}*"):
        rows = (line.split() for line in table.read_text().splitlines()[1:])
        inodes |= {f"socket:[{row[9]}]" for row in rows if int(row[1].rpartition(":")[2], 16) == port}
    for handle in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # it ends while we look
            if str(handle.readlink()) in inodes:
                return handle.parents[1].joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return "a process that has ended"


def main() -> None:
    """Run each command of the JSON list in argv[1] until one fails; print what was seen and what each command said."""
    said = []
    with watched() as seen:
        commands = json.loads(sys.argv[1])
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            said.append({"code": done.returncode, "out": done.stdout, "err": done.stderr})
            if done.returncode and command != commands[-1]:
                subprocess.run(commands[-1], capture_output=True, check=False)
                break
    sys.stdout.write(json.dumps({"seen": seen, "said": said}))


if __name__ == "__main__":
    main()
