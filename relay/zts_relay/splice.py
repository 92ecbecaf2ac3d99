"""Two joined legs: bytes go from each to the other, in the kernel when there are many.

A direction copies through a shared buffer while reads are small and splices through a borrowed pipe while they are large.
Its source is read only when everything read before has been sent, so EAGAIN from the source always means that the source
is empty, never that the pipe has no slot left; and what a slow receiver makes us keep is at most one buffer or one pipe.
"""

import fcntl
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP
from typing import Final, NamedTuple

from zts_relay.pump import Pump

BUFFER_BYTES: Final = 64 * 1024
# An unprivileged user may hold 16384 pages of pipes (fs.pipe-user-pages-soft): 256 such pipes, but only 64 of 1 MiB.
PIPE_BYTES: Final = 256 * 1024
PIPES: Final = 64
_PIPE_MIN_BYTES: Final = 64 * 1024  # beyond its quota a user gets pipes of 8 KiB: slower than copying
_BULK_BYTES: Final = 32 * 1024  # a read of this much is large
_LARGE_READS: Final = 4  # in a row, to begin splicing
_SMALL_READS: Final = 16  # in a row, to go back to copying
_TURN_BYTES: Final = 1024 * 1024  # of one direction, before other legs have their turn
_MOVE: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Pipe(NamedTuple):
    """Two descriptors."""

    read: int
    write: int


class Pipes:
    """A bounded pool of pipes, made when first needed."""

    def __init__(self, limit: int = PIPES) -> None:
        self._limit = limit
        self._idle: list[Pipe] = []
        self.open = 0

    def borrow(self) -> Pipe | None:
        """An empty pipe, or None when all are lent or the system gives no large one."""
        if self._idle:
            return self._idle.pop()
        if self.open >= self._limit:
            return None
        try:
            pipe = Pipe(*os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:
            return None
        self.open += 1
        try:
            size = fcntl.fcntl(pipe.write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:
            size = fcntl.fcntl(pipe.write, fcntl.F_GETPIPE_SZ)
        if size < _PIPE_MIN_BYTES:
            self.discard(pipe)
            return None
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """`pipe` is empty."""
        self._idle.append(pipe)

    def discard(self, pipe: Pipe) -> None:
        """`pipe` may hold bytes of somebody."""
        os.close(pipe.read)
        os.close(pipe.write)
        self.open -= 1

    @property
    def lent(self) -> int:
        return self.open - len(self._idle)

    def close(self) -> None:
        """Close the idle pipes; every lent one was given back or discarded before."""
        while self._idle:
            self.discard(self._idle.pop())


@dataclass
class Carrier:
    """What all pairs share, and what they moved."""

    pipes: Pipes = field(default_factory=Pipes)
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(BUFFER_BYTES)))
    copied: int = 0  # bytes
    spliced: int = 0  # bytes


class End:
    """One joined leg's socket, non-blocking, and what edge-triggered epoll has said about it."""

    __slots__ = ("broken", "fd", "pair", "readable", "sock", "writable")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.pair: Pair | None = None
        # Nothing is known yet: trying is the only way to find out, and arms the next edge.
        self.readable = self.writable = True
        self.broken = False

    def ready(self, events: int) -> None:
        if events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            self.readable = True
        if events & (EPOLLOUT | EPOLLHUP | EPOLLERR):
            self.writable = True
        if events & EPOLLERR:
            self.broken = True
        if self.pair:
            self.pair.wake()

    def abort(self) -> None:
        if self.pair:
            self.pair.close("internal")


