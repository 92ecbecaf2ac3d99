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
_LAST = 0xFFFFFFFF
_GENERATIONS = 1 << 16
_LEAP = 1 << 20  # further ahead is no other computer of the owner's: a device that says so lies, and would use the numbers up


def mark_due(book: Book, name: str) -> Card:
    """From now on every session with the device brings it its policy. Raises Failure: not ours, or its policy cannot be made now; it is
    due all the same.
    """
    with book.locked():
        # A new number: whoever is bringing an older one at this moment must not take this one for brought.
        card = own(book, name)
        card = replace(card, policy_due=True, policy_seq=_next(card.policy_seq, name))
        book.save_card(card)
    policy_book.compile_for(book, card)
    return card


def _next(seq: int, name: str) -> int:
    if seq >= _LAST - 1:
        raise Failure(Exit.USAGE, f"@{name} has had all the policies that can be told apart; `zts retire @{name}`, then enrol it anew")
    return seq + 1


async def deliver(book: Book, meeting: Meeting) -> None:
    """Brings the device its policy as it is now. Raises Failure; then it is still due."""
    last = generation = 0
    for _ in range(2):
        number, blob = _make(book, meeting.name, last, generation)
        said = await own_service.ask(meeting, SERVICE, int(time.time()).to_bytes(4, "big") + blob, _DENIED)
        if said.get("refused") == "" and said.get("seq") == number:
            break
        theirs, newer = said.get("seq"), said.get("generation")
        taken_back = type(newer) is int and book.device(meeting.name).generation < newer < _GENERATIONS
        if type(theirs) is not int or not (number <= theirs or taken_back) or theirs >= min(_LAST, number + _LEAP):
            why = f"{said.get('refused')!r:.80}"
            raise Failure(Exit.REFUSED, f"@{meeting.name} did not take the policy: {why}; update it with `zts update @{meeting.name}`")
        last, generation = theirs, int(newer or 0) if taken_back else 0
        # It has a later one, which another computer of its owner made. Ours was asked for later still.
    else:
        raise Failure(Exit.REFUSED, f"@{meeting.name} takes policies from another computer at the same time; try again when that is done")
    with book.locked():
        card = book.device(meeting.name)
        if card.policy_seq == number:  # else another was made meanwhile, and that one is due
            book.save_card(replace(card, policy_due=False))


def _make(book: Book, name: str, last: int, generation: int) -> tuple[int, bytes]:
    """(number, policy). The number is noted before anybody is told of it: so no two policies ever bear it.

    `last` and `generation` are the device's, of a policy that another computer of its owner made: neither goes back.
    """
    with book.locked():
        card = own(book, name)
        card = replace(card, policy_seq=max(card.policy_seq, last), generation=max(card.generation, generation))
        number = _next(card.policy_seq, name)
        blob = policy_book.compile_for(book, card)
        card = replace(card, policy_seq=number)
        book.save_card(card)
    return card.policy_seq, blob
