"""The leg port: accepts, authenticates, parks, joins. It never dials.

Until a leg's MAC or an enrolment's message 1 has checked, the relay says nothing but its challenge, keeps a few hundred
bytes and one timer, and closes without a byte what does not check.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from zts import leg, wire
from zts_relay import log
from zts_relay.listener import Listener, source_of
from zts_relay.pump import Pump
from zts_relay.rendezvous import Quota, Rendezvous
from zts_relay.splice import Carrier, Pair
from zts_relay.visitor import Visitor

_FULL: Final = 0.9  # of the descriptors: the rest is for pipes, the broker and SQLite
# A vanished party is noticed by its partner in 25 s; these clear what stays behind when both have vanished.
_OPTIONS: Final = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),  # seconds, as the next
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 120_000),  # ms
)


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
        self._listener = Listener("legs", _FULL, self._accept)

    @property
    def pairs(self) -> int:
        return len(self._pairs)

    @property
    def is_full(self) -> bool:
        """Whether newcomers wait because descriptors are short."""
        return self._listener.is_full

    def listen(self, host: str, port: int) -> tuple[str, int]:
        """Accept legs on an IP address; port 0 picks one. Returns the address bound. Raises OSError."""
        return self._listener.open(host, port, _OPTIONS)

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
        self._listener.close()
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
        self._listener.close()
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

    def _accept(self, sock: socket.socket, address: Any) -> None:
        source = source_of(address[0])
        if self.unknown[source] >= self.limits.unknown_per_source:
            self.refused["source"] += 1
            sock.close()
        else:
            Visitor(self, sock, source)
