"""Alice shares her devices with Bob as they would: cards, grants, rules, taking back, the log, and giving a device up."""

import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from targets import Target
from whole_network import Network, Running, failed, network, until, zts

TALK_S = 0.02


def talk(sock: socket.socket) -> None:
    """Says something again and again, until nobody listens."""
    with contextlib.suppress(OSError):
        while True:
            sock.sendall(b"x" * 64)
            time.sleep(TALK_S)


class Shared:
    """Alice's network, and Bob's computer at her relay."""

    def __init__(self, net: Network) -> None:
        self.net = net
        self.bob = net.folder / "bob"
        done = self.as_bob("join", "--name", "@bob", "--code-file", "-", stdin=net.relay.new_code())
        assert done.returncode == 0, done.stderr
        self._runs = 0
        card = self.as_bob("card").stdout
        done = net.zts("add", card, "--yes")
        assert done.returncode == 0, done.stderr

    def as_bob(self, *arguments: str, stdin: str = "") -> Any:
        return zts(self.bob, *arguments, stdin=stdin)

    def grant(self, *arguments: str, name: str = "") -> None:
        """Alice grants, Bob takes it up."""
        done = self.net.zts("grant", "@bob", *arguments)
        assert done.returncode == 0 and re.fullmatch(r"zts1g:\S+\n", done.stdout), done.stderr
        more = ["--as", name] if name else []
        taken = self.as_bob("add", "--line-file", "-", "--yes", *more, stdin=done.stdout)
        assert taken.returncode == 0, taken.stderr

    @contextlib.contextmanager
    def talking(self, target: str) -> Iterator[Running]:
        """Bob, who listens to a service that talks, and has heard something."""
        self._runs += 1
        with Running(self.bob, self.net.folder / "bob-runs" / str(self._runs), "connect", target, "--stdio", stdin=None) as running:
            until(lambda: "xxxx" in running.out, "something is heard")
            yield running


