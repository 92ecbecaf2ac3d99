"""The agent's MQTT client against real brokers, ours and mosquitto, and its pinned TLS against the wrong certificate."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from host.mqtt_engines import MOSQUITTO, Embedded, Engine, Mosquitto, Party, log_in
from zts import control
from zts.errors import CryptoError
from zts_agent import board, mqtt
from zts_relay import certificate

WAIT_S = 30.0
HELLO = bytes(21)


@pytest.fixture(params=["embedded", "mosquitto"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    assert MOSQUITTO, "these tests need mosquitto"
    engine: Engine = Embedded() if request.param == "embedded" else Mosquitto(tmp_path / "mosquitto", parties=4)
    try:
        yield engine
    finally:
        engine.close()


class Running:
    """A logged-in client that listens to its inbox."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self.client: mqtt.Client
        self.task: asyncio.Task[None]

    async def take(self, topic: str, payload: bytes) -> None:
        self.heard.put_nowait((topic, payload))

    async def next(self) -> tuple[str, bytes]:
        return await asyncio.wait_for(self.heard.get(), WAIT_S)


@contextlib.asynccontextmanager
async def _client(engine: Engine, party: Party) -> AsyncIterator[Running]:
    running = Running()
    reader, writer = await board.dial(*engine.address)
    running.client = mqtt.Client(reader, writer, running.take)
    try:
        await running.client.login(party.fp[:23], party.fp, party.password.decode(), control.hello_topic(party.fp))
        await running.client.subscribe(control.inbox_topic(party.fp, "+"))
        running.task = asyncio.create_task(running.client.run(_nothing))
        yield running
    finally:
        running.client.close()
        with contextlib.suppress(Exception):
            await running.task


async def _nothing() -> None:
    pass


def test_messages_both_ways_and_the_will(engine: Engine) -> None:
    device, owner = engine.party(), engine.party()

    async def go() -> None:
        async with _client(engine, owner) as alice, _client(engine, device) as pi:
            await pi.client.publish(control.hello_topic(device.fp), HELLO, retain=True)
            for size in (0, 1, 100, 512):
                await alice.client.publish(control.inbox_topic(device.fp, owner.fp), bytes(size))
                assert await pi.next() == (control.inbox_topic(device.fp, owner.fp), bytes(size))
            await pi.client.publish(control.inbox_topic(owner.fp, device.fp), b"answer")
            assert await alice.next() == (control.inbox_topic(owner.fp, device.fp), b"answer")

            wire = await asyncio.to_thread(log_in, engine, owner)
            with wire:
                assert await asyncio.to_thread(wire.subscribe, control.hello_topic(device.fp)) == [0]
                assert await asyncio.to_thread(wire.fence) == [(control.hello_topic(device.fp), HELLO, True)]
                pi.client.close()
                end = asyncio.get_running_loop().time() + WAIT_S
                while not (messages := await asyncio.to_thread(wire.fence)):
                    assert asyncio.get_running_loop().time() < end
                assert messages == [(control.hello_topic(device.fp), b"", False)]

    asyncio.run(go())


def test_a_wrong_password_is_not_a_network_failure(engine: Engine) -> None:
    party = engine.party()

    async def go() -> None:
        reader, writer = await board.dial(*engine.address)
        client = mqtt.Client(reader, writer, Running().take)
        with pytest.raises(mqtt.LoginRefused):
            await client.login("agent", party.fp, "wrong", control.hello_topic(party.fp))
        client.close()

    asyncio.run(go())


def test_a_second_login_drops_the_first(engine: Engine) -> None:
    party = engine.party()

    async def go() -> None:
        async with _client(engine, party) as first, _client(engine, party):
            with pytest.raises(mqtt.Dropped):
                await asyncio.wait_for(first.task, WAIT_S)

    asyncio.run(go())


def test_it_outlives_the_brokers_patience(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a keep-alive of 1 s a broker waits 1.5 s; the client's PINGs are all that keeps it."""
    monkeypatch.setattr(mqtt, "KEEPALIVE_S", 1)
    monkeypatch.setattr(mqtt, "PING_MS", 300)
    monkeypatch.setattr(mqtt, "TICK_S", 0.1)
    party = engine.party()

    async def go() -> None:
        async with _client(engine, party) as one:
            await asyncio.sleep(4)
            assert not one.task.done()

    asyncio.run(go())


# --- TLS -------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _tls_server(context: ssl.SSLContext) -> AsyncIterator[tuple[str, int, list[bytes]]]:
    """A server that records what it is told, after its handshake."""
    told: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1000):
                told.append(data)
                writer.write(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    host, port = server.sockets[0].getsockname()
    try:
        yield host, port, told
    finally:
        server.close()


def test_the_pinned_certificate_and_no_other(tmp_path: Path) -> None:
    context, pin = certificate.make(tmp_path / "relay")
    _, other = certificate.make(tmp_path / "other")

    async def go() -> None:
        async with _tls_server(context) as (host, port, told):
            for wrong in (other, pin[:-1] + bytes([pin[-1] ^ 1]), bytes(32), b"", pin[:16]):
                with pytest.raises(CryptoError):
                    await board.dial_tls(host, port, wrong)
            reader, writer = await board.dial_tls(host, port, pin)
            writer.write(b"hello")
            assert await asyncio.wait_for(reader.readexactly(5), WAIT_S) == b"hello"
            assert told == [b"hello"]
            board.break_off(writer)
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    asyncio.run(go())


def test_a_port_that_does_not_speak_tls_is_an_error() -> None:
    async def go() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 this is no TLS\r\n")
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        with pytest.raises(OSError):
            await board.dial_tls(host, port, bytes(32))
        server.close()

    asyncio.run(go())
