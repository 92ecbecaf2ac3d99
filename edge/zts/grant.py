"""Grants: what an owner allows another party, in a form the device can check with nobody else there. PROTOCOL.md, "Grants".

A grant is an id and a chain of caveats, each of which can only take something away. HMAC by HMAC the chain turns the device's
pairing secret into the grant's tail, which is the psk of the holder's handshakes: it proves possession and is never sent.
"""

from collections import namedtuple

from . import crypto, wire
from .errors import RemoteError

# What the caveats leave: `member` says that the policy must name the holder too; `services` is a list of names, None every one.
# Of the others 0 means no limit: `until` seconds since 1970, `streams` at once, `bytes` of a session, `idle` seconds of a stream.
Terms = namedtuple("Terms", ("holder", "member", "services", "until", "streams", "bytes", "idle", "read_only"))

_SIZES = {
    wire.CAVEAT_HOLDER: wire.FP_BYTES,
    wire.CAVEAT_UNTIL: 4,
    wire.CAVEAT_STREAMS: 1,
    wire.CAVEAT_BYTES: 8,
    wire.CAVEAT_IDLE: 2,
    wire.CAVEAT_READ_ONLY: 0,
    wire.CAVEAT_MEMBER: 0,
}


def root(pairing: bytes, generation: int) -> bytes:
    """The key of all grants of one generation of a device."""
    return crypto.hkdf(b"", pairing, b"ZTS/1 grant" + generation.to_bytes(2, "big"))


def generation(id_: bytes) -> int:
    return int.from_bytes(id_[:2], "big")


def mac_key(root_key: bytes, id_: bytes) -> bytes:
    """The key of mac1, which the device must have before it can read the caveats."""
    return crypto.hmac_sha256(root_key, b"mac1" + id_)


def tail(root_key: bytes, id_: bytes, caveats: bytes) -> bytes:
    """The psk. Raises RemoteError when the caveats are cut."""
    key = crypto.hmac_sha256(root_key, b"tail" + id_)
    for _, _, caveat in _split(caveats):
        key = narrow(key, caveat)
    return key


def narrow(tail_: bytes, caveat: bytes) -> bytes:
    """The tail of the grant with one more caveat: who holds one can narrow it, and nobody can take a caveat away."""
    return crypto.hmac_sha256(tail_, caveat)


def caveat(kind: int, value: bytes) -> bytes:
    return bytes([kind, len(value)]) + value


def _split(caveats: bytes) -> "list[tuple[int, bytes, bytes]]":
    """(kind, value, the caveat as it stands) of each."""
    if len(caveats) > wire.CAVEATS_MAX_BYTES:
        raise RemoteError("too many caveats")
    found = []
    at = 0
    while at < len(caveats):
        end = at + 2 + caveats[at + 1] if at + 1 < len(caveats) else len(caveats) + 1
        if end > len(caveats):
            raise RemoteError("a caveat is cut")
        found.append((caveats[at], caveats[at + 2 : end], caveats[at:end]))
        at = end
    return found


def _names(value: bytes) -> "list[str]":
    try:
        return value.decode().split(",") if value else []
    except UnicodeError:
        raise RemoteError("a caveat's services are no names")


def least(one: int, other: int) -> int:
    """The narrower of two limits, of which 0 is none."""
    return min(one, other) if one and other else one or other


def read(caveats: bytes) -> Terms:
    """What they leave, all together. Raises RemoteError: cut, unknown, of a wrong size, without a holder or with two."""
    holder = b""
    services = None
    limits = {wire.CAVEAT_UNTIL: 0, wire.CAVEAT_STREAMS: 0, wire.CAVEAT_BYTES: 0, wire.CAVEAT_IDLE: 0}
    read_only = member = False
    for kind, value, _ in _split(caveats):
        if kind == wire.CAVEAT_SERVICES:
            names = _names(value)
            services = names if services is None else [name for name in services if name in names]
            continue
        if _SIZES.get(kind) != len(value):
            raise RemoteError("a caveat of an unknown kind or a wrong size")
        if kind == wire.CAVEAT_HOLDER:
            if holder and not crypto.equal(holder, value):
                raise RemoteError("a grant of two holders")
            holder = bytes(value)
        elif kind == wire.CAVEAT_READ_ONLY:
            read_only = True
        elif kind == wire.CAVEAT_MEMBER:
            member = True
        else:
            number = int.from_bytes(value, "big")
            if not number:
                raise RemoteError("a caveat that leaves nothing")
            limits[kind] = least(limits[kind], number)
    if not holder:
        raise RemoteError("a grant without a holder")
    return Terms(
        holder,
        member,
        services,
        limits[wire.CAVEAT_UNTIL],
        limits[wire.CAVEAT_STREAMS],
        limits[wire.CAVEAT_BYTES],
        limits[wire.CAVEAT_IDLE],
        read_only,
    )
