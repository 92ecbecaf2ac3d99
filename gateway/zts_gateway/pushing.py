"""Policies on their way to devices: made from what the address book says now, and due until the device has taken one."""

import time
from dataclasses import replace

from zts_gateway import own_service, policy_book
from zts_gateway.addressbook import Book, Card
from zts_gateway.client import Meeting
from zts_gateway.granting import own
from zts_gateway.ui import Exit, Failure

SERVICE = "zts-policy"
_DENIED = "takes no policy: you do not own it, or its agent is older than this; update it with `zts update`"
_NUMBERS = 1 << 32


def mark_due(book: Book, name: str) -> Card:
    """From now on every session with the device brings it its policy. Raises Failure: not ours, or its policy cannot be made."""
    policy_book.compile_for(book, own(book, name))
    return book.change_card(name, policy_due=True)


async def deliver(book: Book, meeting: Meeting) -> None:
    """Brings the device its policy as it is now. Raises Failure; then it is still due."""
    last = 0
    for _ in range(2):
        number, blob = _make(book, meeting.name, last)
        said = await own_service.ask(meeting, SERVICE, int(time.time()).to_bytes(4, "big") + blob, _DENIED)
        if said.get("refused") == "" and said.get("seq") == number:
            break
        theirs = said.get("seq")
        if not isinstance(theirs, int) or not number <= theirs < _NUMBERS - 1:
            why = f"{said.get('refused')!r:.80}"
            raise Failure(Exit.REFUSED, f"@{meeting.name} did not take the policy: {why}; update it with `zts update @{meeting.name}`")
        last = theirs
        # It has a later one, which another computer of its owner made. Ours was asked for later still.
    else:
        raise Failure(Exit.REFUSED, f"@{meeting.name} takes policies from another computer at the same time; try again when that is done")
    with book.locked():
        card = book.device(meeting.name)
        if card.policy_seq == number:  # else another was made meanwhile, and that one is due
            book.save_card(replace(card, policy_due=False))


def _make(book: Book, name: str, last: int) -> tuple[int, bytes]:
    """(number, policy). The number is noted before anybody is told of it: so no two policies ever bear it."""
    with book.locked():
        card = own(book, name)
        card = replace(card, policy_seq=max(card.policy_seq, last))
        blob = policy_book.compile_for(book, card)
        card = replace(card, policy_seq=card.policy_seq + 1)
        book.save_card(card)
    return card.policy_seq, blob
