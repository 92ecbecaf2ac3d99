"""`zts connect --stdio`: one stream on this process's stdin and stdout, as an ssh ProxyCommand wants it.

They may be two pipes, one socket, a terminal or files, whatever the program that starts us likes.
"""

import asyncio
import os
import socket
import stat
from contextlib import suppress

from zts import wire
from zts.errors import StreamReset
from zts_gateway import forward
from zts_gateway.client import Meeting, open_stream
from zts_gateway.line_forms import Plain
from zts_gateway.listener import LINES, kind_of
from zts_gateway.ui import Exit, Failure, failure_of


class _FileSource:
    """A regular file or /dev/null: reading never waits for long, and event loops refuse it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    async def read(self, n: int, /) -> bytes:
        return os.read(self._fd, n)


class _FileSink:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, data: bytes, /) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    async def drain(self) -> None:
        await asyncio.sleep(0)  # the other direction has its turn

    async def finish(self) -> None:
        pass


class _PipeSink:
    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.write = writer.write
        self.drain = writer.drain

    async def finish(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


class Stdio:
    """Takes stdin and stdout over: they are ours alone from then on, so that closing one tells whoever is at its other end."""

    def __init__(self) -> None:
        self._fds = [os.dup(0), os.dup(1)]
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.close(null)
        self._transports: list[asyncio.BaseTransport] = []

    async def open(self) -> tuple[forward.Source, forward.Sink]:
        """Both on one socket are one connection, whose end is said by a half-close."""
        i, o = self._fds
        if _is_socket(i) and _is_socket(o) and os.path.sameopenfile(i, o):
            reader, writer = await self._open_socket(i)
            return reader, forward.TcpSink(writer)
        source = (await self._open_socket(i))[0] if _is_socket(i) else await self._open_source(i)
        sink = forward.TcpSink((await self._open_socket(o))[1]) if _is_socket(o) else await self._open_sink(o)
        return source, sink

    def close(self) -> None:
        for fd in self._fds:
            with suppress(OSError):
                os.set_blocking(fd, True)  # a terminal is shared with the shell
            os.close(fd)
        for transport in self._transports:
            with suppress(OSError):
                transport.close()

    async def _open_socket(self, fd: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=os.dup(fd)), limit=forward.READ_BYTES)
        self._transports.append(writer.transport)
        return reader, writer

    async def _open_source(self, fd: int) -> forward.Source:
        if not _can_wait(fd):
            return _FileSource(fd)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(forward.READ_BYTES, loop)
        pipe = os.fdopen(os.dup(fd), "rb", 0)
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader, loop=loop), pipe)
        self._transports.append(transport)
        return reader

    async def _open_sink(self, fd: int) -> forward.Sink:
        if not _can_wait(fd):
            return _FileSink(fd)
        loop = asyncio.get_running_loop()
        protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader(loop=loop), loop=loop)  # for its flow control alone
        # The last holder of our end: closing it is what the reader of the pipe sees.
        self._fds.remove(fd)
        transport, _ = await loop.connect_write_pipe(lambda: protocol, os.fdopen(fd, "wb", 0))
        self._transports.append(transport)
        return _PipeSink(asyncio.StreamWriter(transport, protocol, None, loop))


def _is_socket(fd: int) -> bool:
    return stat.S_ISSOCK(os.fstat(fd).st_mode)


def _can_wait(fd: int) -> bool:
    return stat.S_ISFIFO(os.fstat(fd).st_mode) or os.isatty(fd)


async def run(meeting: Meeting, service: str) -> None:
    """Until both directions have ended. Raises Failure by cause."""
    who = f"@{meeting.name}:{service}"
    stdio = Stdio()
    try:
        stream = await open_stream(meeting, service)
        source, sink = await stdio.open()
        if kind_of(meeting, service) in LINES:
            source = sink = Plain(source, sink)
        await forward.carry(stream, source, sink)
        await forward.settle(meeting, stream)
    except StreamReset as reset:
        if reset.code == wire.TRUNCATED and not meeting.is_up:
            raise await meeting.wait_over() from None
        raise failure_of(reset.code, who) from None
    except OSError as error:
        raise Failure(
            Exit.LOST, f"{who}: the program on stdin and stdout went away ({error.strerror or error}); start both again"
        ) from None
    finally:
        stdio.close()
