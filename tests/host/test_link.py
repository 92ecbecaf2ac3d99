"""Two links over real sockets, a blind pair of pipes between them: data, backpressure, ends of streams and of legs."""

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import Awaitable, Callable

import pytest

from zts import session, wire
from zts.errors import CryptoError, LocalError, StreamReset
from zts.link import HOST_READ, Link, LinkStream

HOST = session.Offer(wire.RECORD_MAX_LEN, wire.HOST_WINDOW)
BOARD = session.Offer(wire.BOARD_MAX_RECORD, wire.BOARD_WINDOW)
KEY = bytes(32)
TIMES = session.Times(10_000, 10_000, 25_000)


def clock() -> int:
    return time.monotonic_ns() // 1_000_000


class Legs:
    """A client's and a device's link whose sockets meet in this process; `tamper(bytes)` sees what the client sends."""

    def __init__(self, serve: Callable[[LinkStream], Awaitable[None]], device: session.Offer = HOST, times: session.Times = TIMES) -> None:
        self.tamper: Callable[[bytes], bytes] = lambda data: data
        self.tasks: list[asyncio.Task[None]] = []
        self.failures: list[Exception] = []
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._serve = serve
        self.client = Link(session.Session(wire.ROLE_CLIENT, KEY, HOST, device, 64, times), clock, HOST_READ)
        self.device = Link(
            session.Session(wire.ROLE_DEVICE, KEY, device, HOST, 64, times), clock, HOST_READ, [(wire.SERVICE_TCP, "x")], self._on_open
        )

    def _on_open(self, stream: LinkStream) -> None:
        self._spawn(self._serve_quietly(stream))

    async def _serve_quietly(self, stream: LinkStream) -> None:
        with contextlib.suppress(StreamReset):
            await self._serve(stream)

    def _spawn(self, work: Awaitable[None]) -> None:
        self.tasks.append(asyncio.ensure_future(work))

    async def _run(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await link.run(reader, writer)
        except Exception as failure:
            self.failures.append(failure)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, outbound: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(HOST_READ):
                writer.write(self.tamper(data) if outbound else data)
                await writer.drain()
                await self.flowing.wait()
        writer.close()

    async def __aenter__(self) -> "Legs":
        arrived: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self._server = await asyncio.start_server(lambda r, w: arrived.put_nowait((r, w)), "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        for link in (self.client, self.device):
            link.session.start_leg(clock())
        ours = await asyncio.open_connection(host, port)
        relay_client = await arrived.get()
        theirs = await asyncio.open_connection(host, port)
        relay_device = await arrived.get()
        self._relay = (relay_client[1], relay_device[1])
        self._spawn(self._carry(relay_client[0], relay_device[1], True))
        self._spawn(self._carry(relay_device[0], relay_client[1], False))
        self._spawn(self._run(self.client, *ours))
        self._spawn(self._run(self.device, *theirs))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.flowing.set()
        self.client.close()
        self.device.close()
        await asyncio.wait_for(asyncio.gather(*self.tasks), 20)
        self._server.close()

    def cut(self) -> None:
        for writer in self._relay:
            writer.transport.abort()


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


async def echo(stream: LinkStream) -> None:
    stream.accept()
    while data := await stream.read():
        await stream.send(data)
    stream.finish()


async def exchange(stream: LinkStream, data: bytes) -> bytes:
    """Sends `data`, finishes, and reads the answer to its end."""

    async def write() -> None:
        for at in range(0, len(data), 100_000):
            await stream.send(data[at : at + 100_000])
        stream.finish()

    writing = asyncio.ensure_future(write())
    got = bytearray()
    while part := await stream.read(HOST_READ):
        got += part
    await writing
    return bytes(got)


@pytest.mark.parametrize("offer", [HOST, BOARD], ids=["host", "board"])
def test_eight_streams_at_once_and_all_is_forgotten(offer: session.Offer) -> None:
    async def test() -> None:
        async with Legs(echo, offer) as legs:
            assert await legs.client.ready()
            assert legs.client.services == [(wire.SERVICE_TCP, "x")]
            sent = [os.urandom(1_250_000 if offer is HOST else 100_000) for _ in range(8)]
            got = await asyncio.gather(*(exchange(legs.client.open("x"), data) for data in sent))
            assert [hashlib.sha256(data).digest() for data in got] == [hashlib.sha256(data).digest() for data in sent]
            while legs.client.session.streams() or legs.device.session.streams():
                await asyncio.sleep(0)
            assert not legs.client._streams and not legs.device._streams
        assert not legs.failures

    run(test)


def test_one_stalled_stream_does_not_stop_the_others() -> None:
    async def serve(stream: LinkStream) -> None:
        stream.accept()
        if stream.service == "stalled":
            await asyncio.Event().wait()
        await echo(stream)

    async def test() -> None:
        async with Legs(serve) as legs:
            await legs.client.ready()
            stalled = legs.client.open("stalled")
            filling = asyncio.ensure_future(stalled.send(bytes(10 * wire.HOST_WINDOW)))
            data = os.urandom(3_000_000)
            assert await exchange(legs.client.open("x"), data) == data
            assert not filling.done() and stalled.bytes_out == wire.HOST_WINDOW
            filling.cancel()
            legs.tasks[-2].cancel()
            with pytest.raises(asyncio.CancelledError):
                await legs.tasks.pop(-2)

    run(test)


def test_half_close_lets_the_answer_follow() -> None:
    async def serve(stream: LinkStream) -> None:
        stream.accept()
        total = 0
        while data := await stream.read():
            total += len(data)
        await stream.send(b"got %d" % total)
        stream.finish()

    async def test() -> None:
        async with Legs(serve) as legs:
            await legs.client.ready()
            stream = legs.client.open("x")
            await stream.opened()
            await stream.send(b"x" * 100)
            stream.finish()
            assert await stream.read() == b"got 100"
            assert await stream.read() == b""

    run(test)


def test_a_refusal_says_why() -> None:
    async def serve(stream: LinkStream) -> None:
        stream.reset(wire.TARGET_REFUSED)

    async def test() -> None:
        async with Legs(serve) as legs:
            await legs.client.ready()
            stream = legs.client.open("x")
            with pytest.raises(StreamReset) as caught:
                await stream.opened()
            assert caught.value.code == wire.TARGET_REFUSED
            with pytest.raises(StreamReset):
                await stream.send(b"x")
            stream.finish()

    run(test)


def test_a_stream_that_ended_at_once_still_hears_that_it_was_opened() -> None:
    async def test() -> None:
        async with Legs(echo) as legs:
            await legs.client.ready()
            stream = legs.client.open("x")
            stream.finish()
            await stream.opened()
            assert await stream.read() == b""

    run(test)


def test_readline_over_any_chunking() -> None:
    async def serve(stream: LinkStream) -> None:
        stream.accept()
        lines = []
        while line := await stream.readline():
            lines.append(line)
        stream.write(repr(lines).encode())
        await stream.drain()
        stream.finish()

    async def test() -> None:
        text = b"GET / HTTP/1.1\r\n\r\nlast"
        async with Legs(serve) as legs:
            await legs.client.ready()
            for size in (1, 2, 5, 100):
                stream = legs.client.open("x")
                for at in range(0, len(text), size):
                    await stream.send(text[at : at + size])
                stream.finish()
                assert await stream.read() == repr([b"GET / HTTP/1.1\r\n", b"\r\n", b"last"]).encode()

    run(test)


def test_a_cut_leg_is_never_an_end_of_file() -> None:
    async def test() -> None:
        async with Legs(echo) as legs:
            await legs.client.ready()
            stream = legs.client.open("x")
            await stream.send(b"before")
            assert await stream.read() == b"before"
            legs.cut()
            with pytest.raises(StreamReset) as caught:
                await stream.read()
            assert caught.value.code == wire.TRUNCATED
            await legs.client.wait_over()
            with pytest.raises(LocalError):
                legs.client.open("x")
        assert len(legs.failures) == 2 and all(isinstance(failure, OSError | EOFError) for failure in legs.failures)

    run(test)


def test_a_tampered_leg_delivers_nothing() -> None:
    seen: list[bytes] = []

    async def serve(stream: LinkStream) -> None:
        stream.accept()
        seen.append(await stream.read())

    async def test() -> None:
        async with Legs(serve) as legs:
            await legs.client.ready()
            stream = legs.client.open("x")
            await stream.opened()
            legs.tamper = lambda data: data[:-1] + bytes([data[-1] ^ 1])
            await stream.send(b"secret")
            with pytest.raises(StreamReset):
                await stream.read()
        assert not seen and any(isinstance(failure, CryptoError) for failure in legs.failures)

    run(test)


def test_goaway_ends_both_with_its_reason() -> None:
    async def test() -> None:
        async with Legs(echo) as legs:
            await legs.client.ready()
            legs.device.close(wire.DRAIN)
            await legs.client.wait_over()
            assert legs.client.reason == wire.DRAIN
        assert not legs.failures

    run(test)


def test_a_leg_that_takes_no_bytes_is_not_waited_for() -> None:
    async def test() -> None:
        async with Legs(echo) as legs:
            await legs.client.ready()
            streams = [legs.client.open("x") for _ in range(32)]
            for stream in streams:
                await stream.opened()
            legs.flowing.clear()
            sending = [asyncio.ensure_future(stream.send(bytes(wire.HOST_WINDOW + 1))) for stream in streams]
            moved, before = 0, -1
            while moved != before:
                await asyncio.sleep(0.2)
                moved, before = sum(stream.bytes_out for stream in streams), moved
            legs.client.close()
            # Long before the silence of the other side would end it.
            await asyncio.wait_for(legs.client.wait_over(), TIMES.dead / 2000)
            for sent in await asyncio.gather(*sending, return_exceptions=True):
                assert isinstance(sent, StreamReset | LocalError)

    run(test)


def test_a_silent_other_side_is_noticed() -> None:
    async def test() -> None:
        async with Legs(echo, times=session.Times(10_000, 1_000, 2_500)) as legs:
            await legs.client.ready()
            swallowed = asyncio.Event()

            def swallow(data: bytes) -> bytes:
                swallowed.set()
                return b""

            legs.tamper = swallow
            await legs.device.wait_over()
            assert swallowed.is_set()
        assert legs.failures

    run(test)
