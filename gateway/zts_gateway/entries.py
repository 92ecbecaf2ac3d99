"""What an address book keeps, and how it stands in JSON. Pure. Reading raises what `private_files.damaged` takes for damage."""

from binascii import hexlify, unhexlify
from dataclasses import dataclass
from typing import Any

from zts import grant, identity, wire
from zts.errors import FormatError, RemoteError

_POLICIES = 1 << 32  # their numbers are below: 4 bytes in a policy
_GENERATIONS = 1 << 16


@dataclass(frozen=True)
class Identity:
    """This laptop: its key pair and, once it has joined, its account at a relay."""

    name: str
    private: bytes
    public: bytes
    account: identity.Account | None = None

    @property
    def pair(self) -> tuple[bytes, bytes]:
        return self.private, self.public

    @property
    def fp(self) -> str:
        return identity.fingerprint_text(self.public)


@dataclass(frozen=True)
class Pending:
    """An enrolment under way: the secret of the device's join code, and when it expires (seconds since 1970)."""

    secret: bytes
    until: int


@dataclass(frozen=True)
class Held:
    """A grant that another owner gave us. `owner` is the fingerprint of whoever handed it over end to end, "" where it was pasted."""

    id: bytes
    mac_key: bytes
    tail: bytes
    caveats: bytes
    owner: str = ""

    @property
    def terms(self) -> grant.Terms:
        return grant.read(self.caveats)


@dataclass(frozen=True)
class Card:
    """A device. `public` is b"" until it has enrolled; `verified` once it answered with the psk.

    One of ours has a `pairing` secret; one of another owner has a `grant` instead, and b"" there.
    `services` are (kind, name) as it last named them, `last_seen` RFC 3339 or None.
    `generation` is of the grants that hold, `policy_seq` the number of the last policy made for it, 0: none yet. `policy_due`: it
    has not taken one that it should have.
    """

    name: str
    public: bytes
    pairing: bytes
    verified: bool = False
    services: tuple[tuple[int, str], ...] = ()
    last_seen: str | None = None
    pending: Pending | None = None
    generation: int = 0
    policy_seq: int = 0
    policy_due: bool = False
    grant: Held | None = None

    @property
    def fp(self) -> str:
        return identity.fingerprint_text(self.public)


@dataclass(frozen=True)
class Party:
    """Somebody else at a relay, whose public card we were given. `relay` is the relay's fingerprint."""

    name: str
    public: bytes
    relay: str

    @property
    def fp(self) -> str:
        return identity.fingerprint_text(self.public)


@dataclass(frozen=True)
class Issued:
    """A grant that we made. `holder` is the party's name at that time; who it is stands in the caveats. Times are RFC 3339."""

    id: bytes
    holder: str
    caveats: bytes
    made: str
    taken_back: str | None = None

    @property
    def terms(self) -> grant.Terms:
        return grant.read(self.caveats)

    @property
    def fp(self) -> str:
        return identity.base32(self.terms.holder)


# --- to and from JSON ----------------------------------------------------------------------------------------------------------


def encode_identity(me: Identity) -> dict[str, Any]:
    data: dict[str, Any] = {"name": me.name, "private": _hex(me.private), "public": _hex(me.public)}
    if me.account:
        a = me.account
        data["relay"] = {
            "key": _hex(a.relay_key),
            "host": a.host,
            "port": a.port,
            "account": _hex(a.account),
            "party_key": _hex(a.party_key),
            "password": a.password,
            "pin": _hex(a.pin),
            "broker": a.broker,
        }
    return data


def decode_identity(data: dict[str, Any]) -> Identity:
    relay = data.get("relay")
    account = None if relay is None else _account(relay)
    return Identity(identity.check_name(data["name"]), _key(data["private"]), _key(data["public"]), account)


