"""The embedded broker: any bytes in any pieces, before or after a login, get the same answers; nobody hears more than the party may
say; when the connection has ended nothing of it is left, and nothing raises."""

import asyncio
import socket
from typing import Any

from fuzz.feed import Feed, pieces
from host import mqtt_tools as mqtt
from zts import wire
from zts_relay import topics
from zts_relay.broker import Broker, Limits
from zts_relay.broker_connection import Connection

FP, WATCHER = "a" * 24, "b" * 24
PASSWORD = b"secret"
HELLO = bytes(range(wire.HELLO_BYTES))
LOGIN = mqtt.connect(FP, PASSWORD, "id", will=(topics.hello(FP), b"", True))
_LIMITS = Limits(packets_per_s=1e9, packet_burst=1e9)
_GOOD = [
    mqtt.subscribe(topics.inbox(FP, "+"), topics.hello(FP)),
    mqtt.unsubscribe(topics.inbox(FP, "+")),
    mqtt.publish(topics.inbox(WATCHER, FP), b"to the watcher"),
    mqtt.publish(topics.inbox(FP, FP), b"x" * 200, packet_id=9),
    mqtt.publish(topics.hello(FP), HELLO, retain=True),
    mqtt.publish(topics.hello(WATCHER), HELLO, retain=True),
    mqtt.PINGREQ,
]
# logged in?, cuts, bytes
SEEDS = [b"\1\0" + packet for packet in _GOOD]
SEEDS += [b"\0\0" + LOGIN, b"\0\3\1\2\3" + LOGIN + b"".join(_GOOD), b"\1\0" + b"".join(_GOOD) + mqtt.DISCONNECT, b"\1\0" + LOGIN]
SEEDS += [b"\0\0" + mqtt.connect(FP, b"wrong"), b"\0\0\x10\xff\xff\xff\x7f", b"\1\0\x30\xff\xff\x7f", b"\1\0\x82\x04\0\1\0\0"]


class _Transport(asyncio.Transport):
    """A connection in memory: takes everything, and is gone as soon as it is closed."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__({"socket": sock})
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        if not self.closed:
            self.written += data

    def get_write_buffer_size(self) -> int:
        return 0

    def is_reading(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True

    abort = close


def _open(broker: Broker, sock: socket.socket) -> tuple[Connection, _Transport]:
    connection, transport = Connection(broker, None, b"src"), _Transport(sock)
    connection.connection_made(transport)
    return connection, transport


def _take(connection: Connection, transport: _Transport, data: bytes) -> None:
    while data and not transport.closed:
        buffer = connection.get_buffer(-1)
        size = min(len(buffer), len(data))
        buffer[:size] = data[:size]
        connection.buffer_updated(size)
        data = data[size:]


async def _talk(chunks: list[bytes]) -> tuple[bytes, bytes]:
    """What the connection is answered, and what a watcher of all that it may watch hears."""
    broker = Broker(lambda user, password: user in (FP, WATCHER) and password == PASSWORD, _LIMITS)
    with socket.socket() as sock:
        watching, heard = _open(broker, sock)
        _take(watching, heard, mqtt.connect(WATCHER, PASSWORD) + mqtt.subscribe(topics.inbox(WATCHER, "+"), topics.hello(FP)))
        before = len(heard.written)
        connection, transport = _open(broker, sock)
        for chunk in chunks:
            _take(connection, transport, chunk)
        connection.connection_lost(None)
        assert set(broker._retained) <= {topics.hello(FP)}
        watching.connection_lost(None)
    tables = (broker._open, broker._pending, broker._by_id, broker._by_user, broker._subscribers)
    assert not any(tables) and broker.stats.connections == broker.stats.pending == 0, tables
    return transport.written, heard.written[before:]


def _messages(data: bytes) -> list[tuple[str, bytes]]:
    found = []
    while data:
        length = data[1] & 127 | (data[2] << 7 if data[1] > 127 else 0)
        start = 3 if data[1] > 127 else 2
        first, body, data = data[0], data[start : start + length], data[start + length :]
        found.append(mqtt.message((first, body))[:2])
    return found


def one(data: bytes) -> None:
    feed = Feed(data)
    login = LOGIN if feed.number() & 1 else b""
    sizes = feed.take(feed.number())
    said = feed.take(8192)
    answer, heard = asyncio.run(_talk([login + said]))
    assert asyncio.run(_talk([login, *pieces(said, sizes)])) == (answer, heard)
    for topic, payload in _messages(heard):
        if topic == topics.hello(FP):
            assert len(payload) in (0, wire.HELLO_BYTES)
        else:
            assert topic == topics.inbox(WATCHER, FP) and len(payload) <= wire.M1_BYTES
    assert not login or answer.startswith(b"\x20\2\0\0")
