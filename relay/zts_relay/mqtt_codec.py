"""MQTT 3.1.1 (OASIS standard of 2014) as the embedded broker speaks it: bytes to packets and back, without I/O.

The frozen subset: CONNECT, PUBLISH with QoS 0 or 1, SUBSCRIBE, UNSUBSCRIBE, PINGREQ, DISCONNECT from clients. Everything
else, and every breach of the standard, raises RemoteError, after which the connection must be closed.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from zts.errors import RemoteError

LEVEL: Final = 4  # protocol level of 3.1.1, section 3.1.2.2

ACCEPTED: Final = 0  # CONNACK return codes, section 3.2.2.3
BAD_CLIENT_ID: Final = 2
UNAVAILABLE: Final = 3
NOT_AUTHORISED: Final = 5

GRANTED: Final = 0x00  # SUBACK return codes, section 3.9.3: QoS 0, or
REFUSED: Final = 0x80

_CONNECT, _PUBLISH, _SUBSCRIBE, _UNSUBSCRIBE, _PINGREQ, _DISCONNECT = 1, 3, 8, 10, 12, 14
# The low four bits of the first byte are fixed for every type but PUBLISH, section 2.2.2.
_FLAGS: Final = {_CONNECT: 0, _SUBSCRIBE: 2, _UNSUBSCRIBE: 2, _PINGREQ: 0, _DISCONNECT: 0}


class Will(NamedTuple):
    """What the broker publishes when the connection ends without DISCONNECT."""

    topic: str
    payload: bytes
    retain: bool


class Connect(NamedTuple):
    """Section 3.1. `keepalive` in seconds; `username` and `password` are None when absent."""

    client_id: str
    clean: bool
    keepalive: int
    will: Will | None
    username: str | None
    password: bytes | None


class Publish(NamedTuple):
    """Section 3.3. `packet_id` is None for QoS 0."""

    topic: str
    payload: bytes
    retain: bool
    packet_id: int | None


class Subscribe(NamedTuple):
    """Section 3.8; the wanted QoS is checked and dropped, since 0 is all that is granted."""

    packet_id: int
    filters: tuple[str, ...]


class Unsubscribe(NamedTuple):
    """Section 3.10."""

    packet_id: int
    filters: tuple[str, ...]


class PingReq(NamedTuple):
    """Section 3.12."""


class Disconnect(NamedTuple):
    """Section 3.14."""


Packet = Connect | Publish | Subscribe | Unsubscribe | PingReq | Disconnect


class _Body:
    """Reads the fields of one packet's body; every read past its end is an error."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise RemoteError("field longer than its packet")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def binary(self) -> bytes:
        return self.take(self.number(2))

    def text(self) -> str:
        """Section 1.5.3: well-formed UTF-8 without NUL."""
        try:
            text = self.binary().decode()
        except UnicodeDecodeError:
            raise RemoteError("text is not UTF-8") from None
        if "\0" in text:
            raise RemoteError("NUL in a text")
        return text

    def topic(self) -> str:
        """Section 4.7: a topic name, so no wildcards and at least one character."""
        text = self.text()
        if not text or "+" in text or "#" in text:
            raise RemoteError("not a topic name")
        return text

    def packet_id(self) -> int:
        number = self.number(2)
        if not number:
            raise RemoteError("packet id 0")
        return number

    def end(self) -> None:
        if self.left:
            raise RemoteError("bytes after the last field")


class Decoder:
    """Cuts a byte stream into packets. `limit` is the size of the largest packet accepted, header included, in bytes.

    It may be changed between packets; a longer packet raises as soon as its header is known.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take bytes as they come; then call `next_packet` until it returns None."""
        self._buffer += data

    def next_packet(self) -> Packet | None:
        """The next whole packet, or None until more bytes come. Raises RemoteError; the decoder is useless after that."""
        buffer = self._buffer
        if not buffer:
            return None
        _check_first(buffer[0])
        length = 0
        for at in range(1, 5):  # section 2.2.3: at most four bytes of length
            if at == len(buffer):
                return None
            length |= (buffer[at] & 0x7F) << (7 * (at - 1))
            if at + 1 + length > self.limit:
                raise RemoteError("packet too long")
            if buffer[at] < 0x80:
                break
        else:
            raise RemoteError("length of more than four bytes")
        end = at + 1 + length
        if len(buffer) < end:
            return None
        first, body = buffer[0], bytes(buffer[at + 1 : end])
        del buffer[:end]
        return _parse(first, _Body(body))