class _Direction:
    """Bytes from `source` to `sink`."""

    __slots__ = ("_bulk", "_carrier", "_ended", "_held", "_in_pipe", "_pipe", "_sink", "_source", "_streak", "done")

    def __init__(self, source: End, sink: End, carrier: Carrier) -> None:
        self._source, self._sink, self._carrier = source, sink, carrier
        self._held: memoryview | None = None  # copied, not sent yet
        self._pipe: Pipe | None = None
        self._in_pipe = 0
        self._bulk = False  # reads are large: splice
        self._streak = 0  # reads in a row that speak against `_bulk` as it is
        self._ended = False  # the source will send no more
        self.done = False  # and the sink was told so

    def move(self) -> bool:
        """Move what can be moved, up to a bound; whether more could be moved at once. Raises OSError: either leg is dead."""
        budget = _TURN_BYTES
        while budget > 0 and self._can_move():
            if self._held:
                self._send(self._held)
            elif self._in_pipe:
                self._splice_out()
            elif self._ended:
                self._sink.sock.shutdown(socket.SHUT_WR)
                self.done = True
            elif self._bulk and self._borrow():
                budget -= self._splice_in()
            else:
                budget -= self._copy()
        if self._pipe and not self._in_pipe:
            self._carrier.pipes.give_back(self._pipe)
            self._pipe = None
        return self._can_move()

    def release(self) -> None:
        """Both legs are about to be closed."""
        self._held = None
        if self._pipe:
            self._carrier.pipes.discard(self._pipe)
            self._pipe = None

    def _can_move(self) -> bool:
        if self._held or self._in_pipe:
            return self._sink.writable
        if self._ended:
            return not self.done
        return self._source.readable and self._sink.writable

    def _borrow(self) -> bool:
        if not self._pipe:
            self._pipe = self._carrier.pipes.borrow()
        return self._pipe is not None

    def _judge(self, size: int) -> None:
        """Change between copying and splicing after enough reads in a row that ask for it."""
        if (size >= _BULK_BYTES) == self._bulk:
            self._streak = 0
            return
        self._streak += 1
        if self._streak == (_SMALL_READS if self._bulk else _LARGE_READS):
            self._bulk = not self._bulk
            self._streak = 0

    def _copy(self) -> int:
        buffer = self._carrier.buffer
        try:
            size = self._source.sock.recv_into(buffer)
        except BlockingIOError:
            self._source.readable = False
            return 0
        if size:
            self._judge(size)
            self._carrier.copied += size
            self._send(buffer[:size])
        else:
            self._ended = True
        return size

    def _send(self, data: memoryview) -> None:
        try:
            sent = self._sink.sock.send(data)
        except BlockingIOError:
            sent = 0
        if sent == len(data):
            self._held = None
            return
        self._sink.writable = False
        # The shared buffer is about to be used by others: what is left of it needs a place of its own.
        self._held = data[sent:] if data is self._held else memoryview(bytes(data[sent:]))

    def _splice_in(self) -> int:
        assert self._pipe
        try:
            size = os.splice(self._source.fd, self._pipe.write, PIPE_BYTES, flags=_MOVE)
        except BlockingIOError:
            self._source.readable = False
            return 0
        if size:
            self._judge(size)
            self._carrier.spliced += size
            self._in_pipe = size
        else:
            self._ended = True
        return size

    def _splice_out(self) -> None:
        assert self._pipe
        try:
            self._in_pipe -= os.splice(self._pipe.read, self._sink.fd, self._in_pipe, flags=_MOVE)
        except BlockingIOError:
            self._sink.writable = False


class Pair:
    """Two joined legs. `closed(reason)` is called once, when both sockets are closed: "ended", "reset" or what `close` was told."""

    __slots__ = ("_closed", "_ends", "_forth_and_back", "_pump", "_queued")

    def __init__(self, a: socket.socket, b: socket.socket, pump: Pump, carrier: Carrier, closed: Callable[[str], None]) -> None:
        first, second = End(a), End(b)
        self._ends = (first, second)
        self._forth_and_back = (_Direction(first, second, carrier), _Direction(second, first, carrier))
        self._pump = pump
        self._closed: Callable[[str], None] | None = closed
        self._queued = False
        for end in self._ends:
            end.pair = self
            pump.handlers[end.fd] = end
        self.wake()

    def wake(self) -> None:
        """There may be something to move."""
        if not self._queued:
            self._queued = True
            self._pump.queue(self)

    def work(self) -> None:
        """One turn, called by the pump."""
        self._queued = False
        if not self._closed:
            return
        forth, back = self._forth_and_back
        try:
            # What came before the error is passed on as far as it goes: both directions move before either leg is given up.
            more = forth.move()
            more = back.move() or more
        except OSError:
            self.close("reset")
            return
        if forth.done and back.done:
            self.close("ended")
        elif any(end.broken for end in self._ends):
            self.close("reset")
        elif more:
            self.wake()

    def abort(self) -> None:
        self.close("internal")

    def close(self, reason: str) -> None:
        closed, self._closed = self._closed, None
        if not closed:
            return
        for direction in self._forth_and_back:
            direction.release()
        for end in self._ends:
            end.pair = None
            self._pump.close(end.sock)
        closed(reason)
