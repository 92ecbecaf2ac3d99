"""The two lines by which parties come to know of each other and of each other's devices. Pure. PROTOCOL.md, section 2.

A public card says who somebody is, and is no secret. A grant's line holds a key.
"""

from base64 import urlsafe_b64encode
from binascii import Error, a2b_base64
from typing import NamedTuple

from zts import grant, identity, wire
from zts.errors import FormatError, RemoteError

CARD = "zts1c:"
GRANT = "zts1g:"


class PublicCard(NamedTuple):
    """A party: its name for itself, and the fingerprint of its relay."""

    name: str
    public: bytes
    relay: str


class GrantLine(NamedTuple):
    """A grant for its holder: which device, at which relay, what its owner calls it, and what message 1 needs."""

    name: str
    public: bytes
    relay: str
    id: bytes
    mac_key: bytes
    tail: bytes
    caveats: bytes


def format_card(card: PublicCard) -> str:
    return f"{CARD}{_encode(card.public)}@{card.relay}/{card.name}"


def parse_card(line: str) -> PublicCard:
    """`zts1c:` base64url(public key 32) `@relay fingerprint/name`. Raises FormatError."""
    data, relay, name = _split(line, CARD, "a public card")
    if len(data) != wire.KEY_BYTES:
        raise FormatError("the card has the wrong length: was it cut?")
    return PublicCard(name, data, relay)


def join_keys(line: GrantLine) -> bytes:
    """device's key 32 | id 8 | mac key 32 | tail 32."""
    return line.public + line.id + line.mac_key + line.tail


def split_keys(name: str, relay: str, keys: bytes, caveats: bytes) -> GrantLine:
    """What `join_keys` put together, which has the right length, and the rest. Raises FormatError for caveats that cannot be read."""
    try:
        grant.read(caveats)
    except RemoteError as error:
        raise FormatError(f"the grant cannot be read ({error}): was it changed, or made by a later version?") from None
    key = wire.KEY_BYTES
    at = key + wire.HINT_BYTES
    return GrantLine(name, keys[:key], relay, keys[key:at], keys[at : at + key], keys[at + key :], caveats)


def format_grant(line: GrantLine) -> str:
    return f"{GRANT}{_encode(join_keys(line) + line.caveats)}@{line.relay}/{line.name}"


def parse_grant(line: str) -> GrantLine:
    """`zts1g:` base64url(device's key 32 | id 8 | mac key 32 | tail 32 | caveats) `@relay fingerprint/name`. Raises FormatError.

    What the caveats say is well formed. Whether the tail goes with them only the device knows.
    """
    data, relay, name = _split(line, GRANT, "a grant")
    if len(data) <= wire.GRANT_BYTES:
        raise FormatError("the grant has the wrong length: was it cut?")
    return split_keys(name, relay, data[: wire.GRANT_BYTES], data[wire.GRANT_BYTES :])


def _split(line: str, prefix: str, what: str) -> tuple[bytes, str, str]:
    text = line.strip()
    if not text.startswith(prefix):
        raise FormatError(f"{what} begins with {prefix}")
    middle, at, rest = text[len(prefix) :].partition("@")
    relay, slash, name = rest.partition("/")
    if not at or not slash:
        raise FormatError(f"{what} ends in @relay/name: was it cut?")
    if name.startswith("@"):
        raise FormatError(f"'{name}' is no name")
    identity.parse_fingerprint(relay)
    return _decode(middle), relay, identity.check_name(name)


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    """base64url without padding, and canonical."""
    try:
        data = a2b_base64(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), strict_mode=True)
    except (Error, ValueError):  # ValueError: not ASCII
        data = b""
    if not data or _encode(data) != text:
        raise FormatError("the middle part is not base64url: was the line cut?")
    return data
