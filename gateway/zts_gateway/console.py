"""`zts connect` at a terminal, to a serial line: each key goes out, what comes is shown, Ctrl-] quits."""

import asyncio
import os
import termios
import tty
from contextlib import suppress

from zts import wire
from zts.errors import StreamReset
from zts_gateway import forward
from zts_gateway.client import Meeting, open_stream
from zts_gateway.line_forms import Plain
from zts_gateway.stdio import Stdio
from zts_gateway.ui import failure_of, say

_QUIT = b"\x1d"  # Ctrl-]
_TYPED_MAX = 1 << 20  # bytes that wait for the line, such as a pasted file: beyond them, Ctrl-] too waits its turn


class _Screen:
    """The terminal. Ctrl-] is seen even while nothing can be sent."""

    def __init__(self, source: forward.Source, sink: forward.Sink) -> None:
        self.over = asyncio.Event()  # the user quits, the terminal is gone, or the device has ended the stream
        self._source = source
        self._typed = bytearray()
        self._changed = asyncio.Event()
        self.write = sink.write
        self.drain = sink.drain

    async def watch(self) -> None:
        try:
            while data := await self._source.read(4096):
                keys, quits, _ = data.partition(_QUIT)
                self._typed += keys
                self._changed.set()
                if quits:
                    break
                while len(self._typed) > _TYPED_MAX:
                    await asyncio.sleep(0.05)
        except OSError:  # the terminal is gone
            pass
        self.over.set()

    async def read(self, n: int, /) -> bytes:
        while not self._typed:
            self._changed.clear()
            await self._changed.wait()
        typed = bytes(self._typed[:n])
        del self._typed[:n]
        return typed

    async def finish(self) -> None:
        self.over.set()


async def run(meeting: Meeting, service: str) -> None:
    """Until the user quits or the device ends it. The terminal is then as it was. Raises Failure."""
    who = f"@{meeting.name}:{service}"
    terminal = os.dup(0)
    before = termios.tcgetattr(terminal)
    stdio = Stdio()
    try:
        stream = await open_stream(meeting, service)
        screen = _Screen(*await stdio.open())
        say(f"connected to {who}; Ctrl-] quits")
        tty.setraw(terminal, termios.TCSANOW)
        form = Plain(screen, screen)
        works = [asyncio.ensure_future(work) for work in (forward.carry(stream, form, form), screen.watch(), screen.over.wait())]
        try:
            await asyncio.wait([works[0], works[2]], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for work in works:
                work.cancel()
            await asyncio.wait(works)
        if not works[0].cancelled() and (error := works[0].exception()):
            raise error
    except StreamReset as reset:
        if reset.code == wire.TRUNCATED and not meeting.is_up:
            raise await meeting.wait_over() from None
        raise failure_of(reset.code, who) from None
    except OSError:
        pass  # the terminal is gone
    finally:
        stdio.close()
        with suppress(termios.error):
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        os.close(terminal)
    say(f"left {who}")
