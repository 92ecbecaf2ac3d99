"""Line messages read back in any pieces, and every wrong type, size and setting is refused."""

from check import raises
from zts import line, wire
from zts.errors import RemoteError

_ALL = [
    (wire.LINE_DATA, b"hello"),
    (wire.LINE_SETTINGS, bytes([0, 1, 0xC2, 0, 8, 0, 1])),
    (wire.LINE_MODEM, bytes([wire.MODEM_DTR | wire.MODEM_RTS, wire.MODEM_RTS])),
    (wire.LINE_BREAK, bytes([0, 250])),
    (wire.LINE_DATA, bytes(range(256))),
    (wire.LINE_RESET, bytes([wire.RESET_BOOTLOADER])),
    (wire.LINE_PURGE, bytes([wire.PURGE_RECEIVED])),
    (wire.LINE_STATE, bytes([wire.STATE_CTS])),
]


def _join(messages):
    joined = []
    for kind, body in messages:
        if kind == wire.LINE_DATA and joined and joined[-1][0] == wire.LINE_DATA:
            joined[-1] = (kind, joined[-1][1] + body)
        else:
            joined.append((kind, body))
    return joined


def test_read_back_in_any_pieces():
    stream = b"".join([line.encode(kind, body) for kind, body in _ALL])
    for step in (1, 2, 3, 5, 7, 100, len(stream)):
        decoder = line.Decoder()
        got = []
        for at in range(0, len(stream), step):
            got += decoder.feed(stream[at : at + step])
        assert _join(got) == _ALL, step
        assert decoder.is_between()


def test_no_end_within_a_message():
    for encoded in [line.encode(kind, body) for kind, body in _ALL]:
        for cut in range(1, len(encoded)):
            decoder = line.Decoder()
            decoder.feed(encoded[:cut])
            assert not decoder.is_between(), cut


def test_long_data_is_split():
    piece = bytes(range(256)) * 10
    messages = line.Decoder().feed(line.data(piece))
    assert b"".join([body for _, body in messages]) == piece
    assert max([len(body) for _, body in messages]) == line.DATA_MAX
    assert line.data(b"") == b""


def test_every_other_type_and_size_is_refused():
    for kind in range(256):
        for size in (0, 1, 2, 3, 6, 7, 8, 1024, 65535):
            head = bytes([kind]) + size.to_bytes(2, "big")
            if line.SIZES.get(kind) == size or (kind == wire.LINE_DATA and size):
                assert line.Decoder().feed(head) == []
            else:
                raises(RemoteError, line.Decoder().feed, head)


def test_settings():
    assert line.settings(115200, 8, "N", 1) == line.encode(wire.LINE_SETTINGS, _ALL[1][1])
    for baud, bits, parity, stop in ((115200, 8, "N", 1), (9600, 7, "E", 2), (4_000_000, 5, "S", 1), (50, 6, "O", 2)):
        assert line.read_settings(line.settings(baud, bits, parity, stop)[3:]) == (baud, bits, parity, stop)
    good = _ALL[1][1]
    for at, value in ((0, 255), (4, 4), (4, 9), (5, 5), (6, 0), (6, 3)):
        raises(RemoteError, line.read_settings, good[:at] + bytes([value]) + good[at + 1 :])
    raises(RemoteError, line.read_settings, bytes(4) + good[4:])
