"""The control plane's messages: hello, message 1 and message 2, their TLV payloads, and who may be answered.

The same two messages, with another purpose and a challenge in the epoch's place, enrol a party at a relay.
PROTOCOL.md, "Control plane".
"""

from collections import namedtuple

from . import crypto, grant, identity, wire
from .errors import CryptoError, RemoteError
from .noise import HandshakeState

Hello = namedtuple("Hello", ("epoch", "features"))
# Of a grant's holder, who is not known before message 1 says it, `public` is b"" and `psk` the root of the grant's generation.
Peer = namedtuple("Peer", ("public", "psk", "mac_key"))
# `terms` of a grant's holder, None of the owner.
Accepted = namedtuple("Accepted", ("handshake", "fields", "public", "m1", "terms"))

# Bytes of every TLV value; 0: any length (a text).
_SIZES = {
    wire.TLV_SESSIONS_LEFT: 1,
    wire.TLV_NAME: 0,
    wire.TLV_STREAMS: 2,
    wire.TLV_TIME: 4,
    wire.TLV_CODE: 1,
    wire.TLV_RELAY: wire.FP_BYTES,
    wire.TLV_SID: wire.SID_BYTES,
    wire.TLV_ACCOUNT: wire.ACCOUNT_BYTES,
    wire.TLV_MAX_RECORD: 2,
    wire.TLV_WINDOW: 4,
    wire.TLV_PARTY_KEY: wire.KEY_BYTES,
    wire.TLV_PASSWORD: wire.PASSWORD_BYTES,
    wire.TLV_PIN: wire.PIN_BYTES,
    wire.TLV_BROKER: 0,
    wire.TLV_SECRET: wire.SECRET_BYTES,
    wire.TLV_PUBLIC: wire.KEY_BYTES,
    wire.TLV_CODE_ID: wire.HINT_BYTES,
    wire.TLV_CAVEATS: 0,
    wire.TLV_GRANT: wire.GRANT_BYTES,
}

_MAC1_AT = wire.HEADER_BYTES
_NOISE_AT = wire.HEADER_BYTES + wire.MAC_BYTES
_SEEN_BYTES = 8
_BUCKETS = 64  # peers whose rate is remembered


def hello_topic(fp: str) -> str:
    return f"zts/{wire.VERSION}/{fp}/hello"


def inbox_topic(to_fp: str, from_fp: str) -> str:
    return f"zts/{wire.VERSION}/{to_fp}/in/{from_fp}"


def parse_inbox_topic(topic: str, own_fp: str) -> str | None:
    """The sender's fingerprint (24 characters) if the topic is a place in our own inbox, else None."""
    head = inbox_topic(own_fp, "")
    sender = topic[len(head) :]
    return sender if topic.startswith(head) and identity.is_fingerprint_text(sender) else None


def encode_hello(epoch: bytes, features: int = 0) -> bytes:
    return bytes([wire.VERSION]) + epoch + features.to_bytes(4, "big")


def decode_hello(data: bytes) -> Hello:
    """Raises RemoteError. An empty retained message (the party is gone) is not a hello."""
    if len(data) != wire.HELLO_BYTES or data[0] != wire.VERSION:
        raise RemoteError("hello of a wrong length or version")
    return Hello(data[1:17], int.from_bytes(data[17:21], "big"))


def encode_fields(fields: "dict[int, bytes]", size: int) -> bytes:
    """TLV, zero-padded to `size` bytes."""
    out = bytearray()
    for kind, value in fields.items():
        out += bytes([kind, len(value)])
        out += value
    if len(out) > size:
        raise RemoteError("fields too long for the message")
    return bytes(out) + bytes(size - len(out))


