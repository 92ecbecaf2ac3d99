"""The asyncio driver: runs a session over a leg. The same code on CPython and MicroPython.

`clock()` gives integer ms that never fall.
"""

import asyncio

from . import wire
from .dial import close_quietly
from .errors import StreamReset
from .session import Closed, Confirmed, Finished, Gone, Opened, Received, Reset, Services, Session, Writable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    Clock = Callable[[], int]

# Bytes asked of a leg at once: a few host records, or a board's one.
HOST_READ = 1 << 18
BOARD_READ = wire.RECORD_HEAD_BYTES + wire.BOARD_MAX_RECORD

# Received pieces shorter than this are put together: each costs a heap some 40 bytes, and the window counts only what is in it.
_PIECE = 256

_GOODBYE_S = 2  # for our GOAWAY, and then for closing: a leg that takes no bytes is not waited for longer
_TICK_MS = 1000  # a leg that comes up brings its deadlines nearer; nobody wakes the sleeper then


class LinkStream:
    """One stream as a program sees it: a reader and a writer in one. One task may read and one may write at a time."""

    def __init__(self, link: "Link", id_: int, service: str) -> None:
        self.id = id_
        self.service = service
        self.link = link
        self._chunks: list[bytes] = []
        self._at = 0  # in the first chunk
        self._eof = False
        self._code = -1  # of the reset that ended it
        self._unsent: list[bytes] = []
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._accepted = asyncio.Event()
        self.on_reset: Callable[[], None] | None = None  # called when the other side resets the stream
        self.read_only = False  # what the other side says on it is not to be passed on
        self.bytes_in = self.bytes_out = 0

    # Called by the link.

    def _received(self, data: bytes) -> None:
        if not self.link.spend(len(data)):
            return
        if self._chunks and len(self._chunks[-1]) < _PIECE:
            self._chunks[-1] += data
        else:
            self._chunks.append(data)
        self._readable.set()

    def _credited(self) -> None:
        self._accepted.set()
        self._writable.set()

    def _finished(self) -> None:
        self._eof = True
        self._readable.set()

    def _reset(self, code: int) -> None:
        if self._code < 0:
            self._code = code
        self._accepted.set()
        self._readable.set()
        self._writable.set()

    # Called by the program.

    async def opened(self) -> None:
        """Waits until the device has the target. Raises StreamReset with the device's code."""
        await self._accepted.wait()
        if self._code >= 0:
            raise StreamReset(self._code)

    def accept(self) -> None:
        """Tells the client that the target is there. Device only."""
        if self.link.session.is_open(self.id):
            self.link.session.accept(self.id)
            self.link.flush()

    async def read(self, n: int = wire.BOARD_WINDOW) -> bytes:
        """1 to `n` bytes, or b"" once the other side has finished. Raises StreamReset."""
        while not self._chunks:
            if self._code >= 0:
                raise StreamReset(self._code)
            if self._eof:
                return b""
            self._readable.clear()
            await self._readable.wait()
        return self.take(n)

    def take(self, n: int = wire.BOARD_WINDOW) -> bytes:
        """Up to `n` bytes of what has come."""
        if not self._chunks:
            return b""
        chunk = self._chunks[0]
        if self._at or len(chunk) > n:
            data = chunk[self._at : self._at + n]
        else:
            data = chunk
        self._at += len(data)
        if self._at == len(chunk):
            self._chunks.pop(0)
            self._at = 0
        self.bytes_in += len(data)
        self.link.session.consume(self.id, len(data))
        self.link.flush()
        return data

    def is_reset(self) -> bool:
        """Whether this stream carries nothing any more: it was reset, or its leg ended."""
        return self._code >= 0

    async def readline(self) -> bytes:
        """Up to and with the next newline, at most BOARD_WINDOW bytes; less at the end. Raises StreamReset."""
        line = b""
        while len(line) < wire.BOARD_WINDOW and not line.endswith(b"\n"):
            if self._chunks:
                end = self._chunks[0].find(b"\n", self._at)
                part = await self.read(end + 1 - self._at if end >= 0 else len(self._chunks[0]))
            else:
                part = await self.read(1)
            if not part:
                break
            line += part
        return line

    def write(self, data: bytes) -> None:
        """Takes bytes for the next `drain`."""
        self._unsent.append(data)

    async def drain(self) -> None:
        """Sends what was written; waits for credit. Raises StreamReset."""
        while self._unsent:
            await self.send(self._unsent.pop(0))

    async def send(self, data: bytes) -> None:
        """Sends all of `data`, waiting for credit where needed. Raises StreamReset."""
        view = memoryview(data)
        while len(view):
            if self._code >= 0:
                raise StreamReset(self._code)
            self._writable.clear()
            sent = self.link.session.send(self.id, view)
            self.bytes_out += sent
            view = view[sent:]
            self.link.spend(sent)
            self.link.flush()
            if len(view):
                await self._writable.wait()

    def finish(self) -> None:
        """FIN: the other side reads the end after what was sent. Does nothing on a stream that was reset or lost."""
        if self._code < 0 and self.link.session.is_open(self.id):
            self.link.session.finish(self.id)
            self.link.flush()

    @property
    def code(self) -> int:
        """Of the reset that ended it, else OK."""
        return max(self._code, wire.OK)

    def was_ended(self) -> bool:
        """Whether the other side says nothing more, or nobody does."""
        return self._eof or self._code >= 0

    def reset(self, code: int) -> None:
        """RST: the other side learns that bytes may be missing, and why."""
        self.link.session.reset(self.id, code)
        self._reset(code)
        self.link.flush()


