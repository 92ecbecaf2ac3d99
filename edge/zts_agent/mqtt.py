"""A small MQTT 3.1.1 client for one connection: a login, subscriptions and messages of QoS 0.

One task reads, writes take turns, and everything has a deadline, so that a broker which falls silent at any byte costs
at most `SILENT_MS`. Section numbers are those of the OASIS standard.
"""

import asyncio

from zts.errors import RemoteError, ZtsError

from . import board

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

PACKET_MAX = 1024  # bytes after the fixed header: a message 1 with its topic has 580
_READ = 1024  # asked of the connection at once: a wait costs a chip more than a packet
KEEPALIVE_S = 60
TICK_S = 1  # how often the times below are looked at
PING_MS = 25_000
SILENT_MS = 45_000  # nothing came, although a PING was due and had 20 s for its answer
DEADLINE_S = 10  # for a login, a subscription, a write, and for the rest of a packet that began

_CONNECT = 0x10
_CONNACK = 0x20
_PUBLISH = 0x30
_RETAIN = 0x01
_SUBSCRIBE = 0x82
_SUBACK = 0x90
_PINGREQ = b"\xc0\x00"
_PINGRESP = 0xD0
_ETIMEDOUT = 110

# CONNECT's flags (section 3.1.2.3): user name, password, will retained, will, clean session.
_FLAGS = 0x80 | 0x40 | 0x20 | 0x04 | 0x02


class LoginRefused(ZtsError):
    """The broker is there and does not know this user name and password (CONNACK 4 or 5)."""


class Dropped(ZtsError):
    """The broker closed the connection."""


def _text(data: str) -> bytes:
    raw = data.encode()
    return len(raw).to_bytes(2, "big") + raw


def _packet(first: int, body: bytes) -> bytes:
    if len(body) < 128:
        return bytes([first, len(body)]) + body
    return bytes([first, len(body) & 127 | 128, len(body) >> 7]) + body


def encode_connect(client_id: str, username: str, password: str, will_topic: str) -> bytes:
    """A clean session whose will is an empty retained message."""
    head = _text("MQTT") + bytes([4, _FLAGS]) + KEEPALIVE_S.to_bytes(2, "big")
    return _packet(_CONNECT, head + _text(client_id) + _text(will_topic) + _text("") + _text(username) + _text(password))


def encode_publish(topic: str, payload: bytes, retain: bool) -> bytes:
    return _packet(_PUBLISH | (_RETAIN if retain else 0), _text(topic) + payload)


def encode_subscribe(number: int, topic: str) -> bytes:
    return _packet(_SUBSCRIBE, number.to_bytes(2, "big") + _text(topic) + b"\0")


