"""Grants and cards, from and to the address book: what is given to whom, in words too. PROTOCOL.md, "Grants"."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from zts import crypto, grant, identity, wire
from zts.errors import FormatError
from zts.grant import Terms
from zts.policy import Limits
from zts_gateway import amounts
from zts_gateway.addressbook import Book, Card, Held, Issued, Party, timestamp
from zts_gateway.introduction import GrantLine, PublicCard, format_grant
from zts_gateway.ui import Exit, Failure

_RANDOM = wire.HINT_BYTES - 2
STREAMS_MAX = 0xFF
IDLE_MAX = 0xFFFF


# --- given --------------------------------------------------------------------------------------------------------------------


def parse_services(text: str) -> list[str] | None:
    """`http,ssh` to names; `*`, which is every one, to None. Raises FormatError."""
    if text == "*":
        return None
    return [check_service(name) for name in dict.fromkeys(text.split(","))]


def check_service(name: str) -> str:
    if name.startswith("@"):
        raise FormatError(f"'{name}' is no service; services have no @")
    bare = identity.check_name(name)
    if bare.startswith("zts-"):
        raise FormatError(f"'{name}' is one of the agent's own services, which are the owner's alone")
    return bare


def encode(terms: Terms) -> bytes:
    """The caveats that say `terms`. Raises Failure when there are too many."""
    rows = [grant.caveat(wire.CAVEAT_HOLDER, terms.holder)]
    if terms.member:
        rows.append(grant.caveat(wire.CAVEAT_MEMBER, b""))
    if terms.services is not None:
        names = ",".join(terms.services).encode()
        if len(names) > wire.CAVEATS_MAX_BYTES:
            raise _too_long()
        rows.append(grant.caveat(wire.CAVEAT_SERVICES, names))
    for kind, number, size in (
        (wire.CAVEAT_UNTIL, terms.until, 4),
        (wire.CAVEAT_STREAMS, terms.streams, 1),
        (wire.CAVEAT_BYTES, terms.bytes, 8),
        (wire.CAVEAT_IDLE, terms.idle, 2),
    ):
        if number:
            rows.append(grant.caveat(kind, number.to_bytes(size, "big")))
    if terms.read_only:
        rows.append(grant.caveat(wire.CAVEAT_READ_ONLY, b""))
    caveats = b"".join(rows)
    if len(caveats) > wire.CAVEATS_MAX_BYTES:
        raise _too_long()
    return caveats


def _too_long() -> Failure:
    return Failure(
        Exit.USAGE,
        "a grant has no room for so many services; give every one with :*, or name none: then it is `zts policy edit` that says which",
    )


def own(book: Book, name: str) -> Card:
    """A device of this owner that has enrolled. Raises Failure."""
    card = book.device(name)
    if card.grant:
        raise Failure(Exit.USAGE, f"@{name} belongs to somebody else, who gave you a grant; only its owner can do this")
    return card


def issue(book: Book, holder: Party, name: str, terms: Terms) -> tuple[Issued, str]:
    """A new grant, in the book, and its line. Raises Failure."""
    relay = identity.fingerprint_text(book.member()[1].relay_key)
    if holder.relay != relay:
        raise _other_relay(f"@{holder.name}", holder.relay, relay)
    card = own(book, name)
    known = {service: kind for kind, service in card.services}
    if terms.read_only:
        for service in terms.services or ():
            if known.get(service, wire.SERVICE_SERIAL) != wire.SERVICE_SERIAL:
                raise Failure(
                    Exit.USAGE, f"@{name}:{service} is no serial service, and of no other is it known what only reading is; leave out --ro"
                )
    caveats = encode(terms)
    made: list[tuple[Issued, str]] = []

    def add(card: Card, grants: list[Issued]) -> list[Issued]:
        id_ = card.generation.to_bytes(2, "big") + crypto.random_bytes(_RANDOM)
        issued = Issued(id_, holder.name, caveats, timestamp())
        root = grant.root(card.pairing, card.generation)
        line = GrantLine(name, card.public, relay, id_, grant.mac_key(root, id_), grant.tail(root, id_, caveats), caveats)
        made.append((issued, format_grant(line)))
        return [*grants, issued]

    book.change_grants(name, add)
    return made[0]


def state(card: Card, issued: Issued, now: int) -> str:
    """valid, expired or taken back; what the device says may still be older."""
    if issued.taken_back or grant.generation(issued.id) != card.generation:
        return "taken back"
    return "expired" if 0 < issued.terms.until <= now else "valid"


# --- received -----------------------------------------------------------------------------------------------------------------


def meet_party(book: Book, card: PublicCard, name: str) -> Party | None:
    """The party of a card, under `name`, to be kept by `keep_party`; None when it is known already. Raises Failure."""
    me, account = book.member()
    relay = identity.fingerprint_text(account.relay_key)
    party = Party(name, card.public, card.relay)
    if party.public == me.public:
        raise Failure(Exit.USAGE, "this is this computer's own card; give it to the people who shall know you")
    if card.relay != relay:
        raise _other_relay(f"@{card.name}", card.relay, relay)
    if name == me.name:
        raise Failure(Exit.USAGE, f"@{name} is what this computer is called itself; give the other another name here: --as @name")
    if book.find_card(name):
        raise Failure(Exit.USAGE, f"there is a device @{name} here; give the party another name: --as @name")
    known = book.find_party(name)
    if known:
        if known.public == party.public:
            return None
        raise Failure(
            Exit.AUTHENTICATION,
            f"the name @{name} has another key now: {party.fp}, and not {known.fp}; somebody may pretend to be @{name}, so ask them over "
            f"another way; if the new key is theirs, `zts remove @{name}` first, and if it is somebody else, --as @name",
        )
    for other in book.parties():
        if other.public == party.public:
            raise Failure(Exit.USAGE, f"you know this party as @{other.name}; to change its name, `zts remove @{other.name}` first")
    return party


def keep_party(book: Book, card: PublicCard, name: str) -> None:
    with book.locked():
        party = meet_party(book, card, name)  # again: another process may have been faster
        if party:
            book.save_party(party)


def meet_device(book: Book, line: GrantLine, name: str, now: int, owner: str = "") -> Card:
    """The card of a grant's device, under `name`, to be kept by `keep_device`. `owner`: as Held's. Raises Failure."""
    me, account = book.member()
    relay = identity.fingerprint_text(account.relay_key)
    held = Held(line.id, line.mac_key, line.tail, line.caveats, owner)
    card = Card(name, line.public, b"", grant=held)
    if held.terms.holder != identity.fingerprint(me.public):
        holder = identity.base32(held.terms.holder)
        raise Failure(Exit.AUTHENTICATION, f"this grant is for {holder}, and works for nobody else; this computer is {me.fp}")
    if line.relay != relay:
        raise _other_relay(f"@{line.name}", line.relay, relay)
    if 0 < held.terms.until <= now:
        raise Failure(Exit.DENIED, f"this grant held {amounts.say_until(held.terms.until, now)}; ask the owner of the device for a new one")
    if book.find_party(name):
        raise Failure(Exit.USAGE, f"there is a party @{name} here; give the device another name: --as @name")
    known = book.find_card(name)
    if known and known.public != card.public:
        raise Failure(
            Exit.AUTHENTICATION,
            f"the name @{name} is another device here, with another key; give this one another name: --as @name, or if its owner set it "
            f"up anew, `zts remove @{name}` first",
        )
    if any(own.public == card.public and own.pairing for own in book.cards()):
        raise Failure(Exit.USAGE, "this device is yours already, and you may use all of it without a grant")
    # A new grant takes the old one's place; what is known of the device stays.
    return replace(known, grant=held) if known else card


def keep_device(book: Book, line: GrantLine, name: str, now: int, owner: str = "") -> Card:
    with book.locked():
        card = meet_device(book, line, name, now, owner)
        book.save_card(card)
    return card


def _other_relay(who: str, theirs: str, ours: str) -> Failure:
    return Failure(
        Exit.USAGE,
        f"{who} is at another relay ({theirs}) than this computer ({ours}), and a relay joins only its own; one of you has to join the "
        "other's relay, with another ZTS_HOME",
    )


# --- in words -----------------------------------------------------------------------------------------------------------------


def say_holder(issued: Issued, parties: Mapping[str, Party]) -> str:
    """The name, if it still means the same party, else the fingerprint too."""
    known = parties.get(issued.holder)
    return f"@{issued.holder}" if known and known.fp == issued.fp else f"@{issued.holder} ({issued.fp})"


def say_services(terms: Terms, holder: str) -> str:
    """`holder` is whom the rules must name for a member."""
    named = "every service" if terms.services is None else ", ".join(terms.services) or "nothing"
    if not terms.member:
        return named
    return f"what the rules give {holder}" if terms.services is None else f"{named}, as far as the rules give it to {holder}"


def say_limits(limits: Terms | Limits, now: int) -> list[str]:
    """What limits it, a phrase each."""
    said = []
    if limits.read_only:
        said.append("only reading, so only serial services")
    if limits.until:
        said.append(amounts.say_until(limits.until, now))
    if limits.streams:
        said.append(f"{limits.streams} stream{'' if limits.streams == 1 else 's'} at once")
    if limits.bytes:
        said.append(f"{amounts.say_size(limits.bytes)} a session")
    if limits.idle:
        said.append(f"{amounts.say_duration(limits.idle)} of silence at most")
    return said


def row(terms: Terms) -> dict[str, Any]:
    """For programs; None is no limit."""
    return {
        "member": terms.member,
        "services": terms.services,
        "until": terms.until or None,
        "streams": terms.streams or None,
        "max_bytes": terms.bytes or None,
        "idle": terms.idle or None,
        "read_only": terms.read_only,
    }


def say(terms: Terms, holder: str, now: int) -> str:
    """All of it on one line."""
    return "; ".join([say_services(terms, holder), *say_limits(terms, now), *([] if terms.until else ["without end"])])
