"""A serial line without a network: the laptop's forms of it on a real connection, and in the device's place a list of what it is told."""

import asyncio
import contextlib
from collections.abc import Callable
from types import TracebackType

from loop_thread import LoopThread
from zts import line, wire
from zts_gateway import forward, line_forms

NAMES = {value: name for name, value in vars(wire).items() if name.startswith("LINE_")}


class LinePeer:
    """`with LinePeer(line_forms.Rfc2217) as peer:` serves `peer.address`, one connection after the other.

    told: (name of the message's type, body) of what the programs did, in order; DATA that follow on DATA are one.
    on_data: answers bytes of the line with bytes of the line.
    """

    def __init__(
        self, form: type[line_forms.Plain] | type[line_forms.Rfc2217], on_data: Callable[[bytes], bytes] = lambda data: b""
    ) -> None:
        self.told: list[tuple[str, bytes]] = []
        self.address = ""
        self.errors: list[BaseException] = []
        self.held = 0.0  # seconds that an answer takes
        self._form = form
        self.on_data = on_data
        self._thread = LoopThread()
        self._visits: set[asyncio.Task[None]] = set()
        self._local: line_forms.Plain | line_forms.Rfc2217 | None = None

    def __enter__(self) -> "LinePeer":
        self._thread.__enter__()
        self._thread.run(self._start())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._thread.run(self._stop())
        self._thread.__exit__(kind, error, trace)

    def say(self, kind: int, body: bytes) -> None:
        """The device sends a message."""
        self._thread.call(self._say, line.encode(kind, body))

    def data(self) -> bytes:
        return b"".join(body for name, body in list(self.told) if name == "LINE_DATA")

    def others(self) -> list[tuple[str, bytes]]:
        return [one for one in list(self.told) if one[0] != "LINE_DATA"]

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._welcome, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"

    async def _stop(self) -> None:
        self._server.close()
        for visit in self._visits:
            visit.cancel()
        if self._visits:
            await asyncio.wait(self._visits)

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visit = asyncio.ensure_future(self._serve(reader, writer))
        self._visits.add(visit)
        visit.add_done_callback(self._visits.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._local = self._form(reader, forward.TcpSink(writer))
        decoder = line.Decoder()
        try:
            while said := await self._local.read(1 << 16):
                for kind, body in decoder.feed(said):
                    self._note(NAMES[kind], body)
                    if kind == wire.LINE_DATA and (answer := self.on_data(body)):
                        asyncio.get_running_loop().call_later(self.held, self._say, line.data(answer))
            assert decoder.is_between()
        except OSError:
            pass
        except Exception as error:
            self.errors.append(error)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _note(self, name: str, body: bytes) -> None:
        if name == "LINE_DATA" and self.told and self.told[-1][0] == name:
            body = self.told.pop()[1] + body
        self.told.append((name, body))

    def _say(self, messages: bytes) -> None:
        assert self._local
        self._local.write(messages)