class Client:
    """One connection. `on_message(topic, payload)` is awaited for every message, in order."""

    def __init__(self, reader: "Any", writer: "Any", on_message: "Callable[[str, bytes], Awaitable[None]]") -> None:
        self._reader = reader
        self._writer = writer
        self._on_message = on_message
        self._turn = asyncio.Lock()
        self._over = asyncio.Event()
        self._failure: Exception | None = None
        self._buffer = b""  # read and not used up to `_at`
        self._at = 0
        self._began = -1  # when the packet that is being read began
        self._heard = self._pinged = board.clock()
        self._subscriptions = 0

    async def login(self, client_id: str, username: str, password: str, will_topic: str) -> None:
        """Raises LoginRefused, RemoteError (the broker says something else than yes), OSError, EOFError."""
        await self._write(encode_connect(client_id, username, password, will_topic))
        first, body = await self._within(self._read())
        if first != _CONNACK or len(body) != 2:
            raise RemoteError("the broker does not answer a CONNECT")
        if body[1] in (4, 5):
            raise LoginRefused("the broker does not know this login")
        if body[1]:
            raise RemoteError(f"the broker refuses, code {body[1]}")

    async def subscribe(self, topic: str) -> None:
        """To be awaited before `run`. Raises RemoteError when the broker refuses, OSError, EOFError."""
        self._subscriptions += 1
        await self._write(encode_subscribe(self._subscriptions, topic))
        body = await self._within(self._read_suback())
        if body != self._subscriptions.to_bytes(2, "big") + b"\0":
            raise RemoteError("the broker refuses a subscription")

    async def publish(self, topic: str, payload: bytes, retain: bool = False) -> None:
        """Raises OSError when the connection is or gets lost."""
        await self._write(encode_publish(topic, payload, retain))

    async def run(self, on_tick: "Callable[[], Awaitable[None]]") -> None:
        """Serves messages until the connection fails, and raises why: Dropped, RemoteError, OSError."""
        receiving = asyncio.create_task(self._receive())
        try:
            while not self._over.is_set():
                try:
                    await board.within(TICK_S, self._over.wait())
                except OSError:
                    await self._keep_alive()
                    await on_tick()
        finally:
            receiving.cancel()
            try:
                await receiving
            except asyncio.CancelledError:
                pass
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """At once and without DISCONNECT, so that the broker publishes the will."""
        self._fail(OSError("closed"))
        board.break_off(self._writer)

    def _fail(self, failure: Exception) -> None:
        if not self._over.is_set():
            self._failure = failure
            self._over.set()

    async def _within(self, work: "Any") -> "Any":
        return await board.within(DEADLINE_S, work)

    async def _write(self, packet: bytes) -> None:
        async with self._turn:
            if self._failure is not None:
                raise self._failure
            try:
                self._writer.write(packet)
                await self._within(self._writer.drain())
            except OSError as failure:
                self._fail(failure)
                raise

    async def _keep_alive(self) -> None:
        now = board.clock()
        late = 0 <= self._began < now - DEADLINE_S * 1000
        if late or now - self._heard > SILENT_MS:
            self._fail(OSError(_ETIMEDOUT, "the broker is silent"))
        elif now - self._pinged > PING_MS:
            self._pinged = now
            await self._write(_PINGREQ)

    async def _take_bytes(self, size: int) -> bytes:
        """Exactly `size`. Raises EOFError."""
        while len(self._buffer) - self._at < size:
            data = await self._reader.read(_READ)
            if not data:
                raise EOFError
            self._buffer = self._buffer[self._at :] + data
            self._at = 0
        self._at += size
        return self._buffer[self._at - size : self._at]

    async def _read(self) -> "tuple[int, bytes]":
        """(first byte, rest after the fixed header). Raises RemoteError for what is too long: two bytes of length are enough."""
        first = (await self._take_bytes(1))[0]
        self._began = board.clock()
        length = (await self._take_bytes(1))[0]
        if length >= 128:
            more = (await self._take_bytes(1))[0]
            length += (more << 7) - 128
            if more >= 128 or length > PACKET_MAX:
                raise RemoteError("the broker sends more than we take")
        body = await self._take_bytes(length)
        self._began = -1
        self._heard = board.clock()
        return first, body

    async def _read_suback(self) -> bytes:
        while True:
            first, body = await self._read()
            if first == _SUBACK:
                return body
            await self._take(first, body)

    async def _receive(self) -> None:
        try:
            while True:
                first, body = await self._read()
                await self._take(first, body)
        except EOFError:
            self._fail(Dropped("the broker closed the connection"))
        except OSError as failure:
            self._fail(failure if failure.errno == _ETIMEDOUT else Dropped("the connection broke"))
        except Exception as failure:
            self._fail(failure)

    async def _take(self, first: int, body: bytes) -> None:
        if first & 0xF0 == _PUBLISH:
            # We subscribe with QoS 0, so there is no packet identifier.
            end = 2 + int.from_bytes(body[:2], "big")
            if first & 0x06 or len(body) < end:
                raise RemoteError("a message of a form we did not ask for")
            try:
                topic = str(body[2:end], "utf-8")
            except ValueError:
                raise RemoteError("a topic that is not UTF-8")
            await self._on_message(topic, body[end:])
        elif first != _PINGRESP or body:
            raise RemoteError("the broker sends what a broker does not send")
