"""Records and sessions: whatever an evil peer that holds the keys says, in whatever pieces it comes, the application gets the
same events: of each stream what was said on it, in order and within the credit; or the leg ends with one clean error."""

import contextlib
import copy
from typing import Any

from fuzz.feed import Feed, pieces
from zts import frame, leg, record, session, wire
from zts.errors import CryptoError, LocalError, RemoteError

KEY = b"k" * 32
OFFER = session.Offer(300, 400)
STREAMS = 4


def _said(stream: int, plain: bytes) -> bytes:
    return bytes((0, stream, len(plain))) + plain


_RESUME = _said(0, frame.resume([]))
SEEDS = [
    # whose role we play, cuts | the script
    b"\0\0" + _RESUME + _said(1, frame.open_("http")) + _said(1, b"\x11hello") + _said(1, frame.fin(5)) + _said(1, frame.ack(1, 400)),
    b"\0\4\1\2\3\4" + _RESUME + _said(1, frame.open_("a")) + _said(2, frame.open_("b")) + _said(2, frame.rst(3)) + _said(1, b"\x11x"),
    b"\1\0" + _RESUME + _said(0, frame.info([(1, "ssh")], 99)[0]) + _said(1, frame.ack(0, 400)) + _said(1, b"\x11answer"),
    b"\1\2\7\7" + _RESUME + _said(0, frame.ping(1)) + _said(1, frame.rst(6)) + _said(2, frame.fin(0)) + _said(0, frame.goaway(0, 3)),
    b"\0\0" + _RESUME + b"".join(_said(n, frame.open_("x")) for n in range(1, 10)),
    b"\0\0" + _RESUME + b"\1\x03raw",
    b"\0\0" + _said(0, frame.pong()),
    b"\0\0" + b"\1\x06\xff\xff\0\0\0\0",
    b"\0\0" + _RESUME + _said(1, frame.open_("http")) + _said(1, b"\x11" + b"x" * 250) + _said(1, b"\x11" + b"y" * 250),
    # Nobody reads stream 3.
    b"\0\0" + _RESUME + _said(3, frame.open_("http")) + _said(3, b"\x11" + b"x" * 250) + _said(3, b"\x11" + b"y" * 250),
    b"\0\0" + _RESUME + _said(1, frame.open_("http")) + _said(1, b"\x11x") + _said(1, frame.ack(9, 400)) + _said(1, frame.ack(0, 0)),
    b"\0\0" + _RESUME + _said(1, frame.open_("http")) + _said(1, b"\x11x") + _said(1, frame.fin(7)),
    b"\0\0" + _RESUME + _said(1, frame.open_("b")) + _said(1, b"\x11x") + _said(1, frame.fin(1)) + _said(1, frame.rst(0)),
]


class _Application:
    """Answers every event at once, and keeps the account of what came."""

    def __init__(self, end: session.Session) -> None:
        self.end = end
        self.events: list[Any] = []
        self.received: dict[int, bytes] = {}
        self.reset: set[int] = set()
        self.ends: list[tuple[int, int]] = []  # streams that were finished, after how many bytes
        self.failed = ""
        self.sent = b""

    def take(self, data: bytes) -> None:
        if self.failed:
            return
        try:
            self.end.receive_data(data)
            while (event := self.end.next_event(0)) is not None:
                self.events.append(event)
                self._answer(event)
            assert self.end.streams() <= 2 * STREAMS
        except (RemoteError, CryptoError) as error:
            self.failed = f"{type(error).__name__} {error}"
        self.sent += b"".join(self.end.data_to_send())

    def _answer(self, event: Any) -> None:
        match event:
            case session.Confirmed() if self.end.role == wire.ROLE_CLIENT:
                for name in ("one", "two", "three"):
                    stream = self.end.open(name)
                    self.end.send(stream, b"q" * 700)
            case session.Opened(stream, service):
                if service == "b":
                    self.end.reset(stream, wire.DENIED)
                    self.reset.add(stream)
                else:
                    self.end.accept(stream)
            case session.Received(stream, data):
                assert stream not in self.reset, "bytes for a stream that we reset"
                self.received[stream] = self.received.get(stream, b"") + bytes(data)
                if stream % 4 != 3:  # one that nobody reads: its credit must hold
                    self.end.consume(stream, len(data))
                    if self.end.role == wire.ROLE_DEVICE:
                        self._send(stream, bytes(data))
                assert stream % 4 != 3 or len(self.received[stream]) <= OFFER.window
            case session.Writable(stream):
                self._send(stream, b"more")
            case session.Finished(stream):
                self.ends.append((stream, len(self.received.get(stream, b""))))
                if self.end.is_open(stream):
                    self._finish(stream)

    def _send(self, stream: int, data: bytes) -> None:
        with contextlib.suppress(LocalError):  # we had finished or reset it
            assert self.end.send(stream, data) <= len(data)

    def _finish(self, stream: int) -> None:
        with contextlib.suppress(LocalError):
            self.end.finish(stream)


def _script(feed: Feed, records: record.RecordLayer) -> tuple[bytes, dict[int, bytes], list[tuple[int, int]]]:
    """The bytes that the script makes: sealed records and, between them, raw bytes; the DATA of each stream in them, and its FINs."""
    out = b""
    said: dict[int, bytes] = {}
    fins = []
    while len(feed) and len(out) < 20_000:
        kind = feed.number()
        if kind & 1:
            out += feed.take(feed.number())
            continue
        stream = feed.number()
        plain = feed.take(feed.number())
        if kind & 2:
            stream |= feed.number(3) << 8
        if plain[:1] == bytes((wire.FRAME_DATA,)):
            said[stream] = said.get(stream, b"") + plain[1:]
        if plain[:1] == bytes((wire.FRAME_FIN,)):
            fins.append((stream, int.from_bytes(plain[1:], "big")))
        out += records.seal(stream, plain)
    return out, said, fins


def one(data: bytes) -> None:
    feed = Feed(data)
    ours = wire.ROLE_CLIENT if feed.number() & 1 else wire.ROLE_DEVICE
    sizes = feed.take(feed.number())
    end = session.Session(ours, KEY, OFFER, OFFER, STREAMS)
    end.start_leg(0)
    mine = b"".join(end.data_to_send())
    theirs = leg.encode_header(leg.other_role(ours), 1, b"n" * 16)
    pair = (mine, theirs) if ours == wire.ROLE_CLIENT else (theirs, mine)
    script, said, fins = _script(feed, record.RecordLayer(record.leg_key(KEY, *pair), leg.other_role(ours), ours, OFFER.max_record))
    whole, cut = _Application(copy.deepcopy(end)), _Application(end)
    whole.take(theirs + script)
    for piece in pieces(theirs + script, sizes):
        cut.take(piece)
    assert whole.events == cut.events and whole.failed == cut.failed and whole.sent == cut.sent
    for stream, got in whole.received.items():
        assert said.get(stream, b"").startswith(got)
    assert set(whole.ends) <= set(fins), "the end before all bytes came"
    if whole.events and not isinstance(whole.events[0], session.Confirmed):
        raise AssertionError("an event before the keys were proved")
