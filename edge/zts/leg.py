"""A leg's first bytes: the hello that the relay checks, and the header that only the two ends read. PROTOCOL.md, "Legs"."""

from collections import namedtuple

from . import crypto, wire
from .errors import RemoteError

LegHello = namedtuple("LegHello", ("role", "n", "sid", "account", "peer"))
LegHeader = namedtuple("LegHeader", ("role", "n", "nonce"))


def other_role(role: int) -> int:
    return wire.ROLE_CLIENT + wire.ROLE_DEVICE - role


def _mac(party_key: bytes, challenge: bytes, signed: bytes) -> bytes:
    return crypto.hmac_sha256(party_key, b"ZTS/1 leg" + challenge + signed)[: wire.MAC_BYTES]


def party_key(relay_secret: bytes, account: bytes) -> bytes:
    """K_party, which the relay derives and the party was given when it enrolled."""
    return crypto.hmac_sha256(relay_secret, b"leg" + account)


def encode_hello(hello: LegHello, key: bytes, challenge: bytes) -> bytes:
    """53 bytes: role1 n4 sid16 acct8 peer8 mac16, the mac under K_party over the relay's challenge16."""
    signed: bytes = bytes([hello.role]) + hello.n.to_bytes(4, "big") + hello.sid + hello.account + hello.peer
    return signed + _mac(key, challenge, signed)


def decode_hello(data: bytes) -> LegHello:
    """The fields, not yet verified. Raises RemoteError for a wrong length, role or leg number."""
    if len(data) != wire.LEG_HELLO_BYTES:
        raise RemoteError("leg hello of a wrong length")
    hello = LegHello(data[0], int.from_bytes(data[1:5], "big"), data[5:21], data[21:29], data[29:37])
    if hello.role not in (wire.ROLE_CLIENT, wire.ROLE_DEVICE) or hello.n == 0:
        raise RemoteError("leg hello with an unknown role or leg number 0")
    return hello


def verify_hello(data: bytes, key: bytes, challenge: bytes) -> bool:
    signed = data[: wire.LEG_SIGNED_BYTES]
    return crypto.equal(data[wire.LEG_SIGNED_BYTES :], _mac(key, challenge, signed))


def encode_header(role: int, n: int, nonce: bytes) -> bytes:
    """24 bytes: "ZL1" role1 n4 nonce16."""
    return wire.MAGIC_HEADER + bytes([role]) + n.to_bytes(4, "big") + nonce


def decode_header(data: bytes, our_role: int, last_n: int) -> LegHeader:
    """Raises RemoteError unless it comes from the opposite role with a number above `last_n`, the last confirmed one."""
    if len(data) != wire.LEG_HEADER_BYTES or data[: wire.MAGIC_BYTES] != wire.MAGIC_HEADER:
        raise RemoteError("no leg header")
    header = LegHeader(data[3], int.from_bytes(data[4:8], "big"), data[8:24])
    if header.role != other_role(our_role):
        raise RemoteError("leg header reflects our own role")
    if header.n <= last_n:
        raise RemoteError("leg number does not rise")
    return header
