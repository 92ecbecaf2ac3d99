"""Bytes through a real relay: every one comes back, over eight streams at once, and a stream that stalls holds up no other."""

import asyncio
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_lab import WAIT_S, Device, HostAgent, Owner, reset_code, target, until
from device_process import DeviceProcess
from relay_process import RelayProcess
from zts import link, wire
from zts.errors import LocalError

STREAMS = 8
HOST_BYTES = 10_000_000  # a stream and direction
BALLAST = 64 << 20  # more than windows and all the kernel's buffers on the way hold
BOARD_BYTES = 1_000_000  # in all, each way

_ECHO = """
async def echo(reader, writer):
    while True:
        data = await reader.read()
        if not data:
            return
        writer.write(data)
        await writer.drain()

async def deaf(reader, writer):
    import asyncio
    await asyncio.sleep(3600)
"""


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 18):
        writer.write(data)
        await writer.drain()
    writer.write_eof()
    # Closing now would reset what is still on its way.
    await writer.drain()


async def _there_and_back(session: link.Link, service: str, data: bytes, half_close: bool = True) -> None:
    stream = session.open(service)
    await stream.opened()
    back = hashlib.sha256()

    async def send() -> None:
        await stream.send(data)
        if half_close:
            stream.finish()

    async def receive() -> int:
        size = 0
        while (half_close or size < len(data)) and (got := await stream.read(1 << 18)):
            back.update(got)
            size += len(got)
        return size

    _, size = await asyncio.gather(send(), receive())
    assert size == len(data) and back.digest() == hashlib.sha256(data).digest()
    if not half_close:
        stream.reset(wire.OK)


async def _many(session: link.Link, service: str, size: int, half_close: bool = True) -> None:
    started = time.perf_counter()
    data = [os.urandom(size) for _ in range(STREAMS)]
    await asyncio.gather(*[_there_and_back(session, service, one, half_close) for one in data])
    took = time.perf_counter() - started
    print(f"{service}: {STREAMS} x {size} bytes each way in {took:.2f} s, {2 * STREAMS * size / took / 1e6:.2f} MB/s")


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[RelayProcess]:
    with RelayProcess(tmp_path / "relay") as relay:
        yield relay


def _owner_and_device(relay: RelayProcess, name: str) -> tuple[Owner, Device]:
    assert relay.join
    owner = asyncio.run(Owner.join(relay.join))
    return owner, asyncio.run(owner.invite(name))


def test_host_agent(relay: RelayProcess, tmp_path: Path) -> None:
    owner, device = _owner_and_device(relay, "pi")

    async def go() -> None:
        async with (
            target(_echo) as address,
            HostAgent(tmp_path / "pi", device, {"echo": {"kind": "tcp", "target": address}}),
            owner.session(device) as session,
        ):
            await _many(session, "echo", HOST_BYTES)

    asyncio.run(go())


def test_micropython_agent(relay: RelayProcess, tmp_path: Path) -> None:
    owner, device = _owner_and_device(relay, "sensor42")

    async def go() -> None:
        async with target(_echo) as address:
            services = {"echo": {"kind": "handler", "target": "echo:echo"}, "near": {"kind": "tcp", "target": address}}
            with DeviceProcess(tmp_path / "device", device.line, services, modules={"echo": _ECHO}) as process:
                device.public = bytes.fromhex(process.state["public"])
                async with owner.session(device) as session:
                    await _many(session, "echo", BOARD_BYTES // STREAMS)
                    # Its sockets cannot pass on that one direction has ended.
                    await _many(session, "near", BOARD_BYTES // STREAMS, half_close=False)

    asyncio.run(go())


async def _stalled_and_swift(session: link.Link, size: int) -> None:
    ballast = bytes(BALLAST)
    stalled = [session.open("deaf") for _ in range(STREAMS - 2)]
    pushing = []
    for stream in stalled:
        await stream.opened()
        pushing.append(asyncio.create_task(stream.send(ballast)))
    # One that answers, and whose answer nobody takes.
    full = session.open("echo")
    await full.opened()
    pushing.append(asyncio.create_task(full.send(ballast)))
    data = os.urandom(size)
    await asyncio.wait_for(_there_and_back(session, "echo", data), WAIT_S)
    assert not any(push.done() for push in pushing)
    for stream in [*stalled, full]:
        stream.reset(wire.OK)
    await asyncio.wait(pushing)
    assert all(push.exception() is not None for push in pushing)


def test_stalled_streams_hold_up_no_other_on_a_host(relay: RelayProcess, tmp_path: Path) -> None:
    owner, device = _owner_and_device(relay, "pi")

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(3600)

    async def go() -> None:
        async with target(_echo) as echo, target(deaf) as mute:
            services = {"echo": {"kind": "tcp", "target": echo}, "deaf": {"kind": "tcp", "target": mute}}
            async with HostAgent(tmp_path / "pi", device, services), owner.session(device) as session:
                await _stalled_and_swift(session, HOST_BYTES)

    asyncio.run(go())


def test_what_serves_a_stream_ends_when_the_client_gives_it_up(relay: RelayProcess, tmp_path: Path) -> None:
    owner, device = _owner_and_device(relay, "pi")

    async def go() -> None:
        finished = asyncio.Event()

        async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            finished.set()
            await asyncio.sleep(3600)

        async with target(mute) as address:
            services = {"mute": {"kind": "tcp", "target": address}}
            async with HostAgent(tmp_path / "pi", device, services) as agent, owner.session(device) as session:
                # In the middle; when the device waits for its target alone; and before it has begun to serve.
                for when in ("open", "finished", "at once"):
                    stream = session.open("mute")
                    if when != "at once":
                        await stream.opened()
                    if when == "finished":
                        stream.finish()
                        await asyncio.wait_for(finished.wait(), WAIT_S)
                    stream.reset(wire.OK)
                (running,) = agent.agent.sessions._running
                await until(lambda: not session.session.streams() and not running.streams)

    asyncio.run(go())


def test_stalled_streams_hold_up_no_other_on_micropython(relay: RelayProcess, tmp_path: Path) -> None:
    owner, device = _owner_and_device(relay, "sensor42")
    services = {name: {"kind": "handler", "target": f"echo:{name}"} for name in ("echo", "deaf")}
    with DeviceProcess(tmp_path / "device", device.line, services, modules={"echo": _ECHO}) as process:
        device.public = bytes.fromhex(process.state["public"])

        async def go() -> None:
            async with owner.session(device) as session:
                await _stalled_and_swift(session, 100_000)
                # Their places are free again, all of them; the ninth is one too many, as the device has said.
                streams = [session.open("echo") for _ in range(wire.BOARD_STREAMS)]
                for stream in streams:
                    await stream.opened()
                with pytest.raises(LocalError):
                    session.open("echo")
                # Told so all the same, the device refuses it alone.
                session.session._max_streams = wire.HOST_STREAMS
                assert await reset_code(session.open("echo")) == wire.BUSY
                await streams[0].send(b"still there")
                assert await streams[0].read() == b"still there"

        asyncio.run(go())
