"""A bare MQTT 3.1.1 client for tests: sends any bytes, reads packets with a deadline. Shares no code with the broker."""

import contextlib
import os
import socket
from typing import Self

DEADLINE_S = 20.0  # for what must happen; a healthy broker needs milliseconds


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return len(raw).to_bytes(2, "big") + raw


def packet(first: int, body: bytes) -> bytes:
    length, head = len(body), bytearray((first,))
    while length > 127:
        head.append(length % 128 + 128)
        length //= 128
    head.append(length)
    return bytes(head) + body


def connect(
    username: str | None,
    password: bytes | None,
    client_id: str = "",
    *,
    clean: bool = True,
    keepalive: int = 60,
    will: tuple[str, bytes, bool] | None = None,
    level: int = 4,
    flags: int = 0,
) -> bytes:
    """A CONNECT; `flags` are or-ed to the right ones."""
    flags |= 2 if clean else 0
    body = text(client_id)
    if will:
        flags |= 4 | (0x20 if will[2] else 0)
        body += text(will[0]) + text(will[1])
    if username is not None:
        flags |= 0x80
        body += text(username)
    if password is not None:
        flags |= 0x40
        body += text(password)
    return packet(0x10, text("MQTT") + bytes((level, flags)) + keepalive.to_bytes(2, "big") + body)


def subscribe(*filters: str, packet_id: int = 1) -> bytes:
    return packet(0x82, packet_id.to_bytes(2, "big") + b"".join(text(name) + b"\0" for name in filters))


def unsubscribe(*filters: str, packet_id: int = 2) -> bytes:
    return packet(0xA2, packet_id.to_bytes(2, "big") + b"".join(text(name) for name in filters))


def publish(topic: str, payload: bytes, *, retain: bool = False, packet_id: int = 0) -> bytes:
    first = 0x30 | (1 if retain else 0) | (2 if packet_id else 0)
    return packet(first, text(topic) + (packet_id.to_bytes(2, "big") if packet_id else b"") + payload)


PINGREQ = b"\xc0\x00"
PINGRESP = (0xD0, b"")
DISCONNECT = b"\xe0\x00"


class Wire:
    """One TCP connection. `read` returns (first byte, body), or None when the broker has closed the connection."""

    def __init__(self, address: tuple[str, int], receive_buffer: int = 0) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(DEADLINE_S)
        self.socket.connect(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        # The broker may have closed already; what it said before that is still to be read.
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(data)

    def _exactly(self, count: int) -> bytes | None:
        data = b""
        while len(data) < count:
            try:
                more = self.socket.recv(count - len(data))
            except ConnectionError:
                return None
            if not more:
                return None
            data += more
        return data

    def read(self) -> tuple[int, bytes] | None:
        first = self._exactly(1)
        if first is None:
            return None
        length = shift = 0
        while True:
            byte = self._exactly(1)
            if byte is None:
                return None
            length |= (byte[0] & 127) << shift
            shift += 7
            if byte[0] < 128:
                break
        body = self._exactly(length)
        return None if body is None else (first[0], body)

    def fence(self) -> list[tuple[str, bytes, bool]]:
        """PINGREQ: the messages (topic, payload, retained) that came before its answer. What was sent has been handled."""
        self.send(PINGREQ)
        messages: list[tuple[str, bytes, bool]] = []
        while True:
            got = self.read()
            assert got is not None, "the broker closed the connection"
            if got == PINGRESP:
                return messages
            messages.append(message(got))

    def subscribe(self, *filters: str) -> list[int]:
        """The SUBACK's codes."""
        self.send(subscribe(*filters))
        got = self.read()
        assert got is not None and got[0] == 0x90 and got[1][:2] == b"\0\x01", got
        return list(got[1][2:])

    def abandon(self) -> None:
        """Close without DISCONNECT."""
        self.socket.close()


def message(got: tuple[int, bytes] | None) -> tuple[str, bytes, bool]:
    assert got is not None and got[0] & 0xF0 == 0x30, got
    assert not got[0] & 6, "delivered with a QoS"
    size = int.from_bytes(got[1][:2], "big")
    return got[1][2 : 2 + size].decode(), got[1][2 + size :], bool(got[0] & 1)


def fingerprint() -> str:
    """A random one."""
    return "".join("abcdefghijklmnopqrstuvwxyz234567"[byte & 31] for byte in os.urandom(24))
