"""What the end-to-end tests share: @alice's network with a Linux device @pi, a MicroPython device @sensor, and real targets."""

import contextlib
import hashlib
import queue
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sshd import Sshd, find_sshd
from targets import Target, read_all
from whole_network import LinuxDevice, Network, free_port, network


class Lab(NamedTuple):
    """The network, and what stands behind @pi's services.

    `digest`: reads to the end, then answers with the bytes' SHA-256 and the bytes. `early`: says bye and ends its direction
    first; what it then still reads to the end comes into `heard`. `rude`: answers with 3 bytes and an RST. `down`: nobody.
    `ssh`: `sshd`, or nothing where there is none.
    """

    net: Network
    pi: LinuxDevice
    heard: "queue.Queue[bytes]"
    sshd: Sshd | None


def digest(sock: socket.socket) -> None:
    data = read_all(sock)
    sock.sendall(hashlib.sha256(data).digest() + data)


def rude(sock: socket.socket) -> None:
    sock.sendall(b"no!")
    sock.recv(1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


@contextlib.contextmanager
def laboratory(folder: Path, broker: str) -> Iterator[Lab]:
    heard: queue.Queue[bytes] = queue.Queue()

    def early(sock: socket.socket) -> None:
        sock.sendall(b"bye")
        sock.shutdown(socket.SHUT_WR)
        heard.put(read_all(sock))

    with contextlib.ExitStack() as stack:
        net = stack.enter_context(network(folder, broker))
        targets = {f.__name__: ("tcp", stack.enter_context(Target(f)).address) for f in (digest, early, rude)}
        targets["down"] = ("tcp", f"127.0.0.1:{free_port()}")
        targets["page"] = ("http", "zts_agent.page:page")
        sshd = stack.enter_context(Sshd(folder / "sshd")) if find_sshd() else None
        if sshd:
            targets["ssh"] = ("tcp", f"127.0.0.1:{sshd.port}")
        pi = stack.enter_context(net.linux_device("pi", targets))
        stack.enter_context(net.board("sensor"))
        yield Lab(net, pi, heard, sshd)
