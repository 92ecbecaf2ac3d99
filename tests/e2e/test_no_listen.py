"""Nobody listens where data is: from machines that let nobody in, with all their sockets watched, and a neighbour with nmap."""

import contextlib
import hashlib
import os
import socket
from collections.abc import Iterator

import pytest

from netns import inodes_of, scan, why_not
from netns_network import CLOSED, Separated, separated

_reason = why_not()
pytestmark = pytest.mark.skipif(_reason is not None, reason=str(_reason))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Separated]:
    with separated(tmp_path_factory.mktemp("no-listen")) as network:
        yield network


def test_both_ends_work_where_every_inbound_connection_is_refused_and_listen_nowhere(network: Separated) -> None:
    data = os.urandom(1 << 16).hex().encode() + b"\n"
    expected = hashlib.sha256(data).hexdigest().encode() + data
    ours = {f"tcp {host}:{port}" for host, port in network.target.values()}  # targets, which are no part of ZTS
    with network.door("listen-page", "@sensor:http") as (page, at_page), network.door("listen-digest", "@pi") as (digest, at_digest):
        request = f"GET / HTTP/1.1\r\nHost: {at_page[0]}:{at_page[1]}\r\n\r\n".encode()
        assert b"<html" in network.ask(at_page, request).lower()
        assert network.ask(at_digest, data) == expected
        with network.lan["laptop"].inside():
            done = network.net.zts("connect", "@pi", "--stdio", stdin="on stdio\n")
        assert done.returncode == 0 and done.stdout.endswith("on stdio\n"), done.stderr

        now = {name: network.lan[name].listening() for name in CLOSED}
        sockets = {running.process.pid: inodes_of(running.process.pid) for running in (page, digest)}
        for running, door in ((page, at_page), (digest, at_digest)):
            listening = [(s.protocol, s.host, s.port) for s in now["laptop"] if s.inode in sockets[running.process.pid]]
            assert listening == [("tcp", "127.0.0.1", door[1])]
        for name, pid in (("sensor", network.sensor.pid), ("pi", network.pi.running.process.pid)):
            assert inodes_of(pid), "an agent holds a connection, so its sockets can be read"
            assert not inodes_of(pid) & {s.inode for s in now[name]}
        # And from the first enrolment to now nothing else has listened, were it for a moment.
        doors = {f"tcp {host}:{port}" for host, port in (at_page, at_digest)}
        seen = {name: {f"{s.protocol} {s.host}:{s.port}" for s in network.watches[name].seen} for name in CLOSED}
        assert seen["laptop"] == doors
        assert seen["sensor"] | seen["pi"] == ours
    # Outwards all three know one machine.
    relay = network.relay
    assert relay.mqtt
    for name in CLOSED:
        outwards = {dialled for dialled in network.lan[name].dialled() if not dialled[1].startswith("127.")}
        assert outwards == {("tcp", *relay.leg), ("tcp", *relay.mqtt)}


def test_a_neighbour_finds_no_open_port(network: Separated) -> None:
    """With the firewalls out of the way, so that it is not they that hide them; control ports show that nmap would find one."""
    machines, neighbour = [network.lan[name] for name in CLOSED], network.lan["neighbour"]
    with contextlib.ExitStack() as stack:
        _, door = stack.enter_context(network.door("scan", "@pi"))
        controls = {}
        for machine in machines:
            with machine.inside():
                control = stack.enter_context(socket.create_server(("0.0.0.0", 0)))
            controls[machine.address] = {control.getsockname()[1]}
        refused = [machine.refused() for machine in machines]
        for address, (port,) in controls.items():
            with neighbour.inside(), socket.socket() as knock:
                knock.settimeout(0.5)
                with pytest.raises(TimeoutError):
                    knock.connect((address, port))
        assert all(machine.refused() > before for machine, before in zip(machines, refused, strict=True))
        for machine in machines:
            machine.firewall(False)
        try:
            with neighbour.inside():
                assert scan(*controls) == controls
        finally:
            for machine in machines:
                machine.firewall(True)
        assert network.ask(door, b"still there\n").endswith(b"still there\n")
