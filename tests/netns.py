"""A LAN of network namespaces for tests: machines that may refuse every inbound connection, and that note every address they dial.

A namespace here has no name: it lives while a descriptor of this process or a socket is in it, so that nothing is left behind
however the tests end. A thread enters one by `Machine.inside`; what it starts there, sockets, threads and processes, belongs to it.

Needs root, iproute2, nftables and nmap; `why_not()` says what is missing.
"""

import contextlib
import ctypes
import functools
import json
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

_PROGRAMS = {"ip": "iproute2", "nft": "nftables", "nmap": "nmap"}
_CLONE_NEWNET = 0x40000000
_OWN = "/proc/thread-self/ns/net"
_PREFIX = "10.213.7."
_SAMPLE_S = 0.02
# sock_diag(7), netlink(7) and the kernel's tcp_states.h.
_SOCK_DIAG, _BY_FAMILY, _REQUEST_DUMP = 4, 20, 0x301
_NLMSG_BYTES, _ERROR, _DONE = 16, 2, 3
_LISTEN = 10
# `dialled` gets every first segment of a TCP connection and every datagram that goes out, over loopback too.
_RULES = """
table inet zts {
  counter refused { }
  set dialled { type ipv4_addr . inet_proto . inet_service; flags dynamic; size 65535; }
  set dialled6 { type ipv6_addr . inet_proto . inet_service; flags dynamic; size 65535; }
  chain out {
    type filter hook output priority 0;
    tcp flags & (syn|ack) == syn add @dialled { ip daddr . meta l4proto . th dport }
    tcp flags & (syn|ack) == syn add @dialled6 { ip6 daddr . meta l4proto . th dport }
    meta l4proto udp add @dialled { ip daddr . meta l4proto . th dport }
    meta l4proto udp add @dialled6 { ip6 daddr . meta l4proto . th dport }
  }
  chain in {
    type filter hook input priority 0; policy accept;
    iif lo accept
    ct state established,related accept
    counter name refused
  }
}
"""


class Listening(NamedTuple):
    """A socket that anybody may address: a TCP socket that listens, or any UDP socket."""

    protocol: str
    host: str
    port: int
    inode: int


@functools.cache
def why_not() -> str | None:
    """Why there can be no LAN here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program, package in _PROGRAMS.items():
        if not _find(program):
            return f"{program} is missing: apt-get install {package}"
    try:
        with Lan("probe"):
            pass
        with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind(("127.0.0.1", 0))
            ours = {(kind, *sock.getsockname()) for kind, sock in (("tcp", tcp), ("udp", udp))}
            assert ours <= {(found.protocol, found.host, found.port) for found in _listening()}, "sock_diag misses what listens"
        return None
    except (OSError, AssertionError) as error:
        return f"this machine gives no network namespaces, or says not what listens: {error}"


def _find(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")


def _run(program: str, *arguments: str, text: str | None = None) -> str:
    path = _find(program)
    assert path
    done = subprocess.run([path, *arguments], input=text, capture_output=True, text=True)
    assert done.returncode == 0, f"{program} {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def _call(name: str, *arguments: int) -> None:
    """A function of libc that Python 3.11 does not offer."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _listening() -> set[Listening]:
    """Of every process in this thread's namespace.

    From the kernel's own list of what listens, sock_diag(7): /proc/net has all connections, and takes ten milliseconds a look.
    """
    found = set()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as asked:
        for protocol, number, states in (("tcp", socket.IPPROTO_TCP, 1 << _LISTEN), ("udp", socket.IPPROTO_UDP, 0xFFFFFFFF)):
            for family in (socket.AF_INET, socket.AF_INET6):
                question = struct.pack("=BBxxI48x", family, number, states)
                asked.send(struct.pack("=IHHII", _NLMSG_BYTES + len(question), _BY_FAMILY, _REQUEST_DUMP, 0, 0) + question)
                for body in _answers(asked):
                    port, source, inode = struct.unpack_from("!4xH2x16s", body) + struct.unpack_from("=I", body, 68)
                    host = socket.inet_ntop(family, source[: 4 if family == socket.AF_INET else 16])
                    found.add(Listening(protocol + ("6" if family == socket.AF_INET6 else ""), host, port, inode))
    return found


def _answers(asked: socket.socket) -> Iterator[bytes]:
    """The bodies of a dump's messages, see netlink(7). Raises OSError."""
    while True:
        data = asked.recv(1 << 16)
        while data:
            size, kind = struct.unpack_from("=IH", data)
            if kind in (_DONE, _ERROR):
                # A protocol that the kernel cannot list is told in either.
                if number := -struct.unpack_from("=i", data, _NLMSG_BYTES)[0]:
                    raise OSError(number, f"sock_diag: {os.strerror(number)}")
                return
            yield data[_NLMSG_BYTES:size]
            data = data[(size + 3) & ~3 :]


