"""How a program on this computer meets a serial line: as plain bytes, or by RFC 2217. Each is source and sink of a stream in one.

What is read from them are line messages to send; what is written to them are pieces of the messages that came.
"""

import asyncio
from collections.abc import Iterator

from zts import line, wire
from zts.errors import RemoteError, StreamReset
from zts_agent import board
from zts_gateway import rfc2217
from zts_gateway.forward import Sink, Source
from zts_gateway.reset_macro import ResetMacro

_BREAK_MIN_MS = 100  # one that telnet's own command asks for has no length
_BREAK_MAX_MS = 0xFFFF

# How long an answer that came late is kept for a program that is between two tries: until it asks again, or has been quiet for
# _QUIET_MS. pyserial looks every 50 ms whether it was answered, and esptool waits another 50.
_QUIET_MS = 200
_KEEP_MAX = 1 << 16  # bytes


class Messages:
    """The messages in what comes from the device."""

    def __init__(self) -> None:
        self._decoder = line.Decoder()

    def read(self, piece: bytes) -> Iterator[tuple[int, bytes]]:
        """Raises StreamReset."""
        try:
            yield from self._decoder.feed(piece)
        except RemoteError:
            raise StreamReset(wire.PROTO) from None

    def end(self) -> None:
        """Raises StreamReset for a stream that ended within a message."""
        if not self._decoder.is_between():
            raise StreamReset(wire.TRUNCATED)


class Plain:
    """The line's bytes, and nothing else: settings and lines stay as the device has them."""

    def __init__(self, source: Source, sink: Sink) -> None:
        self._source = source
        self._sink = sink
        self._messages = Messages()
        self.drain = sink.drain

    async def read(self, n: int, /) -> bytes:
        return line.data(await self._source.read(n))

    def write(self, data: bytes, /) -> None:
        """Raises StreamReset."""
        for kind, body in self._messages.read(data):
            if kind == wire.LINE_DATA:
                self._sink.write(body)

    async def finish(self) -> None:
        self._messages.end()
        await self._sink.finish()


class Rfc2217:
    """A telnet client such as pyserial's rfc2217://. What it asks is answered here, at once, and told the device in order."""

    def __init__(self, source: Source, sink: Sink) -> None:
        self._source = source
        self._sink = sink
        self._messages = Messages()
        self._server = rfc2217.Server()
        self._macro = ResetMacro()
        self._told: rfc2217.Settings | None = None
        self._break_since: int | None = None
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._waits = False  # the program asked the device something, and nothing has come since
        self._kept = bytearray()  # the answer, while the program does not look
        self._keep_until: int | None = None
        self._ended = False

    async def read(self, n: int, /) -> bytes:
        said = b""
        while not said and not self._ended:
            await self._answer()
            try:
                async with asyncio.timeout(self._patience()):
                    piece = await self._source.read(n)
            except TimeoutError:
                said = self._pass_time()
                continue
            if piece:
                said = b"".join(self._translate(event) for event in self._server.receive(piece))
                if self._server.is_suspended:
                    self._resumed.clear()
                else:
                    self._resumed.set()
            else:
                self._ended = True
                self._resumed.set()  # nobody is left who could
                said = self._macro.settle()
        await self._answer()
        return said

    def write(self, data: bytes, /) -> None:
        """Raises StreamReset."""
        for kind, body in self._messages.read(data):
            if kind == wire.LINE_STATE:
                self._server.tell_state(body[0])
            elif kind == wire.LINE_DATA and self._keep_until is not None and len(self._kept) + len(body) <= _KEEP_MAX:
                self._kept += body
            elif kind == wire.LINE_DATA:
                self._release()
                self._server.send(body)
                self._waits = False
        self._sink.write(self._server.output())

    async def drain(self) -> None:
        await self._sink.drain()
        await self._resumed.wait()

    async def finish(self) -> None:
        self._messages.end()
        self._release()
        await self._answer()
        await self._sink.finish()

    async def _answer(self) -> None:
        """What the server has to say goes out before more is read, so that no client makes us hold ever more."""
        self._sink.write(self._server.output())
        await self._sink.drain()

    def _patience(self) -> float | None:
        deadlines = [deadline for deadline in (self._macro.deadline, self._keep_until) if deadline is not None]
        return max(0, min(deadlines) - board.clock()) / 1000 if deadlines else None

    def _pass_time(self) -> bytes:
        now = board.clock()
        if self._keep_until is not None and now >= self._keep_until:
            self._release()
        if self._macro.deadline is not None and now >= self._macro.deadline:
            return self._macro.settle()
        return b""

    def _release(self) -> None:
        self._keep_until = None
        if self._kept:
            self._server.send(bytes(self._kept))
            self._kept.clear()
            self._waits = False

    def _translate(self, event: rfc2217.Event) -> bytes:
        """The messages that tell the device."""
        now = board.clock()
        if self._keep_until is not None:
            self._keep_until = now + _QUIET_MS
        if isinstance(event, rfc2217.Modem):
            return self._macro.change(event.mask, event.values, now)
        if isinstance(event, rfc2217.Data):
            self._release()
            self._waits = True
            return self._macro.settle() + line.data(event.data)
        if isinstance(event, rfc2217.Settings):
            # A program that sets its timeout sets all else anew, so pyserial says it. If it still waits for an answer, it has given up on
            # that, and would throw away what came now with all that is old: what a slow way made late is not.
            if self._waits:
                self._keep_until = now + _QUIET_MS
            if event == self._told:
                return b""
            self._told = event
            return self._macro.settle() + line.settings(*event)
        if isinstance(event, rfc2217.Purge):
            return self._macro.settle() + line.encode(wire.LINE_PURGE, bytes([event.which]))
        if event.on:
            self._break_since = now
            return b""
        if self._break_since is None:
            return b""
        ms = min(max(now - self._break_since, _BREAK_MIN_MS), _BREAK_MAX_MS)
        self._break_since = None
        return self._macro.settle() + line.encode(wire.LINE_BREAK, ms.to_bytes(2, "big"))
