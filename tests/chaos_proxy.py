"""A TCP proxy on 127.0.0.1 that makes the way long: every byte, and every end, arrives so much later, in both directions."""

import asyncio
import contextlib
import socket
from types import TracebackType

from loop_thread import LoopThread

_READ = 1 << 16
_FLIGHT = 256  # pieces under way in one direction; the sender is held back then


class ChaosProxy:
    """`with ChaosProxy("127.0.0.1:7440", 0.1) as proxy:` passes on what comes to `proxy.address`.

    `one_way_s` may be changed at any time; what is under way keeps its order.
    """

    def __init__(self, target: str, one_way_s: float) -> None:
        self.one_way_s = one_way_s
        self.address = ""
        self._target = target.rpartition(":")
        self._thread = LoopThread()
        self._server: asyncio.Server
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> "ChaosProxy":
        self._thread.__enter__()
        self._thread.run(self._start())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._thread.run(self._stop())
        self._thread.__exit__(kind, error, trace)

    def cut(self) -> None:
        """Breaks off every connection there is now; new ones are served."""
        self._thread.run(self._cut())

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._welcome, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"

    async def _stop(self) -> None:
        self._server.close()
        await self._cut()

    async def _cut(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._join(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            there, away = await asyncio.open_connection(self._target[0], int(self._target[2]))
            writers.append(away)
            for one in writers:
                one.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            works = [asyncio.ensure_future(self._carry(*ends)) for ends in ((reader, away), (there, writer))]
            try:
                await asyncio.gather(*works)
            finally:
                for work in works:
                    work.cancel()
                await asyncio.wait(works)
        except OSError:
            pass
        finally:
            for one in writers:
                one.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        flight: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_FLIGHT)
        landing = asyncio.ensure_future(self._land(flight, writer))
        try:
            while True:
                piece = await reader.read(_READ)
                await flight.put((asyncio.get_running_loop().time() + self.one_way_s, piece))
                if not piece:
                    break
            await landing
        finally:
            landing.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await landing

    async def _land(self, flight: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
        while True:
            due, piece = await flight.get()
            await asyncio.sleep(max(0, due - asyncio.get_running_loop().time()))
            if not piece:
                await writer.drain()
                writer.write_eof()
                return
            writer.write(piece)
            await writer.drain()