def encode_card(card: Card) -> dict[str, Any]:
    data: dict[str, Any] = {
        "name": card.name,
        "public": _hex(card.public),
        "pairing": _hex(card.pairing),
        "verified": card.verified,
        "services": card.services,
        "last_seen": card.last_seen,
        "generation": card.generation,
        "policy_seq": card.policy_seq,
        "policy_due": card.policy_due,
    }
    if card.grant:
        held = card.grant
        data["grant"] = {
            "id": _hex(held.id),
            "mac_key": _hex(held.mac_key),
            "tail": _hex(held.tail),
            "caveats": _hex(held.caveats),
            "owner": held.owner,
        }
    if card.pending:
        data["enrolling"] = {"secret": _hex(card.pending.secret), "until": card.pending.until}
    return data


def decode_card(name: str, data: dict[str, Any]) -> Card:
    pending, held = data.get("enrolling"), data.get("grant")
    return Card(
        name,
        _key(data["public"]) if data["public"] or held else b"",
        _bytes(data["pairing"], 0 if held else wire.KEY_BYTES),
        data["verified"] is True,
        tuple((int(kind), str(service)) for kind, service in data["services"]),
        data["last_seen"],
        None if pending is None else Pending(_bytes(pending["secret"], wire.SECRET_BYTES), int(pending["until"])),
        _number(data.get("generation", 0), _GENERATIONS),
        _number(data.get("policy_seq", 0), _POLICIES),
        data.get("policy_due", False) is True,
        None if held is None else _held(held),
    )


def encode_party(party: Party) -> dict[str, Any]:
    return {"name": party.name, "public": _hex(party.public), "relay": party.relay}


def decode_party(name: str, data: dict[str, Any]) -> Party:
    identity.parse_fingerprint(data["relay"])
    return Party(name, _key(data["public"]), data["relay"])


def encode_issued(issued: Issued) -> dict[str, Any]:
    return {
        "id": _hex(issued.id),
        "holder": issued.holder,
        "caveats": _hex(issued.caveats),
        "made": issued.made,
        "taken_back": issued.taken_back,
    }


def decode_issued(data: dict[str, Any]) -> Issued:
    taken = data["taken_back"]
    return Issued(
        _bytes(data["id"], wire.HINT_BYTES),
        identity.check_name(data["holder"]),
        _caveats(data["caveats"]),
        str(data["made"]),
        None if taken is None else str(taken),
    )


def _hex(data: bytes) -> str:
    return hexlify(data).decode()


def _bytes(text: str, size: int) -> bytes:
    data = unhexlify(text)
    if len(data) != size:
        raise FormatError("wrong length")
    return data


def _key(text: str) -> bytes:
    return _bytes(text, wire.KEY_BYTES)


def _number(value: Any, below: int) -> int:
    if type(value) is not int or not 0 <= value < below:
        raise FormatError("no such number")
    return value


def _caveats(text: str) -> bytes:
    caveats = unhexlify(text)
    try:
        grant.read(caveats)
    except RemoteError as error:
        raise FormatError(str(error)) from None
    return caveats


def _held(data: dict[str, Any]) -> Held:
    owner = data["owner"]
    if owner != "":
        identity.parse_fingerprint(owner)
    return Held(_bytes(data["id"], wire.HINT_BYTES), _key(data["mac_key"]), _key(data["tail"]), _caveats(data["caveats"]), owner)


def _account(data: dict[str, Any]) -> identity.Account:
    pin, port = data["pin"], data["port"]
    tls = identity.parse_broker(data["broker"], data["host"])[0]
    if not isinstance(pin, str) or tls != (pin != ""):
        raise FormatError("a broker's pin and its mqtts:// go together")
    if not isinstance(port, int) or not 0 < port <= 65535:
        raise FormatError("no port")
    return identity.Account(
        _key(data["key"]),
        str(data["host"]),
        port,
        _bytes(data["account"], wire.ACCOUNT_BYTES),
        _key(data["party_key"]),
        str(data["password"]),
        _key(pin) if pin else b"",
        data["broker"],
    )
