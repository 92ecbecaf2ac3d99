"""The embedded MQTT 3.1.1 broker: connections, routing, retained hellos and wills, on the relay's event loop.

A frozen subset: clean sessions only, messages delivered with QoS 0, QoS 1 publishes acknowledged when read. Nothing in a
CONNECT has any effect before its password is checked, and a failed check gets CONNACK 5 or silence. Every queue and
table has a bound in `Limits`; what is beyond one is dropped and counted in `Stats`. Who may do what: `topics`.

A new connection with the user name and client id of a living one takes its place; another user's client ids are another
namespace. Keep-alive: a client is dropped after one and a half times the seconds it named; one that named 0, or more
than `Limits.keepalive_s`, is held to that instead.
"""

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from zts_relay import mqtt_codec as codec
from zts_relay import topics
from zts_relay.broker_connection import READ_BYTES, Connection
from zts_relay.listener import Listener, source_of
from zts_relay.tls import TlsStream

Authenticate = Callable[[str, bytes], bool]

_PASSWORD_MAX_BYTES: Final = 64  # ours are 26 base32 characters; more is never shown to the authenticator
_FULL: Final = 0.95  # of the descriptors: legs, however many, leave some for the control plane


@dataclass(frozen=True)
class Limits:
    """Bounds of one broker; sizes in bytes, times in seconds."""

    connect_s: float = 5.0  # from accept to a whole, good CONNECT, TLS handshake included
    connect_bytes: int = 1024
    packet_bytes: int = 2048
    keepalive_s: int = 600
    outgoing_bytes: int = 64 * 1024  # unsent for one subscriber
    subscriptions: int = 64  # of one connection
    connections: int = 8192
    pending: int = 1024  # connections not logged in yet
    pending_per_source: int = 64
    connections_per_username: int = 32
    packets_per_s: float = 100.0  # from one connection
    packet_burst: float = 400.0


@dataclass
class Stats:
    """Counters since the start; `connections` (logged in) and `pending` are gauges."""

    connections: int = 0
    pending: int = 0
    messages_in: int = 0
    messages_out: int = 0
    auth_failures: int = 0
    dropped: Counter[str] = field(default_factory=Counter)  # messages: forbidden, rate, slow
    closed: Counter[str] = field(default_factory=Counter)  # connections: malformed, timeout, limit, takeover, slow, revoked


