"""No secret of a whole run appears in a command line, a log, a traceback or the metrics, in any way of writing it."""

import base64
import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

import secret_search
from relay_process import RelayProcess
from targets import Target
from whole_network import WAIT_S, Network, environment, failed, network, until, zts
from zts import codes, control, identity, leg


class Commands:
    """The command lines of all processes, looked at again and again."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Commands":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.03):
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    self.seen.add((process / "cmdline").read_bytes())


class Run:
    """What a run said, and what it must not have said."""

    def __init__(self, net: Network) -> None:
        self.net = net
        self.said: dict[str, bytes] = {}
        self.secrets: dict[str, bytes] = {}

    def zts(self, *arguments: str, code: int = 0, stdin: str = "") -> None:
        done = self.net.zts(*arguments, stdin=stdin)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        self.said[f"zts {' '.join(arguments)} ({len(self.said)})"] = (done.stdout + done.stderr).encode()

    def traceback(self) -> None:
        """A real one, of `zts` with its key in memory."""
        with open("/dev/full", "wb") as full:
            command = [sys.executable, "-m", "zts_gateway.cli", "whoami"]
            done = subprocess.run(
                command, stdout=full, stderr=subprocess.PIPE, timeout=WAIT_S, env={**environment(self.net.home), "ZTS_DEBUG": "1"}
            )
        assert done.returncode == 1 and b"Traceback" in done.stderr, done.stderr
        self.said["a traceback"] = done.stderr

    def metrics(self) -> None:
        host, port = self.net.relay.metrics
        with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=WAIT_S) as answer:
            self.said["metrics"] = answer.read()
        assert b"zts_relay_pairs" in self.said["metrics"]

    def collect_files(self) -> None:
        """What processes wrote on stdout and stderr; but the line that `zts enroll` prints for a person is meant to be a secret."""
        folder = self.net.folder
        files = [*folder.glob("runs/*/*"), *folder.glob("devices/*/run*/*"), *folder.glob("devices/*/log"), self.net.relay.log]
        for path in files:
            text = path.read_bytes()
            if path.match("runs/enroll-*/out"):
                assert text.count(b"\n") == 1
                text = b""
            self.said[str(path.relative_to(folder))] = text

    def collect_secrets(self) -> None:
        self._add_files(self.net.home / "identity.json", *self.net.home.glob("devices/*.json"))
        self._add_files(*self.net.folder.glob("devices/*/state/state.json"))
        state = self.net.relay.state
        relay_secret = (state / "relay.secret").read_bytes()
        self.secrets["K_relay"] = relay_secret
        self.secrets["relay.key"] = (state / "relay.key").read_bytes()
        key = serialization.load_pem_private_key((state / "key.pem").read_bytes(), None)
        self.secrets["key.pem"] = key.private_numbers().private_value.to_bytes(32, "big")  # type: ignore[union-attr]
        for party in ("identity", *self._parties):
            account = self.secrets.pop(f"{party} account")
            party_key = self.secrets[f"{party} party_key"]
            assert leg.party_key(relay_secret, account) == party_key
            self.secrets[f"{party} relay psk"] = control.party_psk(party_key)
            password = self.secrets[f"{party} password"].decode()
            self.secrets[f"{party} password's bytes"] = base64.b32decode(password.upper() + "=" * (-len(password) % 8))
            if party != "identity":
                self.secrets[f"{party} client id"] = identity.client_id(password).encode()

    _parties = ("pi", "sensor")

    def _add_files(self, *files: Path) -> None:
        for path in files:
            name = path.parent.parent.name if path.name == "state.json" else path.stem
            data = json.loads(path.read_text())
            for field in ("private", "pairing"):
                if field in data:
                    self.secrets[f"{name} {field} ({path.name})"] = bytes.fromhex(data[field])
            if "relay" in data:
                self.secrets[f"{name} party_key"] = bytes.fromhex(data["relay"]["party_key"])
                self.secrets[f"{name} account"] = bytes.fromhex(data["relay"]["account"])
                self.secrets[f"{name} password"] = data["relay"]["password"].encode()

    def add_codes(self, *lines: str) -> None:
        for at, line in enumerate(lines):
            code = codes.parse_enrol_line(line).code if line.startswith("zts1d:") else codes.parse_join_code(line)
            self.secrets[f"code {at}"] = code.secret
            self.secrets[f"code {at} psk"] = codes.code_psk(code.secret)


def test_a_whole_run_keeps_its_secrets(tmp_path: Path) -> None:
    with Commands() as commands, network(tmp_path / "net", "embedded") as net, Target(_parrot) as target:
        run = Run(net)
        services = {"parrot": ("tcp", target.address), "page": ("handler", "zts_agent.page:page"), "down": ("tcp", "127.0.0.1:1")}
        with net.linux_device("pi", services) as pi, net.board("sensor") as sensor:
            _use(run)
            _fail(run, tmp_path)
            run.collect_secrets()
            lines = [(net.folder / "runs" / f"enroll-{name}" / "out").read_text().strip() for name in ("pi", "sensor", "never")]
            assert net.relay.join
            run.add_codes(*lines, net.relay.join, run_code := net.relay.new_code())
            run.zts("join", "--name", "@bob", "--code-file", "-", code=2, stdin=run_code)
            for name in ("pi", "sensor", "alice"):
                assert net.relay.run("revoke", f"@{name}").returncode == 0
            assert pi.running.process.wait(WAIT_S) == 5
            sensor.wait_for("needs a person")
            until(lambda: net.zts("ls").returncode == 5, "the relay and its broker know of it")
            run.zts("doctor", code=5)
            run.metrics()
            run.collect_files()
    run.said["command lines"] = b"\n".join(commands.seen)
    # It was all there to be searched, and the search finds what is there.
    assert len(run.secrets) >= 25, sorted(run.secrets)
    assert b"--listen" in run.said["command lines"] and b"enroll" in run.said["command lines"]
    assert b'"event": "online"' in run.said["devices/sensor/log"] and b'"ready"' in run.said["relay.log"]
    planted = {name: text + base64.b64encode(b"xy" + run.secrets["K_relay"]) for name, text in run.said.items()}
    assert len(list(secret_search.found(run.secrets, planted.items()))) == len(planted)
    line = [("the line for a person", lines[0].encode())]
    assert {what.split(" in ")[0] for what in secret_search.found({"c": run.secrets["code 0"]}, line)} == {"c"}
    assert not list(secret_search.found(run.secrets, run.said.items()))


def _parrot(sock: Any) -> None:
    sock.sendall(sock.recv(100))


def _use(run: Run) -> None:
    for command in (["ls"], ["ls", "--json"], ["whoami", "--json"], ["doctor", "@pi"], ["doctor", "@sensor", "--json"]):
        run.zts(*command, code=6 if command[-1] == "@pi" else 0)
    for device in ("pi", "sensor"):
        run.zts("status", f"@{device}", "--json")
    run.zts("connect", "@pi:parrot", "--stdio", stdin="polly")
    with run.net.run("door", "connect", "@sensor", "-L") as door, urllib.request.urlopen(f"http://{door.line()}/", timeout=WAIT_S) as page:
        assert page.status == 200
        door.interrupt()


def _fail(run: Run, tmp_path: Path) -> None:
    """What goes wrong talks most."""
    run.traceback()
    run.zts("connect", "@pi:down", "--stdio", code=6)
    run.zts("connect", "@pi:nothing", "--stdio", code=5)
    run.zts("connect", "@ghost", code=2)
    run.zts("remove", "@pi", code=2)
    with run.net.run("enroll-never", "enroll", "@never") as enrolment:
        enrolment.line()
        enrolment.interrupt()
    # Files that are damaged in the middle of what is secret.
    home = tmp_path / "damaged"
    home.mkdir(mode=0o700)
    text = (run.net.home / "identity.json").read_text()
    for at, damaged in enumerate(
        (text[: len(text) // 2], re.sub('"private": "..', '"private": "zz', text), text.replace("mqtts://", "mqtt:"))
    ):
        (home / "identity.json").write_text(damaged)
        (home / "identity.json").chmod(0o600)
        done = zts(home, "ls")
        failed(done, 2)
        run.said[f"damaged {at}"] = done.stderr.encode()


def test_a_damaged_state_of_a_device_or_relay_is_not_shown(tmp_path: Path) -> None:
    with RelayProcess(tmp_path / "relay"):
        pass
    secret = (tmp_path / "relay" / "relay.secret").read_bytes()
    (tmp_path / "relay" / "relay.secret").write_bytes(secret[:-1])
    said = b""
    with pytest.raises(AssertionError) as refused, RelayProcess(tmp_path / "relay"):
        pass
    said += str(refused.value).encode()
    assert b"31 bytes" in said
    state = tmp_path / "state"
    state.mkdir()
    keys = {name: os.urandom(32) for name in ("private", "public", "pairing", "owner")}
    whole = json.dumps({**{name: key.hex() for name, key in keys.items()}, "name": "pi", "boots": 1})
    config = tmp_path / "agent.toml"
    config.write_text(f'[identity]\nstate = "{state}"\n')
    for damaged in (whole, whole[:-30], whole.replace('"private": "', '"private": "zz')):
        (state / "state.json").write_text(damaged)
        done = zts(tmp_path, "agent", "--config", str(config))
        failed(done, 2)
        said += done.stdout.encode() + done.stderr.encode()
    assert not list(secret_search.found({**keys, "K_relay": secret[:-1]}, [("what was said", said)]))


def _writings(secret: bytes) -> Iterator[bytes]:
    yield secret
    yield secret.hex().encode()
    yield repr(b"before" + secret + b"after").encode()
    yield str(list(secret)).encode()
    for before in range(6):
        for after in range(6):
            amid = bytes(range(before)) + secret + bytes(range(after))
            yield base64.b64encode(amid)
            yield base64.urlsafe_b64encode(amid).rstrip(b"=")
            yield base64.b32encode(amid)
            yield identity.base32(amid).encode()


def test_the_search_finds_every_writing_of_a_secret() -> None:
    for size in (8, 16, 26, 32):
        for _ in range(20):
            secret, other = os.urandom(size), os.urandom(size)
            for text in _writings(secret):
                assert list(secret_search.found({"it": secret}, [("text", b"x" + text + b"y")])) == ["it in text"], (secret, text)
                assert not list(secret_search.found({"it": other}, [("text", text)]))
