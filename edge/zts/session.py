"""One session: a leg, its handshake of headers and RESUME, and many streams on it. Sans-IO.

Bytes and `now` (integer ms, never falling) in; events and bytes out. A RemoteError or CryptoError out of any method means:
end the leg; after a MemoryError it has ended. PROTOCOL.md, "Sessions".
"""

from collections import namedtuple

from . import crypto, frame, leg, record, wire
from .errors import LocalError, RemoteError
from .stream import CLOSED, Stream

# What one side can take: the longest record (len2) and the bytes it buffers for each stream.
Offer = namedtuple("Offer", ("max_record", "window"))
Times = namedtuple("Times", ("confirm", "ping", "dead"))

Confirmed = namedtuple("Confirmed", ())  # both sides proved the keys of this leg
Services = namedtuple("Services", ("services",))  # (kind, name) of all that we may open
Opened = namedtuple("Opened", ("stream", "service"))
Received = namedtuple("Received", ("stream", "data"))
Writable = namedtuple("Writable", ("stream",))  # an ACK came: the target is there, and there may be more credit
Finished = namedtuple("Finished", ("stream",))  # the peer sends nothing more; authenticated
Reset = namedtuple("Reset", ("stream", "code"))
Gone = namedtuple("Gone", ("stream",))  # over in both directions: nothing more will be said of it
Closed = namedtuple("Closed", ("reason",))  # the other side ends the session

TIMES = Times(wire.CONFIRM_MS, wire.PING_MS, wire.DEAD_MS)

_DATA = bytes([wire.FRAME_DATA])

_HEADER = "header"  # waiting for the other side's leg header
_RESUME = "resume"  # waiting for its first record
_UP = "up"
_OVER = "over"


