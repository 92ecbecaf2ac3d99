"""The leg port: accepts, authenticates, parks, joins. It never dials.

Until a leg's MAC or an enrolment's message 1 has checked, the relay says nothing but its challenge, keeps a few hundred
bytes and one timer, and closes without a byte what does not check.
"""

import asyncio
import errno
import ipaddress
import os
import resource
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from zts import leg, wire
from zts_relay import log
from zts_relay.pump import Pump
from zts_relay.rendezvous import Quota, Rendezvous
from zts_relay.splice import Carrier, Pair
from zts_relay.visitor import Visitor

_BACKLOG: Final = 1024  # a fleet comes back at once
_ACCEPTS: Final = 64  # in a row, before the legs have their turn
_FULL: Final = 0.9  # of the descriptors the system allows: the rest is for pipes, the broker and SQLite
_RETRY_S: Final = 0.25  # look again whether descriptors are free
# A vanished party is noticed by its partner in 25 s; these clear what stays behind when both have vanished.
_KEEPALIVE_IDLE_S: Final = 60
_KEEPALIVE_INTERVAL_S: Final = 15
_KEEPALIVE_PROBES: Final = 4
_UNACKNOWLEDGED_MS: Final = 120_000


@dataclass(frozen=True)
class Limits:
    """Times in seconds."""

    hello_s: float = wire.HELLO_MS / 1000
    partner_s: float = wire.PARTNER_MS / 1000
    linger_s: float = 1.0  # after a code byte, so that closing over unread bytes does not erase it on the way
    unknown_per_source: int = 32  # connections not authenticated yet
    quota: Quota = field(default_factory=Quota)


class Accounts(Protocol):
    """What the leg port must know about accounts."""

    def leg_key(self, account: bytes) -> bytes:
        """K_party of any account, whether it exists or not."""

    def is_active(self, account: bytes) -> bool:
        """Whether the account exists and is not revoked."""


class LegServer:
    """`enrol(m1, challenge, source)` gives message 2 or None, which closes in silence."""

    def __init__(self, accounts: Accounts, enrol: Callable[[bytes, bytes, bytes], bytes | None], limits: Limits | None = None) -> None:
        self.accounts: Final = accounts
        self.enrol: Final = enrol
        self.limits: Final = limits or Limits()
        self.loop: Final = asyncio.get_running_loop()
        self.pump: Final = Pump()
        self.carrier: Final = Carrier()
        self.rendezvous: Final[Rendezvous[Visitor]] = Rendezvous(self.limits.quota)
        self.refused: Final[Counter[str]] = Counter()
        self.ended: Final[Counter[str]] = Counter()  # pairs
        self.unknown: Final[Counter[bytes]] = Counter()  # connections not authenticated yet, by source
        self.visitors: Final[set[Visitor]] = set()
        self._pairs: dict[Pair, tuple[leg.LegHello, leg.LegHello]] = {}
        self._idle = asyncio.Event()  # of the drain: no pairs and no visitors are left
        self._listener: socket.socket | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._full_at = int(resource.getrlimit(resource.RLIMIT_NOFILE)[0] * _FULL)

    @property
    def pairs(self) -> int:
        return len(self._pairs)

    @property
    def is_full(self) -> bool:
        """Whether newcomers wait because descriptors are short."""
        return self._retry is not None

    def listen(self, host: str, port: int) -> tuple[str, int]:
        """Accept legs on an IP address; port 0 picks one. Returns the address bound. Raises OSError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Linux gives these to every accepted socket, which saves system calls there.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_S)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL_S)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # as the broker's listener
            listener.bind((host, port))
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
        self._listener = listener
        self._resume()
        address = listener.getsockname()
        return address[0], address[1]

    def join(self, arriving: Visitor, parked: Visitor) -> None:
        """Both get OK, and from then on each other's bytes."""
        hellos = (arriving.hello, parked.hello)
        for visitor in (arriving, parked):
            visitor.leave()
        pair = Pair(arriving.sock, parked.sock, self.pump, self.carrier, lambda reason: self._closed(pair, reason))
        self._pairs[pair] = hellos
        try:
            for visitor in (parked, arriving):
                visitor.sock.send(bytes([wire.OK]))
        except OSError:
            pair.close("reset")

    def revoke(self, account: bytes) -> None:
        """End every leg of an account; one that waits gets the code."""
        for visitor in [v for v in self.visitors if v.is_parked and v.hello.account == account]:
            visitor.refuse(wire.REVOKED, "revoked")
        for pair in [p for p, hellos in self._pairs.items() if any(hello.account == account for hello in hellos)]:
            pair.close("revoked")

    def forget(self, visitor: Visitor) -> None:
        """It is joined or closed."""
        self.visitors.discard(visitor)
        self._note_idle()

    async def drain(self, seconds: float) -> None:
        """Stop listening, send away who waits, and give the pairs some time to end by themselves."""
        self._stop_listening()
        for visitor in list(self.visitors):
            if visitor.is_parked:
                visitor.refuse(wire.DRAIN, "drain")
            elif not visitor.is_lingering:
                visitor.close("drain")
        self._idle.clear()
        self._note_idle()
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            log.event("drain time is over", pairs=self.pairs)

    def close(self) -> None:
        """End everything at once."""
        self._stop_listening()
        for visitor in list(self.visitors):
            visitor.close("")
        for pair in list(self._pairs):
            pair.close("stopped")
        self.carrier.pipes.close()
        self.pump.stop()

    def _closed(self, pair: Pair, reason: str) -> None:
        self.ended[reason] += 1
        for hello in self._pairs.pop(pair):
            self.rendezvous.end(hello)
        self._note_idle()

    def _note_idle(self) -> None:
        if not self._pairs and not self.visitors:
            self._idle.set()

    # --- accepting ---------------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        self._retry = None
        if self._listener:
            self.loop.add_reader(self._listener.fileno(), self._accept)

    def _pause(self) -> None:
        """Too few descriptors are left: let newcomers wait in the backlog, and serve those who are here."""
        assert self._listener
        log.warning("accepting no more: out of descriptors", pairs=self.pairs, visitors=len(self.visitors))
        self.loop.remove_reader(self._listener.fileno())
        self._retry = self.loop.call_later(_RETRY_S, self._look_again)

    def _look_again(self) -> None:
        # The system gives the lowest free number, so a new descriptor tells how many are in use.
        try:
            probe = os.dup(self.pump.fileno())
            os.close(probe)
        except OSError:
            probe = self._full_at
        if probe < self._full_at:
            log.event("accepting again")
            self._resume()
        else:
            self._retry = self.loop.call_later(_RETRY_S, self._look_again)

    def _stop_listening(self) -> None:
        if self._retry:
            self._retry.cancel()
            self._retry = None
        if self._listener:
            self.loop.remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            assert self._listener
            try:
                sock, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._pause()
                    return
                continue  # that one was gone before we came to it
            sock.setblocking(False)
            source = source_of(address[0])
            if self.unknown[source] >= self.limits.unknown_per_source:
                self.refused["source"] += 1
                sock.close()
                continue
            Visitor(self, sock, source)
            if sock.fileno() >= self._full_at:
                self._pause()
                return


def source_of(host: str) -> bytes:
    """What limits by source count: an IPv4 address, or the /64 of an IPv6 one, within which a host picks as it likes."""
    return ipaddress.ip_address(host.partition("%")[0]).packed[:8]
