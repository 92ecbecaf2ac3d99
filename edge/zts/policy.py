"""Who may reach which service of a device, until when and how much of it. Pure; asked at every leg and every OPEN.

The owner reaches everything. Anybody else needs a grant, which gives what its caveats leave, as far as the policy's rules for all
holders go if there are any; one for members only as far as the rules that name its holder go. PROTOCOL.md, "Policy".
"""

from collections import namedtuple

from . import crypto, wire
from .errors import FormatError
from .grant import Terms, generation, least

# 0 is no limit: `until` seconds since 1970, `streams` at once, `bytes` of a session, `idle` seconds of a stream.
Limits = namedtuple("Limits", ("until", "streams", "bytes", "idle", "read_only"))

NONE = Limits(0, 0, 0, 0, False)

_HEAD_BYTES = len(wire.MAGIC_POLICY) + 6  # magic, seq4, generation2
_RULE_BYTES = 12  # flags1 until4 streams1 idle2 kibibytes4
_READ_ONLY = 1
_EVERY_SERVICE = 2
_FLAGS = _READ_ONLY | _EVERY_SERVICE


class Policy:
    """The rules of one device, as its owner's computer wrote them. They stay in one piece and are read where they stand.

    Raises FormatError for anything but a whole, well-formed policy. `b""` is the policy of a device that has none: no rules.
    """

    def __init__(self, blob: bytes = b"") -> None:
        self.blob = blob
        self.seq = self.generation = 0
        self._services: list[str] = []
        self._parties = self._party_count = self._revoked = self._revoked_count = self._rules = self._rule_count = 0
        if blob:
            try:
                self._parse()
            except (IndexError, UnicodeError):
                raise FormatError("the policy is cut")

    def _parse(self) -> None:
        blob = self.blob
        end = len(blob) - wire.POLICY_CHECK_BYTES
        if len(blob) > wire.POLICY_MAX_BYTES or end < _HEAD_BYTES or blob[:3] != wire.MAGIC_POLICY:
            raise FormatError("not a policy")
        if not crypto.equal(crypto.sha256(blob[:end])[: wire.POLICY_CHECK_BYTES], blob[end:]):
            raise FormatError("the policy is damaged")
        self.seq = int.from_bytes(blob[3:7], "big")
        self.generation = int.from_bytes(blob[7:9], "big")
        self._party_count = blob[_HEAD_BYTES]
        self._parties = _HEAD_BYTES + 1
        at = self._parties + self._party_count * wire.FP_BYTES
        count = blob[at]
        at += 1
        for _ in range(count):
            name = blob[at + 1 : at + 1 + blob[at]].decode()
            self._services.append(name)
            at += 1 + blob[at]
        self._revoked_count = blob[at]
        self._revoked = at + 1
        at = self._revoked + self._revoked_count * wire.HINT_BYTES
        self._rule_count = int.from_bytes(blob[at : at + 2], "big")
        self._rules = at = at + 2
        for _ in range(self._rule_count):
            at = self._check_rule(at, end)
        if at != end or not self.seq or self._party_count > wire.POLICY_HOLDERS:
            raise FormatError("the policy is cut, or longer than it says")

    def _check_rule(self, at: int, end: int) -> int:
        blob = self.blob
        who = at + _RULE_BYTES
        services = who + 1 + blob[who]
        following = services + 1 + blob[services]
        if following > end or blob[at] & ~_FLAGS:
            raise FormatError("a rule is cut, or of a later version")
        if any(index >= self._party_count and index != wire.POLICY_HOLDERS for index in blob[who + 1 : services]):
            raise FormatError("a rule names a party that is not there")
        if any(index >= len(self._services) for index in blob[services + 1 : following]):
            raise FormatError("a rule names a service that is not there")
        return following

    def is_revoked(self, id_: bytes) -> bool:
        """Whether the grant was taken back: by its id, or with its whole generation."""
        blob, at = self.blob, self._revoked
        taken = any(blob[i : i + wire.HINT_BYTES] == id_ for i in range(at, at + self._revoked_count * wire.HINT_BYTES, wire.HINT_BYTES))
        return taken or generation(id_) != self.generation

    def _party(self, party: bytes) -> int:
        blob, at = self.blob, self._parties
        for index in range(self._party_count):
            if blob[at : at + wire.FP_BYTES] == party:
                return index
            at += wire.FP_BYTES
        return -1

    def find(self, party: "bytes | None", service: "str | None") -> "Limits | None":
        """Of the first rule for this party (None: for all grant holders) and this service (None: any); None when there is no such rule."""
        who = wire.POLICY_HOLDERS if party is None else self._party(party)
        if who < 0 or not self._rule_count:
            return None
        blob, at = self.blob, self._rules
        sought = bytes([who])
        wanted = bytes([self._services.index(service)]) if service in self._services else b""
        for _ in range(self._rule_count):
            first = at + _RULE_BYTES + 1
            services = first + blob[first - 1]
            following = services + 1 + blob[services]
            if blob.find(sought, first, services) >= 0:
                named = wanted and blob.find(wanted, services + 1, following) >= 0
                if service is None or named or blob[at] & _EVERY_SERVICE:
                    return Limits(
                        int.from_bytes(blob[at + 1 : at + 5], "big"),
                        blob[at + 5],
                        int.from_bytes(blob[at + 8 : at + 12], "big") << 10,
                        int.from_bytes(blob[at + 6 : at + 8], "big"),
                        blob[at] & _READ_ONLY != 0,
                    )
            at = following
        return None