class Session:
    """One end of a session. `key` is K_sess; `ours` and `theirs` are the offers of message 1 and 2."""

    def __init__(self, role: int, key: bytes, ours: Offer, theirs: Offer, max_streams: int, times: Times = TIMES) -> None:
        self.role = role
        self.n = 0  # our legs so far: raised before every dial, never repeated
        self._key = key
        self._ours = ours
        self._theirs = theirs
        self._max_streams = max_streams
        self._times = times
        self._frame_room = min(ours.max_record, theirs.max_record) - wire.TAG_BYTES
        self._out_limit = 4 * self._frame_room  # sealed and unsent; more only adds latency between streams
        # Unsent records: six a stream that opens, ends and is reset, and some of the session's own. A reader that reads leaves fewer.
        self._out_records = 8 * max_streams + 64
        self._flooded = False  # more were due: the leg must end
        self._state = _OVER
        self._their_n = 0  # of the last confirmed leg
        self._pending_n = 0  # of the leg being confirmed
        self._header = b""
        self._early = b""
        self._records: record.RecordLayer | None = None
        self._out: list[bytes] = []
        self._out_size = 0
        self._events: list[tuple] = []  # type: ignore[type-arg]
        self._services: list[tuple[int, str]] = []
        self._streams: dict[int, Stream] = {}
        self._last_stream = 0
        self._heard = self._pinged = self._started = 0

    # --- the leg ---------------------------------------------------------------------------------------------------------

    def start_leg(self, now: int) -> int:
        """Begins a leg and returns its number, which the relay's leg hello carries too."""
        self.n += 1
        self._header = leg.encode_header(self.role, self.n, crypto.random_bytes(16))
        self._early = b""
        self._records = None
        self._out = [self._header]
        self._out_size = len(self._header)
        self._state = _HEADER
        self.joined(now)
        return self.n

    def joined(self, now: int) -> None:
        """The relay has joined the leg to the other side's: from now on silence counts. The wait for a partner did not."""
        self._started = self._heard = self._pinged = now

    def _receive_header(self) -> bool:
        if len(self._early) < wire.LEG_HEADER_BYTES:
            return False
        theirs, rest = self._early[: wire.LEG_HEADER_BYTES], self._early[wire.LEG_HEADER_BYTES :]
        self._early = b""
        header = leg.decode_header(theirs, self.role, self._their_n)
        pair = (self._header, theirs) if self.role == wire.ROLE_CLIENT else (theirs, self._header)
        key = record.leg_key(self._key, pair[0], pair[1])
        self._records = record.RecordLayer(key, self.role, leg.other_role(self.role), self._ours.max_record)
        self._records.receive_data(rest)
        self._pending_n = header.n
        self._state = _RESUME
        self._seal(0, frame.resume([]))
        return True

    def _seal(self, stream: int, plain: bytes) -> None:
        if self._records is None:
            raise LocalError("the leg is not up")
        if len(self._out) > self._out_records:
            # Whoever asked for this may be a program of ours; it is the leg's own work that must fail.
            self._flooded = True
            return
        try:
            sealed = self._records.seal(stream, plain)
            self._out.append(sealed)
        except MemoryError:
            self.lose_leg()  # what is half done, here and in the caller, would look to the other side like tampering
            raise
        self._out_size += len(sealed)

    def _check_flood(self) -> None:
        if self._flooded:
            raise RemoteError("the other side asks and does not read the answers")

    # --- bytes and time in -------------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Takes bytes of the leg; `next_event` then says what they mean."""
        if self._state == _OVER:
            return
        if self._records is None:
            self._early += data
        else:
            self._records.receive_data(data)

    def next_event(self, now: int) -> "tuple | None":  # type: ignore[type-arg]
        """The next event, or None until more bytes come. Raises RemoteError or CryptoError: the leg must end."""
        while not self._events:
            self._check_flood()
            if self._state == _OVER:
                return None
            if self._records is None:
                if not self._receive_header():
                    return None
                continue
            received = self._records.next_record(self._may_come)
            if received is None:
                return None
            self._heard = self._pinged = now
            stream, plain = received
            self._receive_frame(stream, frame.decode(stream, plain), now)
        return self._events.pop(0)

    def next_timeout(self) -> int:
        """When `handle_timeout` wants to be called, ms."""
        if self._state != _UP:
            due: int = self._started + self._times.confirm
        else:
            due = min(self._heard + self._times.dead, self._pinged + self._times.ping)
        return due

    def handle_timeout(self, now: int) -> None:
        """Raises RemoteError when the other side was silent for too long, and sends a PING before that."""
        self._check_flood()
        if self._state == _OVER:
            return
        if self._state != _UP:
            if now - self._started >= self._times.confirm:
                raise RemoteError("the other side did not prove its keys in time", wire.IDLE)
            return
        if now - self._heard >= self._times.dead:
            raise RemoteError("the other side is silent", wire.IDLE)
        if now - self._pinged >= self._times.ping:
            self._pinged = now
            assert self._records is not None
            self._seal(0, frame.ping(self._records.sent))

    # --- frames in -----------------------------------------------------------------------------------------------------------

    def _may_come(self, stream: int) -> bool:
        if self._state == _RESUME:
            return stream == 0
        return stream == 0 or stream in self._streams or (self.role == wire.ROLE_DEVICE and stream > self._last_stream)

    def _receive_frame(self, stream: int, said: "tuple", now: int) -> None:  # type: ignore[type-arg]
        kind = said[0]
        if (kind == wire.FRAME_RESUME) != (self._state == _RESUME):
            raise RemoteError("RESUME is the first record of a leg, and only that")
        if stream == 0:
            self._receive_session_frame(kind, said)
        elif stream not in self._streams:
            self._receive_open(stream, kind, said)
        else:
            self._receive_stream_frame(self._streams[stream], kind, said)

    def _receive_session_frame(self, kind: int, said: "tuple") -> None:  # type: ignore[type-arg]
        assert self._records is not None
        if kind == wire.FRAME_RESUME:
            if said[1]:
                raise RemoteError("RESUME names a stream that is not open", wire.RESUME_GONE)
            self._state = _UP
            self._their_n = self._pending_n
            self._events.append(Confirmed())
        elif kind == wire.FRAME_INFO:
            if self.role == wire.ROLE_DEVICE:
                raise RemoteError("INFO from a client")
            self._services += said[2]
            if len(self._services) > wire.MAX_SERVICES:
                raise RemoteError("services without end")
            if not said[1]:
                self._events.append(Services(self._services))
                self._services = []
        elif kind == wire.FRAME_PING:
            # `received` counts this PING already; what was sent before it must have come before it.
            if said[1] != self._records.received - 1:
                raise RemoteError("records were withheld")
            self._seal(0, frame.pong())
        elif kind == wire.FRAME_GOAWAY:
            self._state = _OVER
            self._events.append(Closed(said[1]))

    def _receive_open(self, stream: int, kind: int, said: "tuple") -> None:  # type: ignore[type-arg]
        if kind != wire.FRAME_OPEN:
            raise RemoteError("a stream begins with OPEN")
        self._last_stream = stream
        self._streams[stream] = Stream(stream, said[1], self._ours.window, self._theirs.window)
        if len(self._streams) > 2 * self._max_streams:
            raise RemoteError("streams without end", wire.BUSY)
        if len(self._streams) > self._max_streams:
            self.reset(stream, wire.BUSY)
        else:
            self._events.append(Opened(stream, said[1]))

    def _receive_stream_frame(self, stream: Stream, kind: int, said: "tuple") -> None:  # type: ignore[type-arg]
        if kind == wire.FRAME_DATA:
            if stream.receive_data(len(said[1])):
                self._events.append(Received(stream.id, said[1]))
        elif kind == wire.FRAME_ACK:
            stream.receive_ack(said[1], said[2])
            self._events.append(Writable(stream.id))
            self._settle(stream)
        elif kind == wire.FRAME_FIN:
            if stream.receive_fin(said[1]):
                self._acknowledge(stream)
                self._events.append(Finished(stream.id))
            self._settle(stream)
        elif kind == wire.FRAME_RST:
            wanted = stream.receive_rst()
            if wanted:
                self._seal(stream.id, frame.rst(said[1]))
                self._events.append(Reset(stream.id, said[1]))
            self._settle(stream)
        else:
            raise RemoteError("OPEN twice")

    def _acknowledge(self, stream: Stream) -> None:
        rx_offset, window = stream.ack()
        self._seal(stream.id, frame.ack(rx_offset, window))

    def _settle(self, stream: Stream) -> None:
        if stream.state == CLOSED:
            del self._streams[stream.id]
            assert self._records is not None
            self._records.forget(stream.id)
            self._events.append(Gone(stream.id))

    # --- what the application does --------------------------------------------------------------------------------------------

    def _stream(self, stream: int) -> Stream:
        found = self._streams.get(stream)
        if found is None or self._state != _UP:
            raise LocalError("the stream is not open")
        return found

    def is_open(self, stream: int) -> bool:
        return self._state == _UP and stream in self._streams

    def streams(self) -> int:
        return len(self._streams)

    def announce(self, services: "list[tuple[int, str]]") -> None:
        """INFO: the (kind, name) of the services this party may open. Device only."""
        for plain in frame.info(services, self._frame_room):
            self._seal(0, plain)

    def open(self, service: str) -> int:
        """A new stream to a service of the device; its id. Client only. Raises LocalError."""
        if self._state != _UP or self.role != wire.ROLE_CLIENT:
            raise LocalError("only a client opens streams, on a leg that is up")
        # One that ends has left the other side before our OPEN gets there; we keep it until the answer comes.
        places = sum([not stream.is_ending() for stream in self._streams.values()])
        if places >= self._max_streams or len(self._streams) >= 2 * self._max_streams:
            raise LocalError("too many streams at once")
        self._last_stream += 1
        stream = self._last_stream
        self._streams[stream] = Stream(stream, service, self._ours.window, self._theirs.window)
        self._seal(stream, frame.open_(service))
        return stream

    def accept(self, stream: int) -> None:
        """Tells the client that its stream is there: the target answered. Device only."""
        self._acknowledge(self._stream(stream))

    def send(self, stream: int, data: "bytes | memoryview") -> int:
        """How many bytes of `data` were sealed: as many as credit and the unsent buffer allow, 0 means wait."""
        state = self._stream(stream)
        if not state.can_send():
            raise LocalError("the stream was finished or reset")
        sent = 0
        room = self._frame_room - 1
        # Half of the unsent records stay free for answers.
        while sent < len(data) and self._out_size < self._out_limit and len(self._out) < self._out_records // 2:
            size = min(len(data) - sent, state.credit(), room)
            if size == 0:
                break
            state.send(size)
            self._seal(stream, _DATA + data[sent : sent + size])
            sent += size
        return sent

    def consume(self, stream: int, size: int) -> None:
        """The application took `size` bytes of what was Received."""
        state = self._streams.get(stream)
        if state is not None and self._state == _UP and state.consume(size):
            self._acknowledge(state)

    def finish(self, stream: int) -> None:
        """FIN: nothing more will be sent on it. The other direction goes on."""
        state = self._stream(stream)
        self._seal(stream, frame.fin(state.send_fin()))

    def reset(self, stream: int, code: int) -> None:
        """RST, unless the stream is over in both directions anyway."""
        state = self._streams.get(stream)
        if state is not None and self._state != _OVER and state.may_reset():
            state.send_rst()
            self._seal(stream, frame.rst(code))

    def close(self, reason: int) -> None:
        """GOAWAY: ends the session. What `data_to_send` then gives is its last."""
        if self._state == _UP:
            self._seal(0, frame.goaway(reason, self._last_stream))
        self._state = _OVER

    def lose_leg(self) -> None:
        """The leg is gone, and the session with it.

        A board's collector may take any word for a pointer: one to a session that is over must not keep all that it had.
        """
        self._state = _OVER
        self._records = None
        self._streams = {}
        self._events = []

    def pending(self) -> int:
        """Bytes received that wait for more."""
        return 0 if self._records is None else self._records.pending()

    # --- bytes out -----------------------------------------------------------------------------------------------------------

    def data_to_send(self) -> "list[bytes]":
        out, self._out, self._out_size = self._out, [], 0
        return out

    def is_over(self) -> bool:
        return self._state == _OVER
