"""A relay for tests that taps and tampers: it stands between a party and the real relay's leg port, and is programmable.

What it does to one direction of one connection is a Tamper; it sees bytes as they come, and gives what goes on.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import NamedTuple, Self

from zts import wire

# Bytes before the first record of a leg, towards the relay and from it.
UP_HEAD = wire.MAGIC_BYTES + wire.LEG_HELLO_BYTES + wire.LEG_HEADER_BYTES
DOWN_HEAD = wire.CHALLENGE_BYTES + 1 + wire.LEG_HEADER_BYTES


class Tamper:
    """Nothing is changed. `fired`: what is to be done was done."""

    fired = False
    cuts = False  # the connection ends now, on both sides
    delay_s = 0.0  # before each piece

    def take(self, data: bytes) -> bytes:
        return data


class Flip(Tamper):
    """Changes bit `bit` of the stream, counted from the first byte's lowest."""

    def __init__(self, bit: int) -> None:
        self._bit = bit
        self._at = 0

    def take(self, data: bytes) -> bytes:
        at = self._bit // 8 - self._at
        self._at += len(data)
        if not 0 <= at < len(data):
            return data
        self.fired = True
        return data[:at] + bytes([data[at] ^ 1 << self._bit % 8]) + data[at + 1 :]


class Stop(Tamper):
    """Lets `size` bytes pass. Then the connection ends, or with `silent` stays and is silent."""

    def __init__(self, size: int, silent: bool = False) -> None:
        self._left = size
        self._silent = silent

    def take(self, data: bytes) -> bytes:
        passing, self._left = data[: self._left], max(0, self._left - len(data))
        if len(passing) < len(data):
            self.fired = True
            self.cuts = not self._silent
        return passing


class Delay(Tamper):
    """Passes everything on, a while later and byte by byte."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s


class Records(Tamper):
    """Whole records behind the first `head` bytes: `change(index, record)` gives the bytes that go on in the record's place."""

    def __init__(self, head: int, change: Callable[[int, bytes], bytes]) -> None:
        self._head = head
        self._change = change
        self._buffer = b""
        self._index = 0

    def take(self, data: bytes) -> bytes:
        out, data = data[: self._head], data[self._head :]
        self._head -= len(out)
        self._buffer += data
        while len(self._buffer) >= wire.RECORD_HEAD_BYTES:
            size = wire.RECORD_HEAD_BYTES + int.from_bytes(self._buffer[:2], "big")
            if len(self._buffer) < size:
                break
            record, self._buffer = self._buffer[:size], self._buffer[size:]
            changed = self._change(self._index, record)
            self.fired = self.fired or changed != record
            out += changed
            self._index += 1
        return out


def withhold(head: int, index: int) -> Records:
    """The record of that index never comes."""
    return Records(head, lambda at, record: b"" if at == index else record)


def duplicate(head: int, index: int) -> Records:
    """The record of that index comes twice."""
    return Records(head, lambda at, record: record * 2 if at == index else record)


def swap(head: int, index: int) -> Records:
    """The record of that index comes after its successor."""
    held: list[bytes] = []

    def change(at: int, record: bytes) -> bytes:
        if at == index:
            held.append(record)
            return b""
        return record + held.pop() if held else record

    return Records(head, change)


class Seen(NamedTuple):
    """All that one connection said, before it was tampered with: towards the relay, and from it."""

    up: bytearray
    down: bytearray


Plan = Callable[[int], tuple[Tamper, Tamper]]


def honest(_: int) -> tuple[Tamper, Tamper]:
    return Tamper(), Tamper()


class Tap:
    """`async with Tap(relay's address, plan) as tap:` listens at `tap.address`. `plan(number)` gives a new connection's tampers."""

    def __init__(self, upstream: tuple[str, int], plan: Plan = honest) -> None:
        self.plan = plan
        self.seen: list[Seen] = []
        self.address = ("", 0)
        self._upstream = upstream
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._visit, "127.0.0.1", 0)
        self.address = self._server.sockets[0].getsockname()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        tampers = self.plan(len(self.seen))
        seen = Seen(bytearray(), bytearray())
        self.seen.append(seen)
        writers = [writer]
        try:
            there, back = await asyncio.open_connection(*self._upstream)
            writers.append(back)
            ways = (
                asyncio.create_task(_carry(reader, back, seen.up, tampers[0])),
                asyncio.create_task(_carry(there, writer, seen.down, tampers[1])),
            )
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_EXCEPTION)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for one in writers:
                one.close()
            for one in writers:
                with contextlib.suppress(OSError, asyncio.CancelledError):
                    await one.wait_closed()
            self._tasks.discard(task)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: bytearray, tamper: Tamper) -> None:
    """To the end of this direction, which is passed on. Raises OSError when the connection is lost or cut."""
    while data := await reader.read(1 << 16):
        seen += data
        passing = tamper.take(data)
        step = 1 if tamper.delay_s else len(passing) or 1
        for at in range(0, len(passing), step):
            await asyncio.sleep(tamper.delay_s)
            writer.write(passing[at : at + step])
            await writer.drain()
        if tamper.cuts:
            raise ConnectionAbortedError
    writer.write_eof()
