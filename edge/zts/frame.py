"""Frames: the plaintext inside a record, type1 body. Encoders give bytes, `decode` gives what one frame says.

PROTOCOL.md, "Frames". Sizes are checked here; whether a frame may come now is the session's and the stream's business.
"""

from . import wire
from .errors import RemoteError

# Body bytes of the fixed frames. The others say how their body must be in `decode`.
_FIXED = {wire.FRAME_PING: 8, wire.FRAME_PONG: 0, wire.FRAME_GOAWAY: 5, wire.FRAME_ACK: 12, wire.FRAME_FIN: 8, wire.FRAME_RST: 1}
_SESSION_FRAMES = (wire.FRAME_RESUME, wire.FRAME_INFO, wire.FRAME_PING, wire.FRAME_PONG, wire.FRAME_GOAWAY)
_STREAM_FRAMES = (wire.FRAME_OPEN, wire.FRAME_DATA, wire.FRAME_ACK, wire.FRAME_FIN, wire.FRAME_RST)


def resume(offsets: "list[tuple[int, int]]") -> bytes:
    """(stream, rx_offset) of every stream that goes on on the new leg."""
    return bytes([wire.FRAME_RESUME]) + b"".join([s.to_bytes(4, "big") + o.to_bytes(8, "big") for s, o in offsets])


def info(services: "list[tuple[int, str]]", room: int) -> "list[bytes]":
    """(kind, name) of the services this party may open, in frames of at most `room` bytes; all but the last say `more`."""
    frames = []
    body = b""
    for kind, name in services:
        entry = bytes([kind, len(name)]) + name.encode()
        if 2 + len(body) + len(entry) > room:
            frames.append(bytes([wire.FRAME_INFO, 1]) + body)
            body = b""
        body += entry
    return frames + [bytes([wire.FRAME_INFO, 0]) + body]


def ping(records_sent: int) -> bytes:
    return bytes([wire.FRAME_PING]) + records_sent.to_bytes(8, "big")


def pong() -> bytes:
    return bytes([wire.FRAME_PONG])


def goaway(reason: int, last_stream: int) -> bytes:
    return bytes([wire.FRAME_GOAWAY, reason]) + last_stream.to_bytes(4, "big")


def open_(service: str) -> bytes:
    return bytes([wire.FRAME_OPEN]) + service.encode()


def ack(rx_offset: int, window: int) -> bytes:
    return bytes([wire.FRAME_ACK]) + rx_offset.to_bytes(8, "big") + window.to_bytes(4, "big")


def fin(offset: int) -> bytes:
    return bytes([wire.FRAME_FIN]) + offset.to_bytes(8, "big")


def rst(code: int) -> bytes:
    return bytes([wire.FRAME_RST, code])


def _name(body: bytes) -> str:
    """A service's name; 1 to NAME_MAX_CHARS of a-z 0-9 - _."""
    if not 1 <= len(body) <= wire.NAME_MAX_CHARS or any(not (97 <= c <= 122 or 48 <= c <= 57 or c in b"-_") for c in body):
        raise RemoteError("not a service's name")
    return bytes(body).decode()


def _decode_info(body: bytes) -> "tuple[bool, list[tuple[int, str]]]":
    if not body or body[0] > 1:
        raise RemoteError("INFO is cut")
    services = []
    at = 1
    while at < len(body):
        end = at + 2 + body[at + 1] if at + 1 < len(body) else len(body) + 1
        if end > len(body):
            raise RemoteError("INFO is cut")
        services.append((body[at], _name(body[at + 2 : end])))
        at = end
    return body[0] == 1, services


def _decode_resume(body: bytes) -> "list[tuple[int, int]]":
    if len(body) % 12:
        raise RemoteError("RESUME is cut")
    return [(int.from_bytes(body[i : i + 4], "big"), int.from_bytes(body[i + 4 : i + 12], "big")) for i in range(0, len(body), 12)]


def decode(stream: int, frame: bytes) -> "tuple":  # type: ignore[type-arg]
    """(type, what its body says ...). Raises RemoteError for an unknown type, a wrong stream or a wrong size.

    RESUME gives a list, INFO whether more follows and a list, DATA its bytes, OPEN a name, the fixed ones their integers.
    """
    kind = frame[0]
    if kind not in (_STREAM_FRAMES if stream else _SESSION_FRAMES):
        raise RemoteError("frame of an unknown type, or on the wrong stream")
    body = frame[1:]
    if kind in _FIXED and len(body) != _FIXED[kind]:
        raise RemoteError("frame of a wrong size")
    if kind == wire.FRAME_DATA:
        if not body:
            raise RemoteError("DATA without a byte")
        return kind, body
    if kind == wire.FRAME_ACK:
        return kind, int.from_bytes(body[:8], "big"), int.from_bytes(body[8:], "big")
    if kind == wire.FRAME_GOAWAY:
        return kind, body[0], int.from_bytes(body[1:], "big")
    if kind == wire.FRAME_OPEN:
        return kind, _name(body)
    if kind == wire.FRAME_INFO:
        more, services = _decode_info(body)
        return kind, more, services
    if kind == wire.FRAME_RESUME:
        return kind, _decode_resume(body)
    if kind == wire.FRAME_PONG:
        return (kind,)
    return kind, int.from_bytes(body, "big")