def decode_fields(data: bytes, required: "tuple[int, ...]") -> "dict[int, bytes]":
    """Type to value. Raises RemoteError: cut, duplicate, wrong size, unknown critical, dirty padding, or a required one missing."""
    fields: dict[int, bytes] = {}
    at = 0
    while at < len(data) and data[at] != wire.TLV_END:
        kind = data[at]
        length = data[at + 1] if at + 1 < len(data) else len(data)
        value = bytes(data[at + 2 : at + 2 + length])
        if len(value) != length or kind in fields:
            raise RemoteError("field cut or twice")
        size = _SIZES.get(kind)
        if size is None and kind & 0x80:
            raise RemoteError("unknown critical field")
        if size and size != length:
            raise RemoteError("field of a wrong size")
        fields[kind] = value
        at += 2 + length
    if any(data[at:]):
        raise RemoteError("padding is not zero")
    if any(kind not in fields for kind in required):
        raise RemoteError("required field missing")
    return fields


def number(value: bytes) -> int:
    return int.from_bytes(value, "big")


def make_peer(public: bytes, psk: bytes) -> Peer:
    """A party we may shake hands with, and the key of its mac1, derived once."""
    return Peer(public, psk, crypto.hkdf(b"", psk, b"mac1"))


def holder_peer(root: bytes, id_: bytes) -> Peer:
    """Whoever holds the grant of that id, made under `root`."""
    return Peer(b"", root, grant.mac_key(root, id_))


def party_psk(party_key: bytes) -> bytes:
    return crypto.hkdf(b"", party_key, b"ZTS/1 relay psk")


def mac1(mac_key: bytes, epoch: bytes, m1: bytes) -> bytes:
    """Of a whole message 1, whatever stands in mac1's place."""
    return crypto.hmac_sha256(mac_key, epoch + m1[:_MAC1_AT] + m1[_NOISE_AT:])[: wire.MAC_BYTES]


def prologue(purpose: int, responder_fp: bytes, epoch: bytes, header: bytes) -> bytes:
    """What both sides mix into a handshake's hash before it begins."""
    return b"ZTS/1" + bytes([purpose]) + responder_fp + epoch + header


def is_message_1(m1: bytes) -> bool:
    """Length, version, type, known kind and the zero byte; nothing about who sent it."""
    return len(m1) == wire.M1_BYTES and m1[0] == wire.VERSION and m1[1] == wire.TYPE_M1 and m1[2] <= wire.KIND_RETIRE and m1[3] == 0


def hint(m1: bytes) -> bytes:
    return m1[4 : wire.HEADER_BYTES]


def has_mac1(m1: bytes, mac_key: bytes, epoch: bytes) -> bool:
    return crypto.equal(m1[_MAC1_AT:_NOISE_AT], mac1(mac_key, epoch, m1))


def read_message_1(m1: bytes, purpose: int, s: "tuple[bytes, bytes]", psk: bytes, epoch: bytes) -> "tuple[HandshakeState, bytes]":
    """After the cheap checks: the handshake, whose `rs` is the sender's static key, and the payload. Raises CryptoError."""
    bound = prologue(purpose, identity.fingerprint(s[1]), epoch, m1[: wire.HEADER_BYTES])
    handshake = HandshakeState(False, bound, s, psk=psk)
    return handshake, handshake.read_message(m1[_NOISE_AT:])


def write_message_2(handshake: HandshakeState, m1: bytes, fields: "dict[int, bytes]") -> bytes:
    header = bytes([wire.VERSION, wire.TYPE_M2, 0, 0]) + crypto.sha256(m1)[: wire.HINT_BYTES]
    return header + handshake.write_message(encode_fields(fields, wire.M2_PAYLOAD_BYTES))


class Bucket:
    """A token bucket: `rate` a second, `burst` at once. Time is `now`, integer ms."""

    def __init__(self, rate: int, burst: int, now: int) -> None:
        self._rate = rate
        self._full = burst * 1000
        self._level = self._full  # thousandths of a token
        self._at = now

    def take(self, now: int) -> bool:
        self._level = min(self._full, self._level + (now - self._at) * self._rate)
        self._at = now
        if self._level < 1000:
            return False
        self._level -= 1000
        return True


