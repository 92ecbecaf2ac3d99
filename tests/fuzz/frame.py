"""Frames: what is taken encodes to the same bytes again, and whatever else raises RemoteError."""

from zts import frame, wire
from zts.errors import RemoteError

_STREAM_0 = [
    frame.resume([]),
    frame.resume([(1, 2), (3, 1 << 60)]),
    *frame.info([(1, "ssh"), (2, "http")], 1000),
    *frame.info([(1, "a" * 32)] * 3, 60),
    frame.ping(7),
    frame.pong(),
    frame.goaway(11, 3),
]
_STREAM_1 = [frame.open_("http"), b"\x11data", frame.ack(5, 4096), frame.fin(5), frame.rst(6)]
SEEDS = [b"\0" + said for said in _STREAM_0] + [b"\1" + said for said in _STREAM_1] + [b"\0\x77", b"\1\x11", b"\0\x02\0\1\5abc"]


def encode(said: tuple) -> bytes:  # type: ignore[type-arg]
    """The frame that `frame.decode` gave `said` for."""
    match said:
        case (wire.FRAME_RESUME, offsets):
            return frame.resume(offsets)
        case (wire.FRAME_INFO, more, services):
            whole = frame.info(services, 1 << 20)
            assert len(whole) == 1
            return bytes((wire.FRAME_INFO, more)) + whole[0][2:]
        case (wire.FRAME_PING, sent):
            return frame.ping(sent)
        case (wire.FRAME_PONG,):
            return frame.pong()
        case (wire.FRAME_GOAWAY, reason, last):
            return frame.goaway(reason, last)
        case (wire.FRAME_OPEN, service):
            return frame.open_(service)
        case (wire.FRAME_DATA, data):
            return bytes((wire.FRAME_DATA,)) + bytes(data)
        case (wire.FRAME_ACK, offset, window):
            return frame.ack(offset, window)
        case (wire.FRAME_FIN, offset):
            return frame.fin(offset)
        case (wire.FRAME_RST, code):
            return frame.rst(code)
    raise AssertionError(said)


def one(data: bytes) -> None:
    if len(data) < 2:  # the record layer lets no empty frame through
        return
    stream, said = data[0] & 1, data[1:]
    try:
        found = frame.decode(stream, said)
    except RemoteError:
        return
    assert encode(found) == said
    assert (said[0] >= wire.FRAME_OPEN) == bool(stream)
