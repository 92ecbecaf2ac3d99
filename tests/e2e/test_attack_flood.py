"""A thousand junk messages a second in the owner's name, while a transfer runs: no X25519, and what it costs the transfer.

ZTS_SOAK=1 (make soak) makes it ten seconds of junk.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from agent_lab import ask
from attack_field import DEVICE, SERVICES, SETUP, WATCHED, Field, field
from whole_network import WAIT_S, Running
from zts import control, identity, link, wire
from zts_gateway import client
from zts_gateway.addressbook import Book

RATE = 1_000  # messages a second
WINDOW_S = 2.0 if os.environ.get("ZTS_SOAK") else 0.7  # with junk, then as long without
ROUNDS = 5 if os.environ.get("ZTS_SOAK") else 3
PAUSE_S = 0.005
HOST = "marker-host"


@pytest.fixture(scope="module")
def it(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    with field(tmp_path_factory.mktemp("flood")) as opened:
        yield opened


@contextmanager
def _host_agent(it: Field) -> Iterator[None]:
    """A `zts agent` that counts its X25519 operations, too."""
    folder = it.folder / HOST
    folder.mkdir()
    (folder / "watched.py").write_text(WATCHED)
    tables = [f'[services.{name}]\nkind = "handler"\ntarget = "{entry["target"]}"\n' for name, entry in SERVICES.items()]
    (folder / "agent.toml").write_text('[identity]\nstate = "state"\n' + "".join(tables))
    with Running(it.home, folder / "enroll", "enroll", f"@{HOST}") as enrolment:
        (folder / "line").write_text(enrolment.line() + "\n")
        code = f"import sys; sys.path.insert(0, {str(folder)!r})\n{SETUP}from zts_gateway.cli import main; main()"
        options = ("agent", "--config", str(folder / "agent.toml"), "--join", "--code-file", str(folder / "line"))
        with (folder / "log").open("wb") as log:
            agent = subprocess.Popen([sys.executable, "-c", code, *options], stdout=log, stderr=log)
        try:
            assert enrolment.process.wait(WAIT_S) == 0, (enrolment.err, (folder / "log").read_text())
            yield
        finally:
            agent.kill()
            agent.wait()


@asynccontextmanager
async def _session(it: Field, name: str) -> AsyncIterator[link.Link]:
    book = Book(it.home)
    me, account = book.member()
    card = book.device(name)
    meeting = await client.meet(me, account, name, card.public, card.pairing, int(WAIT_S * 1000), lambda _: None)
    try:
        yield meeting.link
    finally:
        await meeting.close()


class Transfer:
    """Bytes that a device sends back, for as long as it lasts."""

    def __init__(self, stream: link.LinkStream) -> None:
        self.back = 0
        self._stream = stream
        self._over = False

    async def send(self) -> int:
        sent, piece = 0, bytes(1 << 14)
        while not self._over:
            await self._stream.send(piece)
            sent += len(piece)
        self._stream.finish()
        return sent

    async def receive(self) -> None:
        while data := await self._stream.read(1 << 18):
            self.back += len(data)

    def finish(self) -> None:
        self._over = True


def _junk() -> bytes:
    """Of the right form, so that the device must look at mac1, under both of its epochs."""
    return bytes([wire.VERSION, wire.TYPE_M1, wire.KIND_CONNECT, 0]) + bytes(8) + os.urandom(wire.M1_BYTES - 12)


async def _window(it: Field, topic: str) -> int:
    """Junk for one window; how many messages."""
    start = time.monotonic()
    said = 0
    while (elapsed := time.monotonic() - start) < WINDOW_S:
        for _ in range(int(elapsed * RATE) - said):
            it.loop.loop.call_soon_threadsafe(it.broker.say, topic, _junk())
            said += 1
        await asyncio.sleep(PAUSE_S)
    return said


async def _counters(session: link.Link) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(await ask(session, "its-counters", b""))
    return said


async def _round(it: Field, name: str, inbox: str) -> tuple[int, float, float]:
    """One session: a window in which the junk goes nowhere, one in which it goes to the device. Messages, and bytes a second in both."""
    nowhere = control.inbox_topic("a" * wire.FP_CHARS, it.owner_fp)
    async with _session(it, name) as session:
        before = await _counters(session)
        stream = session.open("marker-echo")
        await stream.opened()
        transfer = Transfer(stream)
        sending, receiving = asyncio.create_task(transfer.send()), asyncio.create_task(transfer.receive())
        rates = []
        said = 0
        for topic in (nowhere, inbox):
            at, start = transfer.back, time.monotonic()
            said = await _window(it, topic)
            rates.append((transfer.back - at) / (time.monotonic() - start))
        transfer.finish()
        await asyncio.wait_for(asyncio.gather(sending, receiving), WAIT_S)
        assert transfer.back == sending.result() > 0, "the transfer goes on to its end"
        after = await _counters(session)
        assert after["refused"]["mac1"] > before["refused"].get("mac1", 0), "it was there while the transfer ran"
        assert after["x25519"] == before["x25519"], "junk costs no X25519"
    return said, rates[0], rates[1]


async def _attack(it: Field, name: str, fp: str) -> None:
    rounds = []
    refused = 0
    for _ in range(ROUNDS):
        rounds.append(await _round(it, name, control.inbox_topic(fp, it.owner_fp)))
        # The next message 1 comes behind all of the junk, which a device without a session takes as fast as it can.
        async with _session(it, name) as session:
            refused = (await _counters(session))["refused"]["mac1"]
    said = sum(count for count, _, _ in rounds)
    assert refused >= said, "each is counted"
    ratios = [flooded / quiet for _, quiet, flooded in rounds]
    print(
        f"{name}: {said} junk messages in {ROUNDS * WINDOW_S:.1f} s, 0 X25519; transfer {rounds[-1][1] / 1e6:.2f} MB/s, with junk "
        f"{100 * statistics.median(ratios):.0f} % of that (median of {ROUNDS} rounds, worst {100 * min(ratios):.0f} %)"
    )


def test_a_flood_of_junk_costs_micropython_no_x25519(it: Field) -> None:
    asyncio.run(asyncio.wait_for(_attack(it, DEVICE, it.device_fp), 4 * WAIT_S))


def test_a_flood_of_junk_costs_a_linux_agent_no_x25519(it: Field) -> None:
    with _host_agent(it):
        fp = identity.fingerprint_text(Book(it.home).device(HOST).public)
        asyncio.run(asyncio.wait_for(_attack(it, HOST, fp), 4 * WAIT_S))