class Broker:
    """One listener and its connections. `authenticate(username, password)` decides at once, without blocking.

    It is asked only about user names that are fingerprints and passwords of at most 64 bytes.
    """

    def __init__(self, authenticate: Authenticate, limits: Limits | None = None) -> None:
        self.authenticate: Final = authenticate
        self.limits: Final = limits or Limits()
        self.stats: Final = Stats()
        # Filled and emptied within one callback of the event loop, so all connections share it. (Not on Windows.)
        self.read_buffer: Final = bytearray(READ_BYTES)
        self._listener = Listener("mqtt", _FULL, self._accept)
        self._arriving: set[asyncio.Task[Any]] = set()  # accepted, not yet in _open
        self._tls: ssl.SSLContext | None = None
        self._open: set[Connection] = set()  # every accepted socket
        self._all_closed = asyncio.Event()
        self._pending: Counter[bytes] = Counter()  # by source
        self._by_id: dict[tuple[str, str], Connection] = {}  # logged in, by user name and client id
        self._by_user: dict[str, set[Connection]] = {}
        self._subscribers: dict[str, set[Connection]] = {}  # by filter
        self._retained: dict[str, bytes] = {}  # hellos by topic
        self._ids = 0

    async def start(self, host: str, port: int, ssl_context: ssl.SSLContext | None) -> tuple[str, int]:
        """Listen; port 0 picks one. Returns the address bound."""
        self._tls = ssl_context
        return self._listener.open(host, port)

    async def close(self) -> None:
        """Stop listening and drop every connection; wills are not published."""
        self._listener.close()
        await asyncio.gather(*self._arriving, return_exceptions=True)
        while self._open:
            self._all_closed.clear()
            for connection in self._open:
                connection.will = None
                connection.abort()
            await self._all_closed.wait()

    def disconnect(self, username: str) -> None:
        """Revoke a party: drop its connections, whose wills are lost, and clear its hello, telling the subscribers."""
        for connection in list(self._by_user.get(username, ())):
            connection.will = None
            connection.drop("revoked")
        topic = topics.hello(username)
        if topic in self._retained:
            self._route(topic, b"", retain=True)

    # --- called by connections ---------------------------------------------------------------------------------------

    def admit(self, connection: Connection) -> bool:
        """Whether a fresh socket may go on to CONNECT."""
        self._open.add(connection)
        limits, pending = self.limits, self._pending
        if (
            len(self._open) > limits.connections
            or self.stats.pending >= limits.pending
            or pending[connection.source] >= limits.pending_per_source
        ):
            self.stats.closed["limit"] += 1
            return False
        pending[connection.source] += 1
        self.stats.pending += 1
        return True

    def settled(self, connection: Connection) -> None:
        """An admitted connection has logged in or failed to."""
        self.stats.pending -= 1
        self._pending[connection.source] -= 1
        if not self._pending[connection.source]:
            del self._pending[connection.source]

    def forget(self, connection: Connection) -> None:
        """The socket is closed for good."""
        self._open.discard(connection)
        if not self._open:
            self._all_closed.set()

    def login(self, connection: Connection, request: codec.Connect) -> int:
        """Judge a CONNECT and, if it is good, take the connection in. Returns the CONNACK code."""
        username, password = request.username, request.password
        if (
            username is None
            or password is None
            or len(password) > _PASSWORD_MAX_BYTES
            or not topics.is_fingerprint(username)
            or not self.authenticate(username, password)
        ):
            self.stats.auth_failures += 1
            return codec.NOT_AUTHORISED
        if not request.client_id and not request.clean:
            return codec.BAD_CLIENT_ID
        client_id = request.client_id
        if not client_id:
            self._ids += 1
            client_id = f"\0{self._ids}"  # no client can say NUL
        older = self._by_id.get((username, client_id))
        if older:
            older.drop("takeover")
        mine = self._by_user.setdefault(username, set())
        if len(mine) >= self.limits.connections_per_username:
            self.stats.closed["limit"] += 1
            return codec.UNAVAILABLE
        mine.add(connection)
        self._by_id[username, client_id] = connection
        connection.username, connection.client_id = username, client_id
        will = request.will
        if will and not topics.may_publish(username, will.topic, len(will.payload), will.retain):
            self.stats.dropped["forbidden"] += 1
            will = None
        connection.will = will
        self.stats.connections += 1
        return codec.ACCEPTED

    def logout(self, connection: Connection) -> None:
        """Take a logged-in connection out of every table, then publish its will."""
        username = connection.username
        del self._by_id[username, connection.client_id]
        self._by_user[username].discard(connection)
        if not self._by_user[username]:
            del self._by_user[username]
        for topic_filter in list(connection.filters):
            self.unsubscribe(connection, topic_filter)
        self.stats.connections -= 1
        will = connection.will
        if will:
            self._route(will.topic, will.payload, will.retain)

    def subscribe(self, connection: Connection, topic_filter: str) -> bool:
        """Whether the subscription stands now."""
        if not topics.may_subscribe(connection.username, topic_filter):
            return False
        if topic_filter not in connection.filters and len(connection.filters) >= self.limits.subscriptions:
            return False
        connection.filters.add(topic_filter)
        self._subscribers.setdefault(topic_filter, set()).add(connection)
        return True

    def unsubscribe(self, connection: Connection, topic_filter: str) -> None:
        """Without effect when there is no such subscription."""
        if topic_filter in connection.filters:
            connection.filters.discard(topic_filter)
            subscribers = self._subscribers[topic_filter]
            subscribers.discard(connection)
            if not subscribers:
                del self._subscribers[topic_filter]

    def retained(self, topic: str) -> bytes | None:
        """The hello kept for a topic."""
        return self._retained.get(topic)

    def publish(self, connection: Connection, message: codec.Publish) -> None:
        """Route a message its sender may send; drop any other."""
        if topics.may_publish(connection.username, message.topic, len(message.payload), message.retain):
            self.stats.messages_in += 1
            self._route(message.topic, message.payload, message.retain)
        else:
            self.stats.dropped["forbidden"] += 1

    def _route(self, topic: str, payload: bytes, retain: bool) -> None:
        if retain and payload:
            self._retained[topic] = payload
        elif retain:
            self._retained.pop(topic, None)
        # The ACL leaves two kinds of filters: exact topics, and a whole inbox.
        exact = self._subscribers.get(topic, set())
        inbox = self._subscribers.get(topic.rpartition("/")[0] + "/+", set())
        if exact or inbox:
            packet = codec.publish(topic, payload, retain=False)
            for subscriber in exact | inbox:
                subscriber.deliver(packet)

    def _accept(self, sock: socket.socket, address: Any) -> None:
        loop = asyncio.get_running_loop()
        make = partial(self._make_connection, source_of(address[0]))
        arriving = loop.create_task(loop.connect_accepted_socket(make, sock))
        self._arriving.add(arriving)
        arriving.add_done_callback(self._arriving.discard)

    def _make_connection(self, source: bytes) -> Connection:
        return Connection(self, TlsStream(self._tls) if self._tls else None, source)
