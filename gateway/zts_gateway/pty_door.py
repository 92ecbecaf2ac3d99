"""`zts connect --pty`: a device file for programs that know serial ports only. Each time one opens it, a stream to the line is opened."""

import asyncio
import fcntl
import os
import pty
import select
import struct
import termios
import tty
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from zts import line, wire
from zts.errors import StreamReset
from zts_gateway import forward, listener
from zts_gateway.line_forms import Messages
from zts_gateway.listener import Sessions
from zts_gateway.ui import Exit, Failure, failure_of, say

_LOOK_S = 0.1  # how often we look whether a program has opened the file, or set it: neither wakes us
_READ_BYTES = 4096
_PTY_FILES = ("/dev/pts/", "/dev/ttys")  # Linux, macOS

_SPEEDS = {getattr(termios, name): int(name[1:]) for name in dir(termios) if name[0] == "B" and name[1:].isdigit()}
_TCGETS2 = 0x802C542A  # Linux: as tcgetattr, with the speed as a number where it is none of the usual ones
_FLUSH_READ, _FLUSH_WRITE = 1, 2  # of TIOCPKT, tty_ioctl(4)
# What nobody asks for. As long as a file has it, no program has set it, and the device's own settings hold.
_UNSET = termios.B134


class PtyDoor:
    """One device file, reached by a symbolic link, for one program at a time."""

    def __init__(self, sessions: Sessions, name: str, path: Path) -> None:
        self._sessions = sessions
        self._name = name
        self._path = path
        self._master = -1
        self._file = ""  # what the link leads to

    @property
    def address(self) -> str:
        return str(self._path)

    def open(self) -> None:
        """Raises Failure."""
        try:
            if self._path.is_symlink() or self._path.exists():
                _clear(self._path)
            self._make()
        except OSError as error:
            raise Failure(Exit.USAGE, f"cannot make {self._path} ({error.strerror or error}); choose another path") from None

    async def serve(self, service: str) -> None:
        """For ever: a stream for each program that opens the file."""
        who = f"@{self._name}"
        while True:
            await self._opened()
            try:
                stream = await listener.open_again(self._sessions, service)
                local = _Pty(self._master, self._file)
                await forward.carry(stream, local, local)
            except (StreamReset, Failure, OSError) as error:
                failure = failure_of(error.code, who) if isinstance(error, StreamReset) else error
                say(f"{service}: {failure}")
                self._hang_up()

    def close(self) -> None:
        if self._has_link():
            self._path.unlink()
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def _has_link(self) -> bool:
        """Whether the link is ours still, not another's who replaced it."""
        try:
            return self._file != "" and os.readlink(self._path) == self._file
        except OSError:
            return False

    def _make(self) -> None:
        """A new file, to which the link leads from then on. Raises OSError."""
        master, slave = pty.openpty()
        try:
            os.fchmod(slave, 0o600)  # not the group's that may write to terminals
            tty.setraw(slave)  # else what the device says would come back to it
            mode = termios.tcgetattr(slave)
            mode[4] = mode[5] = _UNSET
            termios.tcsetattr(slave, termios.TCSANOW, mode)
            fcntl.ioctl(master, termios.TIOCPKT, struct.pack("i", 1))
            os.set_blocking(master, False)
            file = os.ttyname(slave)
            if self._has_link():
                # In one step: a program that was hung up may look for the file again at once.
                fresh = self._path.with_name(f".{self._path.name}.{os.getpid()}")
                os.symlink(file, fresh)
                os.replace(fresh, self._path)
            elif self._master < 0:
                os.symlink(file, self._path)
        except BaseException:
            os.close(master)
            raise
        finally:
            os.close(slave)
        self._master, self._file = master, file

    def _hang_up(self) -> None:
        """The program sees what it sees when a port is pulled out; whoever opens the file next gets a new one."""
        before = self._master
        self._make()
        os.close(before)

    def _is_open(self) -> bool:
        """Whether a program has the file open, or had and left something."""
        poll = select.poll()
        poll.register(self._master, select.POLLIN)
        (events,) = [events for _, events in poll.poll(0)] or [0]
        return not events & select.POLLHUP or bool(events & select.POLLIN)

    async def _opened(self) -> None:
        while not self._is_open():
            await asyncio.sleep(_LOOK_S)


