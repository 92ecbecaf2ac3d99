"""`zts join` and `zts enroll`: how this computer, and then its devices, come to a relay."""

import asyncio
import time
from collections.abc import Callable

from zts import codes, crypto, enrol, identity, wire
from zts.errors import FormatError, RemoteError
from zts_agent import board
from zts_gateway import broker
from zts_gateway.addressbook import Book, Card, Identity, Pending
from zts_gateway.listener import meet_and_note
from zts_gateway.ui import Exit, Failure, failure_of

_ASK_S = 1.0  # between two questions whether the device has enrolled
_COMING_MS = 30_000  # a device that has just enrolled connects to the broker and says hello
_SPARE_S = 60  # a line that expires sooner is not worth pasting


def parse_name(text: str) -> str:
    """The bare name. Raises Failure."""
    try:
        return identity.check_name(text)
    except FormatError as error:
        raise Failure(Exit.USAGE, f"{error}; for example @alice") from None


def check_own(book: Book, name: str) -> None:
    """Raises Failure when the name is another's here."""
    card = book.find_card(name)
    if book.find_party(name) or (card and card.grant):
        who = "the device of somebody else" if card else "another party"
        raise Failure(Exit.USAGE, f"@{name} is {who} here; choose another name for yours")


async def join(book: Book, name: str, line: str) -> Identity:
    """Enrols this computer with a join code. What was begun and not answered goes on with the same key. Raises Failure."""
    if line.strip().startswith("zts1d:"):
        raise Failure(
            Exit.AUTHENTICATION, "this is a device's enrolment line, not a join code; paste it on the device, where `zts agent --join` asks"
        )
    try:
        code = codes.parse_join_code(line)
    except FormatError as error:
        raise Failure(Exit.AUTHENTICATION, f"{error}; paste the whole code as the relay printed it") from None
    me = book.find_identity()
    if me is None:
        private = crypto.random_bytes(wire.KEY_BYTES)
        me = Identity(name, private, crypto.x25519_public(private))
        book.save_identity(me)
    elif me.account:
        raise already_joined(book, me)
    where = identity.join_address(code.host, code.port)
    try:
        account = await enrol.enrol(board, code, me.pair, name)
    except RemoteError as error:
        raise _refused(error.code, me) from None
    except EOFError:
        raise Failure(
            Exit.AUTHENTICATION,
            f"the relay at {where} does not take this join code; check that it is whole, or get a new one: `zts-relay code`",
        ) from None
    except OSError as error:
        raise broker.relay_unreachable(where, error) from None
    me = Identity(name, me.private, me.public, account)
    book.save_identity(me)
    return me


def already_joined(book: Book, me: Identity) -> Failure:
    return Failure(
        Exit.USAGE,
        f"this computer is already @{me.name} ({me.fp}); for a second identity set ZTS_HOME to another folder, "
        f"or remove {book.identity_file}",
    )


def _refused(code: int, me: Identity) -> Failure:
    if code == wire.DENIED:
        return Failure(Exit.AUTHENTICATION, "this join code was used already or has expired; get a new one: `zts-relay code` on the relay")
    if code == wire.PROTO:
        return Failure(Exit.AUTHENTICATION, "the relay does not understand this enrolment; update zts here and there")
    return failure_of(code, f"@{me.name}")


async def enroll(book: Book, name: str, show: Callable[[str], None], step: Callable[[str], None]) -> Card:
    """Adds a device: `show`s its enrolment line, waits until it has enrolled and has answered. Raises Failure.

    Interrupted, it goes on where it stopped; until it expires the line stays the same.
    """
    me, account = book.member()
    card = book.find_card(name)
    if book.find_party(name) or (card and card.grant):
        raise Failure(
            Exit.USAGE, f"@{name} is {'the device of somebody else' if card else 'another party'} here; choose another name for yours"
        )
    if card and card.verified:
        raise Failure(
            Exit.USAGE, f"@{name} is enrolled already ({card.fp}); choose another name, or run `zts remove @{name}` to enrol it anew"
        )
    if card is None or not card.public:
        card = await _get_enrolled(book, me, account, name, card, show, step)
    step(f"@{name} has enrolled; waiting for it to answer …")
    try:
        meeting = await meet_and_note(book, me, account, card, _COMING_MS, step)
    except Failure as failure:
        raise Failure(failure.code, f"@{name} has enrolled, but is not verified yet: {failure}; then `zts enroll @{name}` again") from None
    await meeting.close()
    return book.device(name)


async def _get_enrolled(
    book: Book,
    me: Identity,
    account: identity.Account,
    name: str,
    card: Card | None,
    show: Callable[[str], None],
    step: Callable[[str], None],
) -> Card:
    if card is None or card.pending is None or card.pending.until < time.time() + _SPARE_S:
        answer = await broker.ask_relay(me, account, wire.KIND_MAKE_CODE, {})
        if answer[wire.TLV_CODE][0] != wire.OK or wire.TLV_SECRET not in answer:
            raise failure_of(answer[wire.TLV_CODE][0] or wire.PROTO, f"@{me.name}")
        pending = Pending(answer[wire.TLV_SECRET], int(time.time()) + wire.CODE_TTL_S)
        card = Card(name, b"", crypto.random_bytes(wire.KEY_BYTES), pending=pending)
        book.save_card(card)
    assert card.pending
    code = codes.JoinCode(account.relay_key, card.pending.secret, account.host, account.port)
    show(codes.format_enrol_line(codes.EnrolLine(code, card.pairing, me.public, name)))
    step(f"waiting for @{name}: paste the line above where `zts agent --join` asks for it (Ctrl-C: go on later) …")
    while True:
        try:
            answer = await broker.ask_relay(me, account, wire.KIND_LOOK_UP, {wire.TLV_CODE_ID: codes.code_id(card.pending.secret)})
        except Failure as failure:
            # It may take an hour to walk to the device; a relay that restarts meanwhile is no reason to begin anew.
            if failure.code != Exit.UNREACHABLE:
                raise
            step(f"{failure} (still waiting for @{name})")
        else:
            if answer[wire.TLV_CODE][0] == wire.OK and wire.TLV_PUBLIC in answer:
                break
            if answer[wire.TLV_CODE][0] not in (wire.BUSY, wire.DENIED):
                raise failure_of(answer[wire.TLV_CODE][0], f"@{me.name}")
            if answer[wire.TLV_CODE][0] == wire.DENIED or card.pending.until < time.time():
                kept = book.find_card(name)
                if kept and kept.pending == card.pending:  # else another process has begun a new enrolment of that name, or ended it
                    book.remove_card(name)
                raise Failure(Exit.AUTHENTICATION, f"the line for @{name} has expired unused; run `zts enroll @{name}` for a new one")
        await asyncio.sleep(_ASK_S)
    kept = book.find_card(name)
    if kept and kept.public == answer[wire.TLV_PUBLIC]:
        return kept  # another process waited too, and was faster
    if kept is None or kept.pending != card.pending:
        raise Failure(Exit.USAGE, f"the enrolment of @{name} was removed meanwhile; run `zts enroll @{name}` to begin anew")
    card = Card(name, answer[wire.TLV_PUBLIC], card.pairing)
    book.save_card(card)
    return card
