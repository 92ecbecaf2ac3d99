"""Serves a serial line: carries a stream of line messages (PROTOCOL.md, "Serial lines") to a port and back."""

import asyncio

from zts import line, wire
from zts.errors import RemoteError, StreamReset
from zts.link import LinkStream

from . import board, services

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Protocol

    class Port(Protocol):
        """What serves a line. All but `set` and `close` raise OSError when the port is gone; what it cannot do, it leaves."""

        async def read(self) -> bytes:
            """1 byte or more, as it comes."""

        async def write(self, data: bytes) -> None:
            """Takes all of `data`, as fast as the port does."""

        async def drain(self) -> None:
            """Waits until the line has seen the last bit."""

        def set(self, baud: int, data_bits: int, parity: str, stop_bits: int) -> None: ...

        def modem(self, mask: int, values: int) -> None:
            """Sets the lines in `mask`, both in one go: wire.MODEM_*."""

        def hold(self, low: bool) -> None:
            """A break begins or ends."""

        def purge(self, which: int) -> None:
            """wire.PURGE_*."""

        def state(self) -> int:
            """wire.STATE_*, with STATE_LOST if bytes were lost since the last call. A port without these lines is always ready."""

        def close(self) -> None: ...


STATE_S = 0.2  # between two looks at the port's state: to ask a USB adaptor takes about a millisecond
ENDING_S = 10  # for a message's last part, after the client has ended

_BOTH = wire.MODEM_DTR | wire.MODEM_RTS
# (lines, ms): on the usual board with two transistors RTS alone holds the chip in reset and DTR alone its boot pin low; both, neither.
# The times are those of esptool's documentation: 100 ms of reset, and 50 until the chip has looked at the boot pin.
_SEQUENCES = {
    wire.RESET_RUN: ((0, 0), (wire.MODEM_RTS, 100)),
    wire.RESET_BOOTLOADER: ((0, 0), (_BOTH, 0), (wire.MODEM_RTS, 100), (wire.MODEM_DTR, 50)),
}


def serve_port(open_port: "Callable[[], Port]") -> "services.Serve":
    """Serves one stream at a time, with the port open only meanwhile. `open_port` raises OSError, or ValueError for what no port can be."""

    async def serve(stream: LinkStream) -> None:
        try:
            port = open_port()
        except (OSError, ValueError) as error:
            board.log("serial port not opened", service=stream.service, error=str(error))
            stream.reset(wire.TARGET_REFUSED)
            return
        await serve_line(stream, port)

    return services.one_at_a_time(serve)


async def serve_line(stream: LinkStream, port: "Port") -> None:
    """Until the client ends the stream, or the port fails; then closes the port. A line has no end of its own, so the client's is also
    the end of what it hears: when all it wrote has left the port.
    """
    whole = False
    try:
        stream.accept()
        whole = await _Line(stream, port).run()
    finally:
        port.close()
    if whole:
        stream.finish()


class _Line:
    def __init__(self, stream: LinkStream, port: "Port") -> None:
        self._stream = stream
        self._port = port
        self._sending = asyncio.Lock()  # whole messages: two tasks send them

    async def run(self) -> bool:
        """Whether it ended in order, with the last message whole."""
        tasks = [asyncio.create_task(self._guard(work)) for work in (self._to_client, self._watch)]
        try:
            if await self._guard(self._to_port):
                await board.within(ENDING_S, self._sending.acquire())
                return True
        except OSError:
            self._stream.reset(wire.IDLE)
        finally:
            for task in tasks:
                await services.stop_task(task)
        return False

    async def _guard(self, work: "Callable[[], Awaitable[None]]") -> bool:
        """Whether it ended in order."""
        try:
            await work()
            return True
        except StreamReset:
            pass
        except RemoteError as error:
            board.log("line broken off", service=self._stream.service, error=str(error))
            self._stream.reset(error.code)
        except OSError as error:
            board.log("serial port lost", service=self._stream.service, error=str(error))
            self._stream.reset(wire.TARGET_RESET)
        return False

    # --- from the port -------------------------------------------------------------------------------------------------

    async def _to_client(self) -> None:
        while True:
            await self._send(line.data(await self._port.read()))

    async def _watch(self) -> None:
        last = -1
        while True:
            bits = self._port.state() | (wire.STATE_READ_ONLY if self._stream.read_only else 0)
            if bits & wire.STATE_LOST:
                board.log("serial port lost bytes", service=self._stream.service)
            if bits != last:
                await self._send(line.encode(wire.LINE_STATE, bytes([bits])))
                last = bits & ~wire.STATE_LOST
            await asyncio.sleep(STATE_S)

    async def _send(self, messages: bytes) -> None:
        async with self._sending:
            await self._stream.send(messages)

    # --- to the port -----------------------------------------------------------------------------------------------------

    async def _to_port(self) -> None:
        decoder = line.Decoder()
        while True:
            piece = await self._stream.read(line.DATA_MAX)
            if not piece:
                break
            for kind, body in decoder.feed(piece):
                if self._stream.read_only:
                    pass
                elif kind == wire.LINE_DATA:
                    await self._port.write(body)
                else:
                    await self._obey(kind, body)
        if not decoder.is_between():
            raise RemoteError("the stream ended within a line message", wire.TRUNCATED)
        await self._port.drain()

    async def _obey(self, kind: int, body: bytes) -> None:
        port = self._port
        if kind == wire.LINE_PURGE:
            port.purge(body[0])
            return
        await port.drain()  # what the client said before goes out as the line was then
        if kind == wire.LINE_SETTINGS:
            baud, data_bits, parity, stop_bits = line.read_settings(body)
            port.set(baud, data_bits, parity, stop_bits)
        elif kind == wire.LINE_MODEM:
            port.modem(body[0] & _BOTH, body[1])
        elif kind == wire.LINE_BREAK:
            try:
                port.hold(True)
                await asyncio.sleep(int.from_bytes(body, "big") / 1000)
            finally:
                port.hold(False)
        elif kind == wire.LINE_RESET and body[0] in _SEQUENCES:
            try:
                for lines, ms in _SEQUENCES[body[0]]:
                    port.modem(_BOTH, lines)
                    if ms:
                        await asyncio.sleep(ms / 1000)
            finally:
                port.modem(_BOTH, 0)  # also when the client leaves meanwhile: the chip must run
        else:
            raise RemoteError("a line message that no client sends")
