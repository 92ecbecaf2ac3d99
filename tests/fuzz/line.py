"""Line messages: in whatever pieces a stream comes, the same is read of it or it is refused; what is read is what was written, what is
held is short, and settings are such as a port may have."""

from fuzz.feed import Feed, pieces
from zts import line, wire
from zts.errors import RemoteError

_SOME = line.data(b"hello") + line.settings(115200, 8, "N", 1) + line.encode(wire.LINE_MODEM, b"\3\1") + line.data(b"x")
# cuts, bytes
SEEDS = [
    b"\0",
    b"\0" + _SOME,
    b"\6\0\1\2\3\4\5" + _SOME * 2,
    b"\3\0\0\0" + line.encode(wire.LINE_BREAK, b"\0\x64") + line.encode(wire.LINE_RESET, b"\2") + line.encode(wire.LINE_PURGE, b"\3"),
    b"\1\7" + line.encode(wire.LINE_STATE, b"\xb2") + _SOME[:-1],
    b"\0" + line.settings(50, 5, "S", 2) + line.encode(wire.LINE_SETTINGS, bytes(7)),
    b"\0" + line.encode(wire.LINE_DATA, b""),
    b"\0\0\xff\xff" + bytes(300),
    b"\2\1\1\7\0\0",
]

Messages = list[tuple[int, bytes]]


def _read(chunks: list[bytes]) -> tuple[Messages, line.Decoder] | None:
    """None: refused. DATA that follows on DATA is put together: it may have come in one message or in several."""
    decoder = line.Decoder()
    messages: Messages = []
    for chunk in chunks:
        try:
            found = decoder.feed(chunk)
        except RemoteError:
            return None
        assert len(decoder._held) < 3 + max(line.SIZES.values())
        for kind, body in found:
            if kind == wire.LINE_DATA and messages and messages[-1][0] == kind:
                messages[-1] = (kind, messages[-1][1] + body)
            else:
                messages.append((kind, body))
    return messages, decoder


def one(data: bytes) -> None:
    feed = Feed(data)
    sizes = feed.take(feed.number())
    said = feed.rest()
    whole, cut = _read([said]), _read(list(pieces(said, sizes)))
    assert (whole is None) == (cut is None)
    if whole is None or cut is None:
        return
    assert whole[0] == cut[0] and whole[1].is_between() == cut[1].is_between()
    for kind, body in whole[0]:
        assert body and (kind == wire.LINE_DATA or len(body) == line.SIZES[kind])
        if kind == wire.LINE_SETTINGS:
            try:
                settings = line.read_settings(body)
            except RemoteError:
                continue
            assert line.settings(*settings)[3:] == body and line.BAUD_MIN <= settings[0] <= line.BAUD_MAX
    written = b"".join(line.data(body) if kind == wire.LINE_DATA else line.encode(kind, body) for kind, body in whole[0])
    again = _read([written])
    assert again and again[0] == whole[0] and again[1].is_between()