class _Pty:
    """What the program says and sets, as line messages; and what the line says."""

    def __init__(self, master: int, file: str) -> None:
        self._master = master
        self._file = file
        self._told = (0, 1)  # baud and stop bits
        self._closed = False
        self._messages = Messages()
        self._unwritten = bytearray()

    async def read(self, n: int, /) -> bytes:
        while not self._closed:
            said = self._look()
            try:
                piece = os.read(self._master, min(n, _READ_BYTES))
            except BlockingIOError:
                if said:
                    return said
                await self._wait(asyncio.get_running_loop().add_reader, asyncio.get_running_loop().remove_reader)
                continue
            except OSError:  # the last program has closed it
                self._end()
                return said
            said += line.data(piece[1:]) if piece[0] == 0 else _purge(piece[0])
            if said:
                return said
        return b""

    def write(self, data: bytes, /) -> None:
        """Raises StreamReset."""
        for kind, body in self._messages.read(data):
            if kind == wire.LINE_DATA:
                self._unwritten += body

    async def drain(self) -> None:
        while self._unwritten and not self._closed:
            try:
                del self._unwritten[: os.write(self._master, self._unwritten)]
            except BlockingIOError:  # the program does not read now
                await self._wait(asyncio.get_running_loop().add_writer, asyncio.get_running_loop().remove_writer)
        self._unwritten.clear()

    async def finish(self) -> None:
        """The device has ended the stream. Raises StreamReset: the program, which goes on, is no more served."""
        self._messages.end()
        if not self._closed:
            raise StreamReset(wire.TARGET_RESET)

    async def _wait(self, add: Callable[..., None], remove: Callable[[int], bool]) -> None:
        """Until the file can be read or written, or may have been set."""
        ready = asyncio.Event()
        add(self._master, ready.set)
        try:
            async with asyncio.timeout(_LOOK_S):
                await ready.wait()
        except TimeoutError:
            pass
        finally:
            remove(self._master)

    def _end(self) -> None:
        """Leaves nothing for the next program of what the last one did not read."""
        self._closed = True
        with suppress(OSError, termios.error):
            slave = os.open(self._file, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            try:
                termios.tcflush(slave, termios.TCIFLUSH)
                os.read(self._master, 1)  # which would tell of this as of a program's
            finally:
                os.close(slave)

    def _look(self) -> bytes:
        """What the program has set since we looked last."""
        # No more can be set: a pty has 8 data bits and no parity, always.
        _, _, flags, _, _, speed, _ = termios.tcgetattr(self._master)
        settings = (_SPEEDS.get(speed) or _read_speed(self._master), 2 if flags & termios.CSTOPB else 1)
        if speed == _UNSET or not line.BAUD_MIN <= settings[0] <= line.BAUD_MAX or settings == self._told:
            return b""
        self._told = settings
        return line.settings(settings[0], 8, "N", settings[1])


def _purge(flags: int) -> bytes:
    which = (wire.PURGE_RECEIVED if flags & _FLUSH_READ else 0) | (wire.PURGE_UNSENT if flags & _FLUSH_WRITE else 0)
    return line.encode(wire.LINE_PURGE, bytes([which])) if which else b""


def _read_speed(fd: int) -> int:
    """A speed that has no name; 0 where this system does not tell."""
    try:
        return int(struct.unpack("4I20x2I", fcntl.ioctl(fd, _TCGETS2, bytes(44)))[5])
    except OSError:
        return 0


def _clear(path: Path) -> None:
    """Removes a link that a killed `zts` left behind. Raises OSError, and Failure for what must stay."""
    file = os.readlink(path) if path.is_symlink() else ""
    if not file.startswith(_PTY_FILES):
        raise Failure(Exit.USAGE, f"{path} is there, and is no link to a terminal; choose another path")
    with suppress(FileNotFoundError):
        # Its number is given again when it is free: a terminal younger than the link is not the one that the link was made for.
        if os.stat(file).st_ctime_ns <= path.lstat().st_mtime_ns:
            raise Failure(Exit.USAGE, f"a program serves {path} already, by {file}; end it, or choose another path")
    path.unlink()
