"""Frames read back, and every wrong type, stream, length and name is refused."""

from check import raises
from zts import frame, wire
from zts.errors import RemoteError


def test_frames_read_back():
    for stream, encoded, expected in (
        (0, frame.resume([]), (wire.FRAME_RESUME, [])),
        (0, frame.resume([(1, 2), (3, 1 << 40)]), (wire.FRAME_RESUME, [(1, 2), (3, 1 << 40)])),
        (0, frame.ping(70000), (wire.FRAME_PING, 70000)),
        (0, frame.pong(), (wire.FRAME_PONG,)),
        (0, frame.goaway(11, 5), (wire.FRAME_GOAWAY, 11, 5)),
        (5, frame.open_("http"), (wire.FRAME_OPEN, "http")),
        (5, bytes([wire.FRAME_DATA]) + b"x", (wire.FRAME_DATA, b"x")),
        (5, frame.ack(1 << 50, 4096), (wire.FRAME_ACK, 1 << 50, 4096)),
        (5, frame.fin(9), (wire.FRAME_FIN, 9)),
        (5, frame.rst(3), (wire.FRAME_RST, 3)),
    ):
        assert frame.decode(stream, encoded) == expected
        raises(RemoteError, frame.decode, 0 if stream else 5, encoded)


def test_info_is_split_to_fit():
    services = [(1, f"service{i}") for i in range(20)]
    for room in (40, 64, 1024):
        got = []
        frames = frame.info(services, room)
        for i, encoded in enumerate(frames):
            assert len(encoded) <= room
            kind, more, part = frame.decode(0, encoded)
            assert kind == wire.FRAME_INFO and more == (i < len(frames) - 1)
            got += part
        assert got == services
    assert [frame.decode(0, f) for f in frame.info([], 64)] == [(wire.FRAME_INFO, False, [])]


def test_every_wrong_length_of_a_fixed_frame_is_refused():
    for stream, good in (
        (0, frame.ping(1)),
        (0, frame.pong()),
        (0, frame.goaway(1, 1)),
        (1, frame.ack(1, 1)),
        (1, frame.fin(1)),
        (1, frame.rst(1)),
    ):
        for n in range(1, 20):
            if n != len(good):
                raises(RemoteError, frame.decode, stream, (good + bytes(20))[:n])


def test_cut_lists_are_refused():
    good = frame.resume([(1, 1), (2, 2)])
    for n in range(2, len(good)):
        if (n - 1) % 12:
            raises(RemoteError, frame.decode, 0, good[:n])
    good = frame.info([(1, "http"), (2, "ssh")], 64)[0]
    for n in range(1, len(good)):
        if n not in (2, 8):
            raises(RemoteError, frame.decode, 0, good[:n])
    raises(RemoteError, frame.decode, 0, bytes([wire.FRAME_INFO, 2]))


def test_unknown_types_are_refused():
    known = (0x01, 0x02, 0x03, 0x04, 0x05, 0x10, 0x11, 0x12, 0x13, 0x14)
    for kind in range(256):
        if kind not in known:
            raises(RemoteError, frame.decode, 0, bytes([kind]))
            raises(RemoteError, frame.decode, 1, bytes([kind]))


def test_names_that_are_none_are_refused():
    for bad in (b"", b"A", b"a b", b"\xff", b"a\0", b"x" * 33, b"127.0.0.1:22", b"a/b", b"../x"):
        raises(RemoteError, frame.decode, 1, bytes([wire.FRAME_OPEN]) + bad)
    raises(RemoteError, frame.decode, 1, bytes([wire.FRAME_DATA]))