def _narrower(one: Limits, other: Limits) -> Limits:
    return Limits(
        least(one.until, other.until),
        least(one.streams, other.streams),
        least(one.bytes, other.bytes),
        least(one.idle, other.idle),
        one.read_only or other.read_only,
    )


def _allowed(policy: Policy, terms: Terms, service: "str | None") -> "Limits | None":
    """What holds for this service, or with None at least for a leg, by rules and grant; None: the grant does not give it."""
    limits: Limits | None = Limits(terms.until, terms.streams, terms.bytes, terms.idle, terms.read_only)
    if service is not None and terms.services is not None and service not in terms.services:
        return None
    for party, applies in ((None, policy.find(None, None) is not None), (terms.holder, terms.member)):
        if applies and limits is not None:
            rule = policy.find(party, service)
            # A leg may come for another service than the one of the first rule, so its end is not the leg's.
            limits = rule and _narrower(limits, rule if service is not None else NONE)
    return limits


def decide(
    owner: bytes,
    policy: "Policy | None",
    party: bytes,
    id_: bytes,
    terms: "Terms | None",
    service: "str | None",
    kind: int,
    now: "int | None",
) -> "tuple[int, Limits]":
    """A wire code, and with OK the limits that hold.

    `owner` and `party` are fingerprints; `id_` and `terms` are the party's grant, `terms` None for the owner. `policy` None is one
    that cannot be read. `service` None asks for the leg itself. `kind` is the service's, 0 of the agent's own. `now` is seconds
    since 1970, None: not known.
    What is not clearly allowed is denied.
    """
    if terms is None:
        return (wire.OK if len(owner) == wire.FP_BYTES and crypto.equal(owner, party) else wire.DENIED), NONE
    if policy is None or not crypto.equal(terms.holder, party):
        return wire.DENIED, NONE
    if policy.is_revoked(id_):
        return wire.REVOKED, NONE
    limits = _allowed(policy, terms, service)
    if limits is None or (service is not None and not kind):
        return wire.DENIED, NONE  # the agent's own are the owner's alone, and what is not there is nobody's
    if limits.read_only and service is not None and kind != wire.SERVICE_SERIAL:
        return wire.DENIED, NONE  # of anything else nobody knows what only reading is
    if limits.until:
        if now is None:
            return wire.TIME_UNKNOWN, NONE
        if now >= limits.until:
            return wire.DENIED, NONE
    return wire.OK, limits
