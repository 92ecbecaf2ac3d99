"""A connection on the leg port until it is joined or gone: magic, challenge, hello or message 1, then perhaps a wait."""

import socket
from select import EPOLLERR, EPOLLHUP, EPOLLRDHUP
from typing import TYPE_CHECKING, Final

from zts import crypto, leg, wire
from zts.errors import RemoteError

if TYPE_CHECKING:
    from zts_relay.server import LegServer

_LINGER_BYTES: Final = 1 << 20  # thrown away unread after a refusal; who sends more is cut off


class Visitor:
    """Reads exactly what belongs to the relay: all bytes behind the hello stay in the kernel for the partner."""

    __slots__ = ("_challenge", "_expected", "_magic", "_received", "_server", "_source", "_spilled", "_stage", "_timer", "hello", "sock")

    def __init__(self, server: "LegServer", sock: socket.socket, source: bytes) -> None:
        self._server = server
        self.sock = sock
        self._source = source
        self._stage = "unknown"
        self._received = bytearray()
        self._expected = wire.MAGIC_BYTES
        self._magic = b""
        self._challenge = b""
        self._spilled = 0
        self.hello = leg.LegHello(0, 0, b"", b"", b"")
        self._timer = server.loop.call_later(server.limits.hello_s, self.close, "deadline")
        server.unknown[source] += 1
        server.visitors.add(self)
        server.pump.add(sock, self)

    @property
    def is_parked(self) -> bool:
        return self._stage == "parked"

    @property
    def is_lingering(self) -> bool:
        return self._stage == "lingering"

    def ready(self, events: int) -> None:
        try:
            if self._stage == "unknown":
                self._read()
            elif self._stage == "lingering":
                self._spill()
        except BlockingIOError:
            pass
        except OSError:
            self.close("left")
        # A parked leg waits for OK: its bytes are none of our business, but its absence is.
        if self._stage == "parked" and events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            self.close("left")

    def abort(self) -> None:
        self.close("internal")

    def refuse(self, code: int, reason: str) -> None:
        """The one byte for an authenticated leg, then the end."""
        self._say_last(bytes([code]), reason)

    def leave(self) -> None:
        """The socket goes on without the visitor."""
        self._settle("left")
        self._timer.cancel()
        self._server.forget(self)

    def close(self, reason: str) -> None:
        """At once and without a byte. The reason is counted, unless it is empty."""
        if self._stage == "closed":
            return
        if reason and self._stage != "lingering":
            self._server.refused[reason] += 1
        self.leave()
        self._stage = "closed"
        self._server.pump.close(self.sock)

    def _settle(self, stage: str) -> None:
        """Leave the present stage."""
        if self._stage == "unknown":
            self._server.unknown[self._source] -= 1
            if not self._server.unknown[self._source]:
                del self._server.unknown[self._source]
        elif self._stage == "parked":
            self._server.rendezvous.withdraw(self.hello, self)
        self._stage = stage

    def _wait(self, seconds: float, reason: str) -> None:
        self._timer.cancel()
        self._timer = self._server.loop.call_later(seconds, self._expire, reason)

    def _expire(self, reason: str) -> None:
        if self._stage == "parked":
            self.refuse(wire.IDLE, reason)
        else:
            self.close(reason)

    def _read(self) -> None:
        """Raises OSError, BlockingIOError when all has been read."""
        while self._stage == "unknown":
            data = self.sock.recv(self._expected - len(self._received))
            if not data:
                self.close("left")
                return
            self._received += data
            if len(self._received) == self._expected:
                message = bytes(self._received)
                self._received.clear()
                self._take(message)

    def _take(self, message: bytes) -> None:
        if not self._magic:
            self._greet(message)
        elif self._magic == wire.MAGIC_LEG:
            self._take_hello(message)
        else:
            self._take_message_1(message)

    def _greet(self, magic: bytes) -> None:
        sizes = {wire.MAGIC_LEG: wire.LEG_HELLO_BYTES, wire.MAGIC_ENROL: wire.M1_BYTES}
        if magic not in sizes:
            self.close("magic")
            return
        self._magic, self._expected = magic, sizes[magic]
        self._challenge = crypto.random_bytes(wire.CHALLENGE_BYTES)
        self.sock.send(self._challenge)  # the first bytes on a fresh connection always fit

    def _take_hello(self, message: bytes) -> None:
        server = self._server
        try:
            hello = leg.decode_hello(message)
        except RemoteError:
            self.close("form")
            return
        if not leg.verify_hello(message, server.accounts.leg_key(hello.account), self._challenge):
            self.close("mac")
            return
        if not server.accounts.is_active(hello.account):
            self.refuse(wire.REVOKED, "revoked")
            return
        answer = server.rendezvous.arrive(hello, self)
        if answer.replaced:
            answer.replaced.close("replaced")
        if answer.code != wire.OK:
            self.refuse(answer.code, "quota" if answer.code == wire.QUOTA else "proto")
            return
        self.hello = hello
        if answer.partner:
            server.join(self, answer.partner)
        else:
            self._settle("parked")
            self._wait(server.limits.partner_s, "idle")

    def _take_message_1(self, message: bytes) -> None:
        answer = self._server.enrol(message, self._challenge, self._source)
        if answer is None:
            self.close("enrolment")
        else:
            self._say_last(answer, "")

    def _say_last(self, data: bytes, reason: str) -> None:
        """Send, then close in an orderly way: with unread bytes left, closing at once would reset the connection."""
        if reason:
            self._server.refused[reason] += 1
        self._settle("lingering")
        self._wait(self._server.limits.linger_s, "")
        try:
            self.sock.send(data)
            self.sock.shutdown(socket.SHUT_WR)
            self._spill()
        except BlockingIOError:
            pass
        except OSError:
            self.close("")

    def _spill(self) -> None:
        while self._spilled < _LINGER_BYTES:
            size = self.sock.recv_into(self._server.carrier.buffer)
            if not size:
                break
            self._spilled += size
        self.close("")