class Machine:
    """One namespace; `address` is its IPv4 address on the LAN."""

    def __init__(self, name: str, address: str = "") -> None:
        self.name = name
        self.address = address
        with _return():
            _call("unshare", _CLONE_NEWNET)
            self.descriptor = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _run("ip", "link", "set", "lo", "up")
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        os.close(self.descriptor)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread is in the namespace."""
        with _return():
            _call("setns", self.descriptor, _CLONE_NEWNET)
            yield

    def guard(self) -> None:
        """Notes what is dialled from now on."""
        with self.inside():
            _run("nft", "-f", "-", text=_RULES)

    def firewall(self, is_up: bool) -> None:
        """Whether whatever comes in and belongs to no connection from here is dropped."""
        with self.inside():
            _run("nft", "chain", "inet", "zts", "in", "{ policy %s; }" % ("drop" if is_up else "accept"))

    def refused(self) -> int:
        """Packets from outside that belonged to no connection from here."""
        with self.inside():
            (counter,) = _objects(_run("nft", "-j", "list", "counter", "inet", "zts", "refused"), "counter")
        packets: int = counter["packets"]
        return packets

    def dialled(self) -> set[tuple[str, str, int]]:
        """All (protocol, host, port) so far to which something from here tried to connect or sent a datagram."""
        found = set()
        with self.inside():
            for name in ("dialled", "dialled6"):
                (noted,) = _objects(_run("nft", "-j", "list", "set", "inet", "zts", name), "set")
                for element in noted.get("elem", ()):
                    host, protocol, port = element["concat"]
                    found.add((protocol, host, int(port)))
        return found

    def listening(self) -> set[Listening]:
        """Of every process in the namespace."""
        with self.inside():
            return _listening()


class Lan:
    """`with Lan("relay", "pi") as lan:` makes machines that reach each other: `lan["pi"].address`."""

    def __init__(self, *names: str) -> None:
        self._names = names
        self._machines: dict[str, Machine] = {}
        self._stack = contextlib.ExitStack()

    def __getitem__(self, name: str) -> Machine:
        return self._machines[name]

    def __enter__(self) -> "Lan":
        with contextlib.ExitStack() as stack:
            switch = Machine("switch")
            stack.callback(switch.close)
            with switch.inside():
                _run("ip", "link", "add", "lan", "type", "bridge")
                _run("ip", "link", "set", "lan", "up")
            for number, name in enumerate(self._names, 1):
                machine = self._machines[name] = Machine(name, f"{_PREFIX}{number}")
                stack.callback(machine.close)
                where = f"/proc/{os.getpid()}/fd/{machine.descriptor}"
                with switch.inside():
                    _run("ip", "link", "add", f"port{number}", "type", "veth", "peer", "name", "eth0", "netns", where)
                    _run("ip", "link", "set", f"port{number}", "master", "lan", "up")
                with machine.inside():
                    _run("ip", "address", "add", f"{machine.address}/24", "dev", "eth0")
                    _run("ip", "link", "set", "eth0", "up")
                    # So that a dial to anywhere at all goes out, and is noted.
                    _run("ip", "route", "add", "default", "dev", "eth0")
                machine.guard()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()


class Watch:
    """`with Watch(machine) as watch:` looks again and again; `watch.seen` is all that listened meanwhile."""

    def __init__(self, machine: Machine) -> None:
        self.seen: set[Listening] = set()
        self._machine = machine
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        with self._machine.inside():
            while True:
                self.seen |= _listening()
                if self._stop.wait(_SAMPLE_S):
                    return


def inodes_of(pid: int) -> set[int]:
    """Of all sockets a process has open."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            kind, _, number = os.readlink(entry).partition(":")
            if kind == "socket":
                found.add(int(number.strip("[]")))
    return found


def scan(*addresses: str) -> dict[str, set[int]]:
    """The TCP ports of each neighbour that nmap finds open, of all there are. Called inside a machine."""
    # By connect(2): the kernel loses no answer, as nmap's own capture does on a busy machine. A forced rate made it miss open ports.
    options = ("-n", "-Pn", "-sT", "-p-", "-T4", "-oG", "-")
    found: dict[str, set[int]] = {}
    for line in _run("nmap", *options, *addresses).splitlines():
        if line.startswith("Host: "):
            ports = found.setdefault(line.split()[1], set())
            for port in filter(None, line.partition("Ports: ")[2].partition("\t")[0].split(", ")):
                number, state, *_ = port.split("/")
                if state == "open":
                    ports.add(int(number))
    return found


@contextlib.contextmanager
def _return() -> Iterator[None]:
    """Afterwards the calling thread is in the namespace it was in."""
    before = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        _call("setns", before, _CLONE_NEWNET)
        os.close(before)


def _objects(listed: str, kind: str) -> list[dict[str, Any]]:
    return [entry[kind] for entry in json.loads(listed)["nftables"] if kind in entry]
