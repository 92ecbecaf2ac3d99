"""`zts connect -L`, `--unix` and `--rfc2217`: a door on this computer that outlives sessions, for programs of this user."""

import asyncio
import contextlib
import os
import socket
import stat
from pathlib import Path

from zts import wire
from zts.errors import StreamReset
from zts_agent import board
from zts_gateway import forward, line_forms, listener, peer_uid
from zts_gateway.guard import Guard, Http, NotHttp, Refused
from zts_gateway.listener import Sessions
from zts_gateway.ui import Exit, Failure, failure_of, say

_ACCEPTING = 4  # turns of the loop that asyncio takes from accepting a connection to telling of it, and one to spare
_SPILL_S = 2.0  # for a program to read why it was refused


class _Guarded:
    """The local side of a connection as its guard lets it pass; source and sink in one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, guard: Guard) -> None:
        self._reader = reader
        self._sink = forward.TcpSink(writer)
        self._guard = guard
        self._begun = b""
        self.drain = self._sink.drain
        self.finish = self._sink.finish

    async def begin(self) -> bool:
        """Waits until something may pass; False when the local side ended before. Raises Refused."""
        self._begun = await self.read(forward.READ_BYTES)
        return self._begun != b""

    async def read(self, n: int, /) -> bytes:
        """Raises Refused."""
        passing, self._begun = self._begun, b""
        while not passing:
            data = await self._reader.read(n)
            if not data:
                return self._guard.end()
            passing = self._guard.take(data)
        return passing

    def write(self, data: bytes, /) -> None:
        self._guard.hear(data)
        self._sink.write(data)


class Door:
    """Listens on 127.0.0.1, or on a socket in the file system, and opens a stream for each connection.

    To a serial line one at a time, whose program meets it by RFC 2217 if `rfc2217`, else as plain bytes.
    """

    def __init__(self, sessions: Sessions, name: str, rfc2217: bool = False) -> None:
        self.failure: Failure | None = None  # the last one of a connection
        self._sessions = sessions
        self._name = name
        self._rfc2217 = rfc2217
        self._service = ""
        self._turn = asyncio.Lock()  # at a serial line
        self._server: asyncio.Server | None = None
        self._path: Path | None = None  # of the socket
        self._file: tuple[int, int] | None = None  # the socket itself: device and inode
        self._visits: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def open(self, port: int) -> None:
        """Takes the port, and no connection yet. Port 0 picks a free one. Raises Failure."""
        try:
            self._server = await asyncio.start_server(self._welcome, "127.0.0.1", port, limit=forward.READ_BYTES, start_serving=False)
        except OSError as error:
            raise Failure(
                Exit.USAGE, f"cannot listen on 127.0.0.1:{port} ({error.strerror}); choose another port, or none for a free one"
            ) from None

    async def open_unix(self, path: Path) -> None:
        """As `open`, with a socket that only this user may use; one that a program left behind is replaced. Raises Failure."""
        sock = socket.socket(socket.AF_UNIX)
        try:
            _clear(path)
            before = os.umask(0o177)
            try:
                sock.bind(str(path))
            finally:
                os.umask(before)
            made = path.lstat()
            self._path, self._file = path, (made.st_dev, made.st_ino)
            sock.listen()  # at once, so that no other takes it for left behind; connections wait
            self._server = await asyncio.start_unix_server(self._welcome, sock=sock, limit=forward.READ_BYTES, start_serving=False)
        except OSError as error:
            sock.close()
            raise Failure(Exit.USAGE, f"cannot listen on {path} ({error.strerror or error}); choose another path") from None
        except Failure:
            sock.close()
            raise

    @property
    def port(self) -> int:
        assert self._server
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def address(self) -> str:
        """Where programs reach it."""
        return str(self._path) if self._path else f"127.0.0.1:{self.port}"

    async def serve(self, service: str) -> None:
        assert self._server
        self._service = service
        if self._path is None and not peer_uid.can_tell():
            say(
                f"this system does not say whose a connection is: every user of this computer can use {self.address}; --unix keeps them out"
            )
        await self._server.start_serving()

    async def close(self) -> None:
        if self._server:
            # Python 3.11 leaks a connection that it has accepted but not told of when the server closes: accept no more, tell, close.
            for sock in self._server.sockets:
                asyncio.get_running_loop().remove_reader(sock.fileno())
            for _ in range(_ACCEPTING):
                await asyncio.sleep(0)
            self._server.close()
        if self._path:
            with contextlib.suppress(FileNotFoundError):
                there = self._path.lstat()
                if (there.st_dev, there.st_ino) == self._file:  # not another's, who replaced it
                    self._path.unlink()
        visits = dict(self._visits)
        for visit, writer in visits.items():
            visit.cancel()
            board.break_off(writer)
        if visits:
            await asyncio.wait(visits)

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visit = asyncio.create_task(self._visit(reader, writer))
        self._visits[visit] = writer
        visit.add_done_callback(self._visits.pop)

    async def _visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self._look_who(writer)
            await self._forward(reader, writer)
            writer.close()
            await writer.wait_closed()
        except OSError:
            board.break_off(writer)
        except Refused as refused:
            say(f"{self._service}: {refused}")
            if refused.answer:
                await _answer(reader, writer, refused.answer)
            board.break_off(writer)
        except StreamReset as reset:
            self._give_up(writer, failure_of(reset.code, f"@{self._name}"))
        except Failure as failure:
            self._give_up(writer, failure)

    def _give_up(self, writer: asyncio.StreamWriter, failure: Failure) -> None:
        board.break_off(writer)
        self.failure = failure
        say(f"{self._service}: {failure}")

    def _look_who(self, writer: asyncio.StreamWriter) -> None:
        """Raises Refused for another user, root too, and for whoever is gone already: then nobody knows who it was."""
        if self._path or not peer_uid.can_tell():
            return
        local = writer.get_extra_info("peername")  # asyncio gives none for a program that has broken off already
        uid = peer_uid.read_uid(local, writer.get_extra_info("sockname")) if local else None
        if uid != os.geteuid():
            who = "a program that is gone already" if uid is None else f"another user, uid {uid}"
            raise Refused(f"refused a connection to {self.address} of {who}; only uid {os.geteuid()} may use it")

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        local: asyncio.StreamReader | _Guarded = reader
        sink: forward.TcpSink | _Guarded = forward.TcpSink(writer)
        if self._path is None:  # no browser can reach a socket in the file system
            if listener.kind_of(await self._sessions.get(), self._service) == wire.SERVICE_HTTP:
                local = sink = _Guarded(reader, writer, Http(self.port))
                if not await local.begin():
                    return
            else:
                local = sink = _Guarded(reader, writer, NotHttp())
        if listener.kind_of(await self._sessions.get(), self._service) not in listener.LINES:
            await forward.carry(await listener.open_again(self._sessions, self._service), local, sink)
            return
        try:
            async with asyncio.timeout(listener.TURN_MS / 1000):
                await self._turn.acquire()
        except TimeoutError:
            raise StreamReset(wire.BUSY) from None
        try:
            form = line_forms.Rfc2217(local, sink) if self._rfc2217 else line_forms.Plain(local, sink)
            await forward.carry(await listener.open_again(self._sessions, self._service), form, form)
        finally:
            self._turn.release()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes) -> None:
    """Says it, and takes what still comes for a while: a reset now could erase the answer on its way."""
    with contextlib.suppress(OSError, TimeoutError):
        writer.write(answer)
        async with asyncio.timeout(_SPILL_S):
            await writer.drain()
            writer.write_eof()
            while await reader.read(forward.READ_BYTES):
                pass


def _clear(path: Path) -> None:
    """Removes a socket on which nobody listens. Raises OSError, and Failure for what must stay."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Failure(Exit.USAGE, f"{path} is there, and is no socket; choose another path")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise Failure(Exit.USAGE, f"a program listens on {path} already; end it, or choose another path")
