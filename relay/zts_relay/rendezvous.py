"""Who waits for whom: the table that pairs legs. No sockets, no clock; every call is one atomic step.

A leg is claimed by (sid, account, role). Two legs pair when they have one sid, opposite roles, and each names the other's
account as its peer. Of one claim a higher leg number replaces a parked lower one; a number that is not above every leg
of that claim still parked or joined is refused, so of any number of racers with one number exactly one gets in.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from zts import leg, wire

L = TypeVar("L")


@dataclass(frozen=True)
class Quota:
    """Legs of one account at a time."""

    parked: int = wire.HOST_SESSIONS  # after an outage all of a host's sessions come back at once
    joined: int = 2 * wire.HOST_SESSIONS  # a session's old leg lives until its new one is confirmed


class Arrival(NamedTuple, Generic[L]):
    """`code` OK: joined with `partner`, or parked if that is None; `replaced` is a parked leg to be closed."""

    code: int
    partner: L | None = None
    replaced: L | None = None


class _Claim(Generic[L]):
    """The legs of one (sid, account, role)."""

    __slots__ = ("highest", "joined", "leg", "peer")

    def __init__(self) -> None:
        self.highest = 0
        self.joined = 0
        self.leg: L | None = None  # the parked one
        self.peer = b""  # whom it waits for


class Rendezvous(Generic[L]):
    """`L` is whatever stands for a leg; it is compared by identity only."""

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self._claims: dict[tuple[bytes, bytes, int], _Claim[L]] = {}
        self._parked: Counter[bytes] = Counter()  # by account
        self._joined: Counter[bytes] = Counter()

    @property
    def parked(self) -> int:
        return self._parked.total()

    @property
    def claims(self) -> int:
        """Of how many (sid, account, role) a leg is parked or joined."""
        return len(self._claims)

    def arrive(self, hello: leg.LegHello, arriving: L) -> Arrival[L]:
        """Judge a leg whose hello is verified. Only an answer of OK changes anything."""
        if hello.account == hello.peer:
            return Arrival(wire.PROTO)
        key = (hello.sid, hello.account, hello.role)
        claim = self._claims.get(key)
        if claim and hello.n <= claim.highest:
            return Arrival(wire.PROTO)
        if max(self._joined[hello.account], self._joined[hello.peer]) >= self._quota.joined:
            return Arrival(wire.QUOTA)
        replaced = claim.leg if claim else None
        other = self._claims.get((hello.sid, hello.peer, leg.other_role(hello.role)))
        partner = other.leg if other and other.peer == hello.account else None
        if partner is None and replaced is None and self._parked[hello.account] >= self._quota.parked:
            return Arrival(wire.QUOTA)

        if claim is None:
            claim = self._claims[key] = _Claim()
        claim.highest = hello.n
        if replaced is not None:
            self._unpark(hello.account, claim)
        if other and partner is not None:
            self._unpark(hello.peer, other)
            for account, joined in ((hello.account, claim), (hello.peer, other)):
                joined.joined += 1
                self._joined[account] += 1
        else:
            claim.leg, claim.peer = arriving, hello.peer
            self._parked[hello.account] += 1
        return Arrival(wire.OK, partner, replaced)

    def withdraw(self, hello: leg.LegHello, leaving: L) -> None:
        """A parked leg is gone. Without effect if it is not parked any more."""
        key = (hello.sid, hello.account, hello.role)
        claim = self._claims.get(key)
        if claim and claim.leg is leaving:
            self._unpark(hello.account, claim)
            self._forget(key, claim)

    def end(self, hello: leg.LegHello) -> None:
        """A joined leg has closed; called once for each of the two."""
        key = (hello.sid, hello.account, hello.role)
        claim = self._claims[key]
        claim.joined -= 1
        _decrement(self._joined, hello.account)
        self._forget(key, claim)

    def _unpark(self, account: bytes, claim: _Claim[L]) -> None:
        claim.leg, claim.peer = None, b""
        _decrement(self._parked, account)

    def _forget(self, key: tuple[bytes, bytes, int], claim: _Claim[L]) -> None:
        if claim.leg is None and not claim.joined:
            del self._claims[key]


def _decrement(counter: Counter[bytes], key: bytes) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
