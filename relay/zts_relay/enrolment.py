"""Enrolment at the relay: message 1 in, message 2 or silence out. No sockets. PROTOCOL.md, "Enrolment"."""

from collections import Counter
from collections.abc import Callable
from typing import Final

from zts import control, crypto, identity, wire
from zts.errors import CryptoError, FormatError, RemoteError
from zts_relay import log
from zts_relay.registry import DEVICE, OWNER, Party, Registry

RATE: Final = 4  # a second from one source: each costs five X25519, and an owner asks once a second for a device it waits for
BURST: Final = 64
SOURCES: Final = 4096  # buckets kept; the fullest say nothing, so they may go

_KINDS: Final = {wire.KIND_ENROL: "enrol", wire.KIND_MAKE_CODE: "code", wire.KIND_LOOK_UP: "look_up", wire.KIND_RETIRE: "retire"}
_OUTCOMES: Final = {
    wire.OK: "ok",
    wire.DENIED: "denied",
    wire.BUSY: "not_yet",
    wire.REVOKED: "revoked",
    wire.PROTO: "malformed",
    wire.QUOTA: "quota",
}

Fields = dict[int, bytes]


class Desk:
    """`now` gives integer milliseconds of a monotonic clock. `changed` is called after a party was added, `revoked` after one was revoked.

    `broker` is the URL given to parties, `pin` the hash of the broker's certificate, or None without TLS.
    """

    def __init__(
        self,
        registry: Registry,
        broker: str,
        pin: bytes | None,
        now: Callable[[], int],
        changed: Callable[[], None],
        revoked: Callable[[Party], None],
    ) -> None:
        self._registry = registry
        self._broker = broker.encode()
        self._pin = pin
        self._now = now
        self._changed = changed
        self._revoked = revoked
        self._buckets: dict[bytes, control.Bucket] = {}
        self.outcomes: Counter[tuple[str, str]] = Counter()  # (kind, outcome)

    @property
    def sources(self) -> int:
        """How many sources' attempts are remembered."""
        return len(self._buckets)

    def answer(self, m1: bytes, challenge: bytes, source: bytes) -> bytes | None:
        """Message 2, or None: say nothing. `challenge` is the one this connection was given, `source` where it comes from."""
        if not control.is_message_1(m1):
            return self._refuse("none", "malformed")
        kind = m1[2]
        if not self._may_try(source):
            return self._refuse(_KINDS[kind], "rate")
        psk = self._find_psk(kind, control.hint(m1))
        if psk is None:
            return self._refuse(_KINDS[kind], "unknown")
        if not control.has_mac1(m1, control.make_peer(self._registry.public, psk).mac_key, challenge):
            return self._refuse(_KINDS[kind], "mac1")
        try:
            handshake, payload = control.read_message_1(m1, wire.PURPOSE_RELAY, self._registry.key_pair, psk, challenge)
        except CryptoError:
            return self._refuse(_KINDS[kind], "decrypt")
        public = handshake.rs
        assert public is not None  # message 1 brought it
        try:
            code, fields = self._serve(kind, control.hint(m1), public, payload)
        except RemoteError as error:
            code, fields = error.code, {}
        self.outcomes[_KINDS[kind], _OUTCOMES[code]] += 1
        if code != wire.BUSY:  # an owner who waits for a device asks again and again
            log.event("enrolment", kind=_KINDS[kind], outcome=_OUTCOMES[code])
        return control.write_message_2(handshake, m1, {wire.TLV_CODE: bytes([code])} | fields)

    def _refuse(self, kind: str, outcome: str) -> bytes | None:
        self.outcomes[kind, outcome] += 1
        return None

    def _may_try(self, source: bytes) -> bool:
        now = self._now()
        if source not in self._buckets and len(self._buckets) >= SOURCES:
            del self._buckets[next(iter(self._buckets))]
        # The source that came last stands last, so that the one dropped above is the one silent for the longest time.
        bucket = self._buckets.pop(source, None) or control.Bucket(RATE, BURST, now)
        self._buckets[source] = bucket
        return bucket.take(now)

    def _find_psk(self, kind: int, hint: bytes) -> bytes | None:
        if kind == wire.KIND_ENROL:
            code = self._registry.code(hint)
            return code.psk if code else None
        if self._registry.party(hint) is None:
            return None
        return control.party_psk(self._registry.leg_key(hint))

    def _serve(self, kind: int, hint: bytes, public: bytes, payload: bytes) -> tuple[int, Fields]:
        """The code and the other fields of the answer to somebody who proved to hold the psk. Raises RemoteError."""
        if kind == wire.KIND_ENROL:
            return self._enrol(hint, public, payload)
        owner = self._registry.party(hint)
        if owner is None or not crypto.equal(owner.public, public):
            return wire.DENIED, {}
        if owner.revoked is not None:
            return wire.REVOKED, {}
        if owner.role != OWNER:
            return wire.DENIED, {}
        if kind == wire.KIND_MAKE_CODE:
            control.decode_fields(payload, ())
            secret = self._registry.make_code(DEVICE, owner.account)
            return (wire.OK, {wire.TLV_SECRET: secret}) if secret else (wire.QUOTA, {})
        if kind == wire.KIND_RETIRE:
            return self._retire(owner.account, payload), {}
        return self._look_up(owner.account, payload)

    def _enrol(self, code_id: bytes, public: bytes, payload: bytes) -> tuple[int, Fields]:
        fields = control.decode_fields(payload, ())
        try:
            name = fields.get(wire.TLV_NAME, b"").decode("ascii")
            enrolled = self._registry.enrol(code_id, public, identity.check_name(name) if name else "")
        except (FormatError, UnicodeDecodeError):
            raise RemoteError("not a name") from None
        party = enrolled.party
        if party is None:
            return enrolled.code, {}
        if enrolled.is_new:
            self._changed()
        answer = {
            wire.TLV_ACCOUNT: party.account,
            wire.TLV_PARTY_KEY: self._registry.leg_key(party.account),
            wire.TLV_PASSWORD: self._registry.password(party.account),
            wire.TLV_BROKER: self._broker,
        }
        return wire.OK, answer | ({wire.TLV_PIN: self._pin} if self._pin else {})

    def _retire(self, owner: bytes, payload: bytes) -> int:
        public = control.decode_fields(payload, (wire.TLV_PUBLIC,))[wire.TLV_PUBLIC]
        party = self._registry.by_key(public)
        if party is None or party.made_by != owner:
            return wire.DENIED
        if party.revoked is None:
            self._registry.revoke(party.account)
            self._revoked(party)
        return wire.OK

    def _look_up(self, owner: bytes, payload: bytes) -> tuple[int, Fields]:
        code = self._registry.code(control.decode_fields(payload, (wire.TLV_CODE_ID,))[wire.TLV_CODE_ID])
        if code is None or code.made_by != owner:
            return wire.DENIED, {}
        party = self._registry.party(code.used_by) if code.used_by else None
        return (wire.OK, {wire.TLV_PUBLIC: party.public}) if party else (wire.BUSY, {})
