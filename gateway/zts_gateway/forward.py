"""Bytes between a stream and something local: a TCP connection or this process's stdin and stdout."""

import asyncio
from typing import Protocol

from zts import wire
from zts.errors import LocalError, StreamReset
from zts.link import LinkStream
from zts_gateway.client import Meeting

READ_BYTES = 1 << 18
_LINGER_S = 5.0  # for the other side to acknowledge the end of a stream


class Source(Protocol):
    async def read(self, n: int, /) -> bytes: ...


class Sink(Protocol):
    def write(self, data: bytes, /) -> None: ...
    async def drain(self) -> None: ...
    async def finish(self) -> None: ...


class TcpSink:
    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.write = writer.write
        self.drain = writer.drain

    async def finish(self) -> None:
        """A half-close, once all before it is in the kernel."""
        self._writer.transport.set_write_buffer_limits(0)
        await self._writer.drain()
        self._writer.write_eof()


async def carry(stream: LinkStream, source: Source, sink: Sink) -> None:
    """Both ways, until both directions have ended with a FIN; each end is passed on by itself.

    Raises StreamReset when the stream ended without, OSError when the local side did: the other side then hears of it.
    """
    tasks = [asyncio.create_task(_up(stream, source)), asyncio.create_task(_down(stream, sink))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    except asyncio.CancelledError:
        stream.reset(wire.TARGET_RESET)
        raise
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    errors = [error for task in tasks if not task.cancelled() and (error := task.exception())]
    # One side's end makes the other fail too: the stream's code says more than a local error that follows from it.
    for error in sorted(errors, key=lambda error: not isinstance(error, StreamReset)):
        stream.reset(wire.TARGET_RESET)
        raise error


async def _up(stream: LinkStream, source: Source) -> None:
    while data := await source.read(READ_BYTES):
        try:
            await stream.send(data)
        except LocalError:  # the link saw the end of the session a moment before we did
            raise StreamReset(wire.TRUNCATED) from None
    stream.finish()


async def _down(stream: LinkStream, sink: Sink) -> None:
    while data := await stream.read(READ_BYTES):
        sink.write(data)
        await sink.drain()
    await sink.finish()


async def settle(meeting: Meeting, stream: LinkStream) -> None:
    """Waits until the device knows that the stream ended in order: a session that closes earlier would cut it."""
    try:
        async with asyncio.timeout(_LINGER_S):
            while meeting.link.session.is_open(stream.id):
                await asyncio.sleep(0.005)
    except TimeoutError:
        pass
