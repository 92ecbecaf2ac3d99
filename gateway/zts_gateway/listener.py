"""The sessions behind a door, one after the other, and the streams of a session."""

import asyncio
from collections.abc import Callable

from zts import identity, wire
from zts.errors import StreamReset
from zts.link import LinkStream
from zts_agent import board
from zts_gateway import client, pushing
from zts_gateway.addressbook import Book, Card, Identity, timestamp
from zts_gateway.client import PATIENCE_MS, Meeting, open_stream
from zts_gateway.ui import Exit, Failure

LINES = (wire.SERVICE_SERIAL, wire.SERVICE_REPL)  # kinds of services that carry line messages
TURN_MS = 3000  # that the next user of a line waits for the last one's end, which may be on the way
_AGAIN_S = 0.5  # between tries to reach a relay that is away
_OPEN_AGAIN_S = 0.1
_TEMPORARY = (Exit.UNREACHABLE, Exit.OFFLINE, Exit.LOST)


class Sessions:
    """The one session with a device, made anew when it is needed and gone."""

    def __init__(self, book: Book, name: str) -> None:
        self._book = book
        self._name = name
        self._meeting: Meeting | None = None
        self._making: asyncio.Task[Meeting] | None = None

    async def first(self, step: Callable[[str], None]) -> Meeting:
        """Without patience for a device that is not there. Raises Failure."""
        self._meeting = await self._meet(0, step)
        return self._meeting

    async def get(self) -> Meeting:
        """The session, or a new one within PATIENCE_MS. Raises Failure."""
        if self._meeting and self._meeting.is_up:
            return self._meeting
        if self._making is None or self._making.done():
            self._making = asyncio.create_task(self._make())
            self._making.add_done_callback(_retrieve)  # those who waited for it may be gone
        return await asyncio.shield(self._making)

    async def close(self) -> None:
        if self._making:
            self._making.cancel()
            await asyncio.wait([self._making])
        if self._meeting:
            await self._meeting.close()

    async def _make(self) -> Meeting:
        deadline = board.clock() + PATIENCE_MS
        while True:
            try:
                self._meeting = await self._meet(max(0, deadline - board.clock()), _quiet)
                return self._meeting
            except Failure as failure:
                if failure.code not in _TEMPORARY or board.clock() + _AGAIN_S * 1000 >= deadline:
                    raise
            await asyncio.sleep(_AGAIN_S)

    async def _meet(self, patience_ms: int, step: Callable[[str], None]) -> Meeting:
        me, account = self._book.member()
        card = self._book.device(self._name)
        return await meet_and_note(self._book, me, account, card, patience_ms, step)


def _retrieve(task: "asyncio.Task[Meeting]") -> None:
    if not task.cancelled():
        task.exception()


def _quiet(_: str) -> None:
    pass


async def meet_and_note(
    book: Book, me: Identity, account: identity.Account, card: Card, patience_ms: int, step: Callable[[str], None]
) -> Meeting:
    """A session; the card then says that the device is the right one, what it offers and when it was seen. Raises Failure.

    A policy that waits for the device is brought to it first.
    """
    meeting = await client.meet(me, account, card.name, card.public, card.grant or card.pairing, patience_ms, step)
    try:
        card = book.change_card(card.name, verified=True, services=tuple(meeting.services), last_seen=timestamp())
        if card.policy_due:
            await pushing.deliver(book, meeting)
    except BaseException:
        await meeting.close()
        raise
    return meeting


def choose(meeting: Meeting, service: str | None) -> str:
    """The named service, or the only one there. Raises Failure with the names there are."""
    names = [name for _, name in meeting.services]
    listed = ", ".join(names)
    if service is None:
        if len(names) == 1:
            return names[0]
        if names:
            raise Failure(Exit.USAGE, f"@{meeting.name} has several services, so name one, as in @{meeting.name}:{names[0]}: {listed}")
        raise Failure(Exit.DENIED, f"@{meeting.name} offers you no service; add one to its configuration")
    if service not in names:
        raise Failure(Exit.DENIED, f"@{meeting.name} offers you no service '{service}'; there is {listed or 'none'}")
    return service


def kind_of(meeting: Meeting, service: str) -> int:
    """One of wire.SERVICE_*; 0 for a service that is not there any more."""
    return next((kind for kind, name in meeting.services if name == service), 0)


async def open_again(sessions: Sessions, service: str) -> LinkStream:
    """As `open_stream`, once more where that may help. Raises StreamReset, Failure."""
    begun = board.clock()
    while True:
        meeting = await sessions.get()
        try:
            return await open_stream(meeting, service)
        except StreamReset as reset:
            # The session died before anything was passed on, and the next one may do; or a line's last user is not quite gone.
            patience = {wire.TRUNCATED: PATIENCE_MS, wire.BUSY: TURN_MS}.get(reset.code, 0)
            if board.clock() >= begun + patience or (reset.code == wire.BUSY and kind_of(meeting, service) not in LINES):
                raise
        await asyncio.sleep(_OPEN_AGAIN_S)