@pytest.fixture(scope="module", params=["embedded", "mosquitto"])
def shared(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    with network(tmp_path_factory.mktemp("net"), request.param) as net, Target(talk) as target:
        services = {"http": ("http", "zts_agent.page:page"), "talk": ("tcp", target.address)}
        with net.linux_device("pi", services), net.board("sensor"):
            yield Shared(net)


def test_bob_uses_what_he_was_granted_and_nothing_else(shared: Shared) -> None:
    shared.grant("@pi:http", "--for", "7d")
    rows = json.loads(shared.as_bob("ls", "--json").stdout)
    assert [row["name"] for row in rows] == ["pi"] and rows[0]["online"]
    with Running(shared.bob, shared.net.folder / "bob-door", "connect", "@pi:http", "-L") as door:
        host, port = door.line().rsplit(":", 1)
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(f"GET /reading.json HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200") and b'"name": "pi"' in answer
        door.interrupt()
    assert "no service 'talk'" in failed(shared.as_bob("connect", "@pi:talk", "--stdio"), 5)
    for command in (("status", "@pi"), ("log", "@pi"), ("revoke", "--all", "@pi"), ("retire", "@pi", "--yes"), ("update", "@pi")):
        done = shared.as_bob(*command)
        assert done.returncode in (2, 5) and "Traceback" not in done.stderr, (command, done.stderr)
    assert shared.net.zts("status", "@pi").returncode == 0


def test_taken_back_in_mid_transfer(shared: Shared) -> None:
    shared.grant("@pi:talk")
    with shared.talking("@pi:talk") as bob:
        start = time.monotonic()
        done = shared.net.zts("revoke", "@bob", "@pi")
        heard = time.monotonic()
        assert done.returncode == 0, done.stderr
        code = bob.process.wait(60)
        print(f"revoke took {heard - start:.1f} s; after it Bob's stream lived {max(0.0, time.monotonic() - heard):.1f} s")
        assert time.monotonic() - heard < 2 and code == 5 and "revoked" in bob.err.splitlines()[-1], bob.err
    assert "revoked" in failed(shared.as_bob("connect", "@pi:talk", "--stdio"), 5)
    states = [row["state"] for row in json.loads(shared.net.zts("grants", "@pi", "--json").stdout)]
    assert states and set(states) == {"taken back"}
    assert "knows of no grant" in failed(shared.net.zts("revoke", "@bob", "@pi"), 2)
    # A new one is a new one; and all of them end at once, whoever made them.
    shared.grant("@pi:talk")
    with shared.talking("@pi:talk") as bob:
        assert shared.net.zts("revoke", "--all", "@pi").returncode == 0
        assert bob.process.wait(60) == 5


def test_handed_over_end_to_end(shared: Shared) -> None:
    net = shared.net
    failed(net.zts("grant", "@bob", "@pi:http", "--send"), 4)  # Bob does not wait
    with Running(shared.bob, net.folder / "bob-nobody", "add", "--wait", "--yes") as stranger:
        assert stranger.process.wait(60) == 2 and "nobody is known" in stranger.err  # he does not know Alice yet
    assert shared.as_bob("add", net.zts("card").stdout, "--yes").returncode == 0
    with Running(shared.bob, net.folder / "bob-waits", "add", "--wait", "--yes", "--as", "@delivered") as bob:
        bob.said("waiting for a grant")
        until(lambda: net.zts("grant", "@bob", "@pi:http", "--send").returncode == 0, "it is handed over")
        assert bob.process.wait(60) == 0 and "@alice (" in bob.err and "added @delivered" in bob.err, bob.err
    assert "no service 'talk'" in failed(shared.as_bob("connect", "@delivered:talk", "--stdio"), 5)
    assert shared.as_bob("remove", "@delivered", "--yes").returncode == 0


def test_members_under_rules(shared: Shared) -> None:
    rules = shared.net.home / "policy.toml"
    rules.write_text('[[rules]]\ndevices = ["@pi"]\nwho = ["@bob"]\nservices = ["talk"]\n')
    rules.chmod(0o600)
    shared.grant("@pi")
    assert shared.as_bob("connect", "@pi:talk", "--stdio").returncode == 5
    done = shared.net.zts("policy", "push", "@pi")
    assert done.returncode == 0 and "@pi has taken the rules" in done.stderr, done.stderr
    assert "yes" in shared.net.zts("policy", "test", "@bob", "@pi:talk").stdout
    with shared.talking("@pi:talk") as bob:
        rules.write_text('[[rules]]\ndevices = ["@pi"]\nwho = ["@bob"]\nservices = ["http"]\n')
        assert shared.net.zts("policy", "push", "@*").returncode == 0
        assert bob.process.wait(60) == 5, bob.err


def test_what_happened_is_in_the_log(shared: Shared) -> None:
    shared.grant("@pi:http")
    assert "no service 'talk'" in failed(shared.as_bob("connect", "@pi:talk", "--stdio"), 5)
    with Running(shared.net.home, shared.net.folder / "follow", "log", "@pi", "--follow", "--json") as log:
        with Running(shared.bob, shared.net.folder / "bob-door2", "connect", "@pi:http", "-L") as door:
            host, port = door.line().rsplit(":", 1)
            with socket.create_connection((host, int(port))) as sock:
                sock.sendall(f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
                assert b"".join(iter(lambda: sock.recv(65536), b""))

        def bobs() -> list[dict[str, Any]]:
            entries = [json.loads(line) for line in log.out.splitlines()]
            return [entry for entry in entries if (entry["name"], entry["service"], entry["code"]) == ("@bob", "http", 0)]

        assert until(bobs, "the log tells of Bob")[-1]["out"] > 500
        assert log.interrupt() == 130
    told = shared.net.zts("log", "@pi")
    assert told.returncode == 0 and "@bob  http  ok" in told.stdout and "@alice" in told.stdout


def test_an_offline_device_hears_of_it_with_the_next_command(shared: Shared) -> None:
    net = shared.net
    services = {"http": ("http", "zts_agent.page:page")}
    with net.linux_device("shed", services) as shed:
        shared.grant("@shed:http", name="@shed")
        shed.kill()
        assert "has not heard of it yet" in failed(net.zts("revoke", "@bob", "@shed"), 4)
        assert "will with the next command" in failed(net.zts("policy", "push", "@shed"), 4)
        with Running(net.home, net.folder / "waiting", "policy", "push", "@shed", "--wait") as waiting:
            shed.start()
            assert waiting.process.wait(90) == 0, waiting.err
        assert "revoked" in failed(shared.as_bob("connect", "@shed:http", "--stdio"), 5)
        shed.kill()
        shared.grant("@shed:http", name="@shed")
        assert net.zts("revoke", "@bob", "@shed").returncode == 4
        shed.start()
        until(lambda: net.zts("status", "@shed").returncode == 0, "it is back")  # any command brings it
        assert "revoked" in failed(shared.as_bob("connect", "@shed:http", "--stdio"), 5)


def test_a_retired_device_is_out(shared: Shared) -> None:
    net = shared.net
    with net.linux_device("lost", {"talk": ("tcp", "127.0.0.1:9")}) as lost:
        shared.grant("@lost:talk", name="@lost")
        assert "no terminal" in failed(net.zts("retire", "@lost"), 2)
        done = net.zts("retire", "@lost", "--yes")
        assert done.returncode == 0 and "nothing" in done.stderr and "@bob" in done.stderr, done.stderr
        if net.broker == "embedded":  # another broker drops a session when it reads its files again and the party comes back
            assert lost.running.process.wait(60) == 5
        assert failed(net.zts("connect", "@lost"), 2)
        assert shared.as_bob("connect", "@lost:talk", "--stdio").returncode in (4, 5)
        listed = net.relay.run("parties").stdout
        assert re.search(r"@lost.*revoked", listed), listed


def test_bob_connects_while_everybody_else_is_gone(tmp_path: Path) -> None:
    """Alice's computer and every device but one are gone; there is the relay, the device, and Bob."""
    with network(tmp_path / "net", "embedded") as net, net.board("sensor"):
        shared = Shared(net)
        shared.grant("@sensor:http", "--for", "1h")
        assert net.zts("status", "@sensor").returncode == 0  # the board has been told the time
        net.home.rename(tmp_path / "alice-is-gone")
        with Running(shared.bob, tmp_path / "door", "connect", "@sensor:http", "-L") as door:
            host, port = door.line().rsplit(":", 1)
            with socket.create_connection((host, int(port))) as sock:
                sock.sendall(f"GET /reading.json HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
                answer = b"".join(iter(lambda: sock.recv(65536), b""))
        assert b'"name": "sensor"' in answer
