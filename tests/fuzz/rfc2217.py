"""The server of RFC 2217: in whatever pieces a client's bytes come, it does and says the same; it raises nothing and holds little back.
What it tells the device are whole line messages with settings that a port can have."""

from collections.abc import Iterator

from fuzz.feed import Feed, pieces
from zts import line, wire
from zts_gateway import reset_macro, rfc2217

_SETTINGS = b"".join(
    b"\xff\xfa\x2c" + one + b"\xff\xf0" for one in (b"\x01\x00\x01\xc2\x00", b"\x02\x08", b"\x03\x01", b"\x04\x01", b"\x05\x01")
)
_OPENING = b"\xff\xfb\x2c\xff\xfd\x2c\xff\xfd\x01\xff\xfb\x03\xff\xfd\x03\xff\xfd\x00\xff\xfb\x00"


def _control(*values: int) -> bytes:
    return b"".join(b"\xff\xfa\x2c\x05%c\xff\xf0" % value for value in values)


# cuts, bytes
SEEDS = [
    b"\0" + _OPENING + _SETTINGS + _control(8, 11) + b"\xff\xfa\x2c\x0c\x01\xff\xf0",
    b"\5\1\2\3\4\5" + _control(9, 11, 9, 8, 12, 8, 9),  # into the bootloader
    b"\0" + _control(11, 9, 12, 9) + b"\x03\x03\x0d",  # a reset
    b"\0" + _control(12, 9, 8, 12, 11, 9, 11, 9, 12),  # into the bootloader of a USB port
    b"\0" + _control(5, 6, 4, 0, 2, 3, 7, 10, 13, 15, 17, 20),
    b"\2\0\0abc\xff\xff\xff\xffdef\xff\xf3\xff\xf6\xff\xf1",
    b"\0\xff\xfb\x01\xff\xfd\x05\xff\xfe\x2c\xff\xfc\x2c\xff\xfb\x2c",
    b"\0\xff\xfa\x2c\x00\xff\xf0\xff\xfa\x2c\x00name\xff\xf0\xff\xfa\x2c\x06\xff\xf0\xff\xfa\x2c\x07\xff\xf0",
    b"\0\xff\xfa\x2c\x0a\xff\xff\xff\xf0\xff\xfa\x2c\x0b\xff\xff\xff\xf0\xff\xfa\x2c\x08\xff\xf0\xff\xfa\x2c\x09\xff\xf0",
    b"\0\xff\xfa" + bytes(range(250)) + b"\xff\xf0x\xff\xf0\xff\xfa\x2c\xff\xfb\x2c",
    b"\1\0GET / HTTP/1.1\r\n\r\n",
]


def _append(events: list[rfc2217.Event], event: rfc2217.Event) -> None:
    """Data that follow on data are one."""
    last = events[-1] if events else None
    if isinstance(event, rfc2217.Data) and isinstance(last, rfc2217.Data):
        events[-1] = rfc2217.Data(last.data + event.data)
    else:
        events.append(event)


def _serve(chunks: Iterator[bytes]) -> tuple[list[rfc2217.Event], bytes]:
    server = rfc2217.Server()
    events: list[rfc2217.Event] = []
    said = b""
    for chunk in chunks:
        for event in server.receive(chunk):
            _append(events, event)
        answer = server.output()
        # An option turned on takes 3 bytes, and the answer with the state of the lines 11.
        assert len(answer) <= 4 * len(chunk) + 32
        said += answer
        assert len(server._sub) <= 20 and not server._text and not server._out
    server.tell_state(wire.STATE_CTS)
    return events, said + server.output()


def one(data: bytes) -> None:
    feed = Feed(data)
    sizes = feed.take(feed.number())
    said = feed.take(8192)
    whole = _serve(iter([said]))
    assert _serve(pieces(said, sizes)) == whole
    macro, decoder = reset_macro.ResetMacro(), line.Decoder()
    now = 0
    for event in whole[0]:
        now += 100
        messages = b""
        if isinstance(event, rfc2217.Settings):
            assert line.read_settings(line.settings(*event)[3:]) == event
        elif isinstance(event, rfc2217.Modem):
            assert not event.values & ~event.mask and event.mask in (wire.MODEM_DTR, wire.MODEM_RTS)
            messages = macro.change(event.mask, event.values, now)
        else:
            messages = macro.settle()
            assert macro.deadline is None
        for kind, body in decoder.feed(messages):
            assert (kind == wire.LINE_RESET and body[0] in (wire.RESET_RUN, wire.RESET_BOOTLOADER)) or (kind == wire.LINE_MODEM and body[0])
        assert decoder.is_between()
