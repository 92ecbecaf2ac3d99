"""A whole network spread over namespaces: the relay, the laptop @alice, a MicroPython @sensor and a Linux @pi, each on a machine of
its own; the last three refuse every inbound connection. A fifth machine, `neighbour`, sits on the same LAN."""

import contextlib
import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from device_process import HTTP, DeviceProcess
from netns import Lan, Watch
from relay_process import RelayProcess
from targets import Target, read_all
from whole_network import WAIT_S, LinuxDevice, Network, Running

CLOSED = ("laptop", "sensor", "pi")  # the machines that let nobody in


class Separated(NamedTuple):
    """`target` gives for @sensor and @pi the address of the one target behind their service "digest"; it is on the device's own machine.

    `watches`: what listens on the machines that let nobody in, since before the first process of ours ran there.
    """

    lan: Lan
    relay: RelayProcess
    net: Network
    sensor: DeviceProcess
    pi: LinuxDevice
    target: dict[str, tuple[str, int]]
    watches: dict[str, Watch]

    @contextlib.contextmanager
    def door(self, name: str, target: str) -> Iterator[tuple[Running, tuple[str, int]]]:
        """`zts connect TARGET -L` on the laptop, and where it listens there."""
        with self.lan["laptop"].inside():
            running = self.net.run(name, "connect", target, "-L")
        with running:
            host, _, port = running.line().rpartition(":")
            yield running, (host, int(port))

    def ask(self, door: tuple[str, int], request: bytes) -> bytes:
        """Says `request` and the end at a door on the laptop; the whole answer."""
        with self.lan["laptop"].inside():
            sock = socket.create_connection(door, WAIT_S)
        with sock:
            sock.sendall(request)
            sock.shutdown(socket.SHUT_WR)
            return read_all(sock)


@contextlib.contextmanager
def separated(folder: Path) -> Iterator[Separated]:
    """`folder` is new, or empty."""
    folder.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        lan = stack.enter_context(Lan("relay", *CLOSED, "neighbour"))
        watches = {}
        for name in CLOSED:
            lan[name].firewall(True)
            watches[name] = stack.enter_context(Watch(lan[name]))
        anywhere = f"{lan['relay'].address}:0"
        with lan["relay"].inside():
            options = ("--listen", anywhere, "--mqtt", anywhere, "--metrics", anywhere)
            relay = stack.enter_context(RelayProcess(folder / "relay", *options))
        with lan["laptop"].inside():
            net = Network(folder, relay, "embedded")
        target, services = {}, {}
        for name in ("sensor", "pi"):
            with lan[name].inside():
                digest = stack.enter_context(Target(_digest))
            target[name] = ("127.0.0.1", int(digest.server_address[1]))
            services[name] = {"digest": {"kind": "tcp", "target": digest.address}}

        with lan["laptop"].inside():
            enrolment = stack.enter_context(net.run("enroll-sensor", "enroll", "@sensor"))
        sensor = DeviceProcess(folder / "devices" / "sensor", enrolment.line(), HTTP | services["sensor"])
        with lan["sensor"].inside():
            stack.enter_context(sensor)
        assert enrolment.process.wait(WAIT_S) == 0, enrolment.err

        with lan["laptop"].inside():
            enrolment = stack.enter_context(net.run("enroll-pi", "enroll", "@pi"))
        pi = LinuxDevice(folder / "devices" / "pi", {name: (entry["kind"], entry["target"]) for name, entry in services["pi"].items()})
        stack.callback(lambda: pi.kill())
        with lan["pi"].inside():
            pi.start("--join", "--code-file", "-", stdin=enrolment.line() + "\n")
        assert enrolment.process.wait(WAIT_S) == 0, (enrolment.err, pi.running.err)
        yield Separated(lan, relay, net, sensor, pi, target, watches)


def _digest(sock: socket.socket) -> None:
    """One line; a target of a board hears no end."""
    with sock.makefile("rb") as file:
        data = file.readline()
    sock.sendall(hashlib.sha256(data).hexdigest().encode() + data)