def _check_first(first: int) -> None:
    kind, flags = first >> 4, first & 15
    if kind == _PUBLISH:
        qos = flags >> 1 & 3
        if qos > 1 or (flags & 8 and not qos):  # QoS 2 is outside the subset; DUP needs a QoS, section 3.3.1.1
            raise RemoteError("bad flags of PUBLISH")
    elif _FLAGS.get(kind) != flags:
        raise RemoteError("bad type or flags")


def _parse(first: int, body: _Body) -> Packet:
    kind = first >> 4
    packet: Packet
    if kind == _CONNECT:
        packet = _connect(body)
    elif kind == _PUBLISH:
        topic = body.topic()
        packet_id = body.packet_id() if first & 6 else None
        packet = Publish(topic, body.take(body.left), bool(first & 1), packet_id)
    elif kind == _SUBSCRIBE:
        packet = Subscribe(body.packet_id(), _filters(body, with_qos=True))
    elif kind == _UNSUBSCRIBE:
        packet = Unsubscribe(body.packet_id(), _filters(body, with_qos=False))
    elif kind == _PINGREQ:
        packet = PingReq()
    else:
        packet = Disconnect()
    body.end()
    return packet


def _connect(body: _Body) -> Connect:
    if body.binary() != b"MQTT" or body.number(1) != LEVEL:
        raise RemoteError("not MQTT 3.1.1")
    flags = body.number(1)
    has_will, will_qos, will_retain = flags & 4, flags >> 3 & 3, flags & 0x20
    has_username, has_password = flags & 0x80, flags & 0x40
    if flags & 1 or will_qos == 3 or (not has_will and (will_qos or will_retain)) or (has_password and not has_username):
        raise RemoteError("bad flags of CONNECT")  # sections 3.1.2.3 to 3.1.2.9
    keepalive = body.number(2)
    client_id = body.text()
    will = Will(body.topic(), body.binary(), bool(will_retain)) if has_will else None
    username = body.text() if has_username else None
    password = body.binary() if has_password else None
    return Connect(client_id, bool(flags & 2), keepalive, will, username, password)


def _filters(body: _Body, with_qos: bool) -> tuple[str, ...]:
    filters: list[str] = []
    while not filters or body.left:  # at least one, sections 3.8.3 and 3.10.3
        text = body.text()
        if not text:
            raise RemoteError("empty filter")
        if with_qos and body.number(1) > 2:
            raise RemoteError("bad QoS")
        filters.append(text)
    return tuple(filters)


PINGRESP: Final = b"\xd0\x00"


def connack(code: int) -> bytes:
    """CONNACK without a session present."""
    return bytes((0x20, 2, 0, code))


def puback(packet_id: int) -> bytes:
    """PUBACK."""
    return b"\x40\x02" + packet_id.to_bytes(2, "big")


def suback(packet_id: int, codes: Sequence[int]) -> bytes:
    """SUBACK with one code for each filter asked for."""
    return _packet(0x90, packet_id.to_bytes(2, "big") + bytes(codes))


def unsuback(packet_id: int) -> bytes:
    """UNSUBACK."""
    return b"\xb0\x02" + packet_id.to_bytes(2, "big")


def publish(topic: str, payload: bytes, retain: bool) -> bytes:
    """PUBLISH with QoS 0; `retain` tells a subscriber that the message was kept for it, section 3.3.1.3."""
    name = topic.encode()
    return _packet(0x31 if retain else 0x30, len(name).to_bytes(2, "big") + name + payload)


def _packet(first: int, body: bytes) -> bytes:
    head = bytearray((first,))
    length = len(body)
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + body
