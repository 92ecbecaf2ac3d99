"""A field for attacks on processes: an evil broker and taps in this process, a real relay, the real `zts`, a real MicroPython device."""

import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from device_process import DeviceProcess
from hostile import EvilBroker
from loop_thread import LoopThread
from relay_process import RelayProcess
from tap import Tap
from whole_network import WAIT_S, Running, environment, zts
from zts import control, identity

DEVICE = "marker-device"
SERVICES = {
    name: {"kind": "handler", "target": f"watched:{name.partition('-')[2]}"} for name in ("marker-echo", "its-counters", "its-rotate")
}
# No exit code but these may end a `zts` under attack: 1 is an internal error.
DOCUMENTED = (3, 4, 5, 6, 7, 9)

# Runs in the device: no rate limit, room for many sessions, X25519 counted.
SETUP = "from zts_agent import board\nboard.SESSIONS = 64\nimport watched\nwatched.install()\n"
WATCHED = """
import json
from zts import control, crypto
from zts_agent import board

responder = None
calls = 0
_responder, _x25519 = control.Responder, crypto.x25519

def _make(s, now):
    global responder
    responder = _responder(s, now, 1 << 20, 1 << 20)
    return responder

def _count(private, public):
    global calls
    calls += 1
    return _x25519(private, public)

def install():
    control.Responder, crypto.x25519 = _make, _count

async def counters(reader, writer):
    writer.write(json.dumps({"x25519": calls, "refused": responder.refused}).encode())
    await writer.drain()

async def rotate(reader, writer):
    responder.rotate(board.clock())
    await counters(reader, writer)

async def echo(reader, writer):
    while True:
        data = await reader.read()
        if not data:
            return
        writer.write(data)
        await writer.drain()
"""


class Field:
    """`home` is @marker-owner's ZTS_HOME. The owner reaches the relay by `owner_tap`, the device by `device_tap`."""

    def __init__(self, folder: Path, loop: LoopThread, broker: EvilBroker, relay: RelayProcess, taps: tuple[Tap, Tap]) -> None:
        self.folder, self.loop, self.broker, self.relay = folder, loop, broker, relay
        self.owner_tap, self.device_tap = taps
        self.home = folder / "home"
        self.device: DeviceProcess

    @functools.cached_property
    def owner_fp(self) -> str:
        return str(json.loads(self.zts("whoami", "--json").stdout)["fp"])

    @property
    def device_fp(self) -> str:
        return identity.fingerprint_text(bytes.fromhex(self.device.state["public"]))

    @property
    def inbox(self) -> str:
        return control.inbox_topic(self.device_fp, self.owner_fp)

    def zts(self, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        return zts(self.home, *arguments, stdin=stdin)

    def connect(self, service: str = "marker-echo", stdin: str = "") -> "subprocess.CompletedProcess[str]":
        return self.zts("connect", f"@{DEVICE}:{service}", "--stdio", stdin=stdin)

    def start(self, *arguments: str, home: Path | None = None) -> "subprocess.Popen[str]":
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", "zts_gateway.cli", *arguments]
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment(home or self.home))

    def start_connect(self, home: Path | None = None) -> "subprocess.Popen[str]":
        return self.start("connect", f"@{DEVICE}:marker-echo", "--stdio", home=home)

    def ask(self, service: str) -> dict[str, Any]:
        """What the device counts, after a good session."""
        done = self.connect(service)
        assert done.returncode == 0, done.stderr
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    def deliver(self, messages: list[bytes]) -> None:
        """The broker delivers to the device in the owner's name."""
        topic = self.inbox
        for message in messages:
            self.loop.call(self.broker.say, topic, message)

    def answers(self) -> int:
        """Messages 2 that the device has said."""
        return len(self.broker.to(self.owner_fp))

    def through(self, line: str, tap: Tap) -> str:
        """A join code or enrolment line that leads to the tap."""
        return line.replace(identity.join_address(*self.relay.leg), identity.join_address(*tap.address))


@contextmanager
def field(folder: Path) -> Iterator[Field]:
    with LoopThread() as loop:
        broker = loop.run(EvilBroker().__aenter__())
        with RelayProcess(folder / "relay", "--broker", broker.url) as relay:
            taps = (Tap(relay.leg), Tap(relay.leg))
            for tap in taps:
                loop.run(tap.__aenter__())
            try:
                it = Field(folder, loop, broker, relay, taps)
                assert relay.join
                joined = it.zts("join", "--name", "@marker-owner", "--code-file", "-", stdin=it.through(relay.join, taps[0]))
                assert joined.returncode == 0, joined.stderr
                with Running(it.home, folder / "enroll", "enroll", f"@{DEVICE}") as enrolment:
                    line = enrolment.line().replace(identity.join_address(*taps[0].address), identity.join_address(*taps[1].address))
                    modules = {"watched": WATCHED}
                    it.device = DeviceProcess(folder / "device", line, SERVICES, heap="512K", setup=SETUP, modules=modules)
                    with it.device:
                        assert enrolment.process.wait(WAIT_S) == 0, enrolment.err
                        yield it
            finally:
                for tap in taps:
                    loop.run(tap.__aexit__())
                loop.run(broker.__aexit__())


def outcome(process: "subprocess.Popen[str]", stdin: str, sent: str) -> int:
    """Waits for a `zts connect --stdio` under attack: its exit code, after seeing that it ended as documented and said nothing wrong."""
    out, err = process.communicate(stdin, timeout=WAIT_S)
    assert sent.startswith(out), out
    assert "Traceback" not in err and "Error" not in err, err
    if process.returncode:
        assert process.returncode in DOCUMENTED, (process.returncode, err)
        assert err.splitlines()[-1].startswith(f"zts: {process.returncode}: "), err
    else:
        assert out == sent and not err, err
    return process.returncode
