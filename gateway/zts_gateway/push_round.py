"""A round of the devices that have a policy to take: `zts policy push`, `zts revoke`."""

import asyncio
from collections.abc import Callable, Sequence

from zts_gateway import listener
from zts_gateway.addressbook import Book, Card
from zts_gateway.ui import Exit, Failure

_AT_ONCE = 8  # devices
_AGAIN_S = 2.0  # between two looks at who is there
_LATER = (Exit.OFFLINE, Exit.LOST)


async def push_one(book: Book, card: Card) -> None:
    """Brings a device the policy that is due: a session does so by itself. Raises Failure."""
    me, account = book.member()
    meeting = await listener.meet_and_note(book, me, account, card, 0, lambda _: None)
    await meeting.close()


async def push_all(
    book: Book, cards: Sequence[Card], wait: bool, step: Callable[[str], None], taken: Callable[[Card], None]
) -> tuple[list[Card], list[Failure]]:
    """Those that are not there, with `wait` none; and what waiting does not mend, of one device each."""
    waiting, lasting = list(cards), []
    limit = asyncio.Semaphore(_AT_ONCE)

    async def one(card: Card) -> Failure | None:
        async with limit:
            try:
                await push_one(book, card)
            except Failure as failure:
                return failure
        taken(card)
        return None

    while waiting:
        step(f"bringing the rules to {names(waiting)} …")
        failures = await asyncio.gather(*[one(card) for card in waiting])
        lasting += [failure for failure in failures if failure and failure.code not in _LATER]
        waiting = [card for card, failure in zip(waiting, failures, strict=True) if failure and failure.code in _LATER]
        if not wait:
            break
        if waiting:
            await asyncio.sleep(_AGAIN_S)
    return waiting, lasting


def names(cards: Sequence[Card]) -> str:
    return ", ".join(f"@{card.name}" for card in cards)