class Responder:
    """A device's side of message 1: epochs, replay sets, rate. What it refuses it counts, and answers with silence."""

    def __init__(self, s: "tuple[bytes, bytes]", now: int, rate: int = wire.HANDSHAKES_PER_S, burst: int = wire.HANDSHAKE_BURST) -> None:
        self._s = s
        self._rate = rate
        self._burst = burst
        self._buckets: dict[bytes, Bucket] = {}
        self._epochs: list[tuple[bytes, bytearray]] = []  # each with the seen ephemerals' first 8 bytes, in a row
        self.refused: dict[str, int] = {}
        self.rotate(now)

    @property
    def epoch(self) -> bytes:
        return self._epochs[0][0]

    def is_ours(self, epoch: bytes) -> bool:
        return any(epoch == known for known, _ in self._epochs)

    def rotate(self, now: int) -> None:
        """A new epoch; the one before the last is forgotten, and with it every message 1 made under it."""
        self._epochs = [(crypto.random_bytes(wire.EPOCH_BYTES), bytearray())] + self._epochs[:1]
        self._rotated = now

    def next_timeout(self) -> int:
        """When to rotate, ms."""
        return self._rotated + wire.EPOCH_MS

    def _refuse(self, reason: str) -> Accepted | None:
        self.refused[reason] = self.refused.get(reason, 0) + 1
        return None

    def receive_message_1(self, m1: bytes, sender: bytes, find_peer, now: int) -> Accepted | None:  # type: ignore[no-untyped-def]
        """`find_peer(sender fp15, kind, hint8)` gives a Peer or None. None: refused, say nothing.

        Cheap checks stand before X25519, and the ephemeral enters the set only after decryption, so that nobody but the
        holder of the psk and the static key can spend our time or our memory.
        """
        if not is_message_1(m1):
            return self._refuse("form")
        peer = find_peer(sender, m1[2], hint(m1))
        if peer is None:
            return self._refuse("unknown")
        matching = [pair for pair in self._epochs if has_mac1(m1, peer.mac_key, pair[0])]
        if not matching:
            return self._refuse("mac1")
        epoch, seen = matching[0]
        ephemeral = m1[_NOISE_AT : _NOISE_AT + _SEEN_BYTES]
        if any(seen[at : at + _SEEN_BYTES] == ephemeral for at in range(0, len(seen), _SEEN_BYTES)):
            return self._refuse("replay")
        if not self._bucket(peer.mac_key, now).take(now):
            return self._refuse("rate")
        try:
            handshake, payload = read_message_1(m1, wire.PURPOSE_CONNECT, self._s, peer.psk, epoch)
        except CryptoError:
            return self._refuse("decrypt")
        public = handshake.rs
        if public is None or not crypto.equal(public, peer.public or public) or identity.fingerprint(public) != sender:
            return self._refuse("identity")
        seen.extend(ephemeral)
        if len(seen) >= wire.SEEN_EPHEMERALS * _SEEN_BYTES:
            self.rotate(now)
        required = (wire.TLV_RELAY, wire.TLV_SID, wire.TLV_ACCOUNT, wire.TLV_MAX_RECORD, wire.TLV_WINDOW)
        terms = None
        try:
            fields = decode_fields(payload, required)
            if not peer.public:
                caveats = fields.get(wire.TLV_CAVEATS, b"")
                terms = grant.read(caveats)
                handshake.psk = grant.tail(peer.psk, hint(m1), caveats)
        except RemoteError:
            return self._refuse("fields")
        if terms is not None and not crypto.equal(terms.holder, sender):
            return self._refuse("holder")
        return Accepted(handshake, fields, public, m1, terms)

    def _bucket(self, mac_key: bytes, now: int) -> Bucket:
        """By what the sender has shown to know, not by what it is called."""
        key = mac_key[:8]
        if len(self._buckets) >= _BUCKETS and key not in self._buckets:
            self._buckets.clear()
        return self._buckets.setdefault(key, Bucket(self._rate, self._burst, now))