class Link:
    """Runs a session over one leg.

    A device gives `announce`, the (kind, name) of the services it names as soon as the client proved its keys, and
    `on_open(LinkStream)`, called for every stream the client opens.
    """

    def __init__(
        self,
        session: Session,
        clock: "Clock",
        read_size: int,
        announce: "list[tuple[int, str]] | None" = None,
        on_open: "Callable[[LinkStream], None] | None" = None,
    ) -> None:
        self.session = session
        self.services: list[tuple[int, str]] = []
        self.reason = -1  # the code of the GOAWAY that ended it
        self.most = 0  # bytes that may pass in all, both ways; 0: any number
        self._spent = 0
        self._clock = clock
        self._read_size = read_size
        self._announce = announce
        self._on_open = on_open
        self._streams: dict[int, LinkStream] = {}
        self.writer: Any = None  # the leg's, once there is one
        self._work = asyncio.Event()  # there is something to send
        self._idle = asyncio.Event()  # nothing is on its way to `writer`
        self._ready = asyncio.Event()
        self._over = asyncio.Event()
        self._failure: BaseException | None = None

    def flush(self) -> None:
        self._work.set()

    def open(self, service: str) -> LinkStream:
        """A new stream to a service. Raises LocalError when the session is over or has no place."""
        stream = LinkStream(self, self.session.open(service), service)
        self._streams[stream.id] = stream
        self.flush()
        return stream

    async def ready(self) -> bool:
        """Waits until the device proved its keys and named its services; False when the link ended before."""
        await self._ready.wait()
        return not self._over.is_set()

    async def wait_over(self) -> None:
        await self._over.wait()

    def spend(self, size: int) -> bool:
        """Counts bytes that pass; False, and the end of the session, when they are too many."""
        self._spent += size
        if self.most and self._spent > self.most:
            self.expel(wire.QUOTA)
            return False
        return True

    def expel(self, code: int) -> None:
        """Ends the session and every stream of it with the code that says why."""
        for stream in list(self._streams.values()):
            stream.reset(code)
        self.close(code)

    def close(self, reason: int = wire.OK) -> None:
        """Ends the session: GOAWAY goes out, then `run` returns."""
        self.session.close(reason)
        self.flush()

    async def run(self, reader: "Any", writer: "Any") -> None:
        """Until the leg ends. Raises what ended it: OSError or EOFError (the leg was lost), ZtsError (it was tampered with, or broke the
        protocol); nothing after GOAWAY, whose code is then `reason`. Streams still open are reset first.
        """
        self.writer = writer
        self.session.joined(self._clock())
        self.flush()
        works = ((self._receive, reader), (self._transmit, writer), (self._keep_time,))
        tasks = [asyncio.create_task(self._guard(*work)) for work in works]
        try:
            await self._over.wait()
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                try:
                    await task
                except asyncio.CancelledError:
                    pass
            self.end(None)
            try:
                await asyncio.wait_for(close_quietly(writer), _GOODBYE_S)
            except asyncio.TimeoutError:
                pass  # what is unsent goes with the connection
        if self._failure is not None:
            raise self._failure

    async def _guard(self, work: "Callable[..., Awaitable[None]]", *what: "Any") -> None:
        try:
            await work(*what)
            self.end(None)
        except Exception as failure:
            self.end(failure)

    def end(self, failure: "BaseException | None") -> None:
        """The leg is of no use any more; `run` returns, or raises `failure`."""
        if not self._over.is_set():
            self._failure = failure
            self._over.set()
            self._ready.set()
            self.session.lose_leg()
            for stream in self._streams.values():
                stream._reset(wire.TRUNCATED)
                stream.on_reset = None
            self._streams = {}

    def take(self, data: bytes) -> bool:
        """Bytes of the leg. False when the other side has ended the session. Raises RemoteError or CryptoError: the leg must end."""
        self.session.receive_data(data)
        while True:
            event = self.session.next_event(self._clock())
            if event is None:
                break
            self._handle(event)
            if isinstance(event, Closed):
                return False
        self.flush()
        return True

    async def idle(self) -> None:
        """Waits until nothing is on its way to `writer`. Until the caller awaits something, the leg is its own: see `zts_agent.pump`."""
        while not self._idle.is_set():
            await self._idle.wait()

    async def _receive(self, reader: "Any") -> None:
        while True:
            # With what waits for more not longer than the longest record: a board's heap has few long runs of free bytes.
            data = await reader.read(self._read_size - self.session.pending())
            if not data:
                if self.session.is_over():
                    return  # the answer to our GOAWAY
                raise EOFError("the relay closed the leg")
            if not self.take(data):
                return

    async def _transmit(self, writer: "Any") -> None:
        while True:
            chunks = self.session.data_to_send()
            if chunks:
                await self._send_all(writer, chunks)
                for stream in self._streams.values():
                    stream._writable.set()
            elif self.session.is_over():
                return
            else:
                self._idle.set()
                await self._work.wait()
                self._work.clear()
                self._idle.clear()

    async def _send_all(self, writer: "Any", chunks: "list[bytes]") -> None:
        """In pieces of what a leg is read in: a board's heap may have no longer run of free bytes."""
        first = size = 0
        for at, chunk in enumerate(chunks):
            if size and size + len(chunk) > self._read_size:
                writer.write(b"".join(chunks[first:at]))
                await writer.drain()
                first, size = at, 0
            size += len(chunk)
        writer.write(b"".join(chunks[first:]))
        await writer.drain()

    async def _keep_time(self) -> None:
        while not self.session.is_over():
            wait = self.session.next_timeout() - self._clock()
            await asyncio.sleep(min(max(1, wait), _TICK_MS) / 1000)
            self.session.handle_timeout(self._clock())
            self.flush()
        await asyncio.sleep(_GOODBYE_S)

    def _handle(self, event: "Any") -> None:
        if isinstance(event, Confirmed):
            if self._announce is not None:
                self.session.announce(self._announce)
                self._ready.set()
        elif isinstance(event, Services):
            self.services = event.services
            self._ready.set()
        elif isinstance(event, Closed):
            self.reason = event.reason
        elif isinstance(event, Opened):
            stream = self._streams[event.stream] = LinkStream(self, event.stream, event.service)
            if self._on_open is not None:
                self._on_open(stream)
        elif isinstance(event, Gone):
            self._streams.pop(event.stream, None)
        else:
            self._handle_stream(self._streams[event.stream], event)

    def _handle_stream(self, stream: LinkStream, event: "Any") -> None:
        if isinstance(event, Received):
            stream._received(event.data)
        elif isinstance(event, Writable):
            stream._credited()
        elif isinstance(event, Finished):
            stream._finished()
        elif isinstance(event, Reset):
            stream._reset(event.code)
            if stream.on_reset is not None:
                stream.on_reset()
