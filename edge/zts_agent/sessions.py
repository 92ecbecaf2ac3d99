"""The sessions of a device: judges an accepted message 1, answers it, and serves streams over the leg until it ends."""

import asyncio

from zts import control, dial, identity, link, policy, record, wire
from zts.errors import ZtsError
from zts.leg import LegHello
from zts.session import Offer, Session

from . import board

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .services import Serve, Services

GOODBYE_MS = 1_000  # for the last bytes of an agent that ends

# The longest frame that cannot be split: INFO with one service. A client that takes less is refused.
_LEAST_RECORD = 2 + 2 + wire.NAME_MAX_CHARS + wire.TAG_BYTES


class Sessions:
    """At most `limit` at once. `address` is where the relay's legs go, `owner` the owner's fingerprint."""

    def __init__(
        self, account: identity.Account, address: "tuple[str, int]", owner: bytes, services: "Services", limit: int = board.SESSIONS
    ) -> None:
        self.refused: dict[str, int] = {}
        self._account = account
        self._relay_fp = identity.fingerprint(account.relay_key)
        self._address = address
        self._owner = owner
        self._services = services
        self._limit = limit
        self._running: list[_Answered] = []
        self._answers: list[tuple[bytes, bytes]] = []  # the last ones: (party, sid) and message 2

    def __len__(self) -> int:
        return len(self._running)

    def answer(self, accepted: control.Accepted) -> bytes:
        """Message 2. When it says OK, the session's task dials its leg from now on.

        A client that got no answer in time asks anew with the same sid, perhaps because a chip takes seconds: it gets the answer
        to its first try once more, and not another session, which would stay behind in one of a board's three places.
        """
        party = identity.fingerprint(accepted.peer.public)
        sid = accepted.fields[wire.TLV_SID]
        for asked, answer in self._answers:
            if asked == party + sid:
                return answer
        theirs = Offer(control.number(accepted.fields[wire.TLV_MAX_RECORD]), control.number(accepted.fields[wire.TLV_WINDOW]))
        code = self._judge(accepted.fields, party, theirs)
        if code != wire.OK:
            self.refuse(f"session {code}")
            return control.write_message_2(accepted.handshake, accepted.m1, {wire.TLV_CODE: bytes([code])})
        fields = {
            wire.TLV_CODE: bytes([wire.OK]),
            wire.TLV_ACCOUNT: self._account.account,
            wire.TLV_MAX_RECORD: board.OFFER.max_record.to_bytes(2, "big"),
            wire.TLV_WINDOW: board.OFFER.window.to_bytes(4, "big"),
            wire.TLV_SESSIONS_LEFT: bytes([min(255, self._limit - len(self._running) - 1)]),
            wire.TLV_STREAMS: board.STREAMS.to_bytes(2, "big"),
        }
        m2 = control.write_message_2(accepted.handshake, accepted.m1, fields)
        self._answers = self._answers[-self._limit :] + [(party + sid, m2)]
        k1, k2 = accepted.handshake.split()
        key = record.session_key(accepted.handshake.h, k1, k2, sid)
        session = Session(wire.ROLE_DEVICE, key, board.OFFER, theirs, board.STREAMS)
        self._running.append(_Answered(self, session, party, sid, accepted.fields[wire.TLV_ACCOUNT]))
        return m2

    def _judge(self, fields: "dict[int, bytes]", party: bytes, theirs: Offer) -> int:
        if fields[wire.TLV_RELAY] != self._relay_fp:
            return wire.DENIED
        code = policy.decide(self._owner, party, None)
        if code != wire.OK:
            return code
        if theirs.max_record < _LEAST_RECORD or theirs.window == 0:
            return wire.PROTO
        return wire.OK if len(self._running) < self._limit else wire.BUSY

    def refuse(self, reason: str) -> None:
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def find_service(self, party: bytes, service: str) -> "Serve | None":
        """How to serve a stream to `service`, or None: this party may not, or there is none."""
        serve = self._services.find(service) if policy.decide(self._owner, party, service) == wire.OK else None
        if serve is None:
            self.refuse("service")
        return serve

    def announced(self, party: bytes) -> "list[tuple[int, str]]":
        """The (kind, name) of what this party may open."""
        return [(kind, name) for kind, name in self._services.names if policy.decide(self._owner, party, name) == wire.OK]

    async def dial(self, hello: LegHello, first: bytes) -> "tuple[Any, Any]":
        host, port = self._address
        return await dial.dial_leg(board, host, port, hello, self._account.party_key, first)

    def leg_hello(self, n: int, sid: bytes, client: bytes) -> LegHello:
        return LegHello(wire.ROLE_DEVICE, n, sid, self._account.account, client)

    def ended(self, session: "_Answered") -> None:
        self._running.remove(session)

    async def close(self) -> None:
        """Ends all sessions; the clients hear of it, if they listen."""
        for running in self._running:
            running.drain()
        end = board.clock() + GOODBYE_MS
        while self._running and board.clock() < end:
            await asyncio.sleep(0.01)
        for running in list(self._running):
            running.task.cancel()
            try:
                await running.task
            except asyncio.CancelledError:
                pass


class _Answered:
    """One session that we said OK to, and its streams' tasks."""

    def __init__(self, sessions: Sessions, session: Session, party: bytes, sid: bytes, client: bytes) -> None:
        self._sessions = sessions
        self._session = session
        self._party = party
        self._sid = sid
        self._client = client  # its account
        self._tasks: list[asyncio.Task[None]] = []
        self._link: link.Link | None = None  # once there is a leg
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        outcome = "closed"
        try:
            await self._serve_leg()
        except (OSError, EOFError, ZtsError) as error:
            outcome = str(error) or type(error).__name__
        except Exception as error:
            outcome = "fault: " + repr(error)
        finally:
            while self._tasks:
                task = self._tasks.pop()
                task.cancel()
                try:
                    await task
                except asyncio.CancelledError:
                    pass
            self._sessions.ended(self)
            board.log("session over", outcome=outcome, sessions=len(self._sessions))

    async def _serve_leg(self) -> None:
        n = self._session.start_leg(board.clock())
        hello = self._sessions.leg_hello(n, self._sid, self._client)
        reader, writer = await self._sessions.dial(hello, b"".join(self._session.data_to_send()))
        announce = self._sessions.announced(self._party)
        self._link = link.Link(self._session, board.clock, board.READ, announce, self._open)
        await self._link.run(reader, writer)

    def drain(self) -> None:
        if self._link is None:
            self.task.cancel()
        else:
            self._link.close(wire.DRAIN)

    def _open(self, stream: link.LinkStream) -> None:
        serve = self._sessions.find_service(self._party, stream.service)
        if serve is None:
            stream.reset(wire.DENIED)
            return
        task = asyncio.create_task(self._serve(serve, stream))
        self._tasks.append(task)
        # The stream's place is free at once. What served it must not live on: it may wait long for its target alone.
        stream.on_reset = lambda: self._give_up(task)

    def _give_up(self, task: "asyncio.Task[None]") -> None:
        if task in self._tasks:
            self._tasks.remove(task)
            task.cancel()

    async def _serve(self, serve: "Serve", stream: link.LinkStream) -> None:
        try:
            await serve(stream)
        except Exception as error:
            board.log("service failed", service=stream.service, error=repr(error))
            stream.reset(wire.TARGET_RESET)
        finally:
            task = asyncio.current_task()
            if task in self._tasks:
                self._tasks.remove(task)
