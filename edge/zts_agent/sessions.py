"""The sessions of a device: judges an accepted message 1, answers it, and serves streams over the leg until it ends."""

import asyncio
from collections import namedtuple

from zts import control, dial, identity, link, record, wire
from zts.errors import ZtsError
from zts.grant import least
from zts.leg import LegHello
from zts.session import Offer, Session

from . import board
from .services import stop_task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from zts import policy

    from .audit import Audit
    from .rules import Rules
    from .services import Serve, Services

WATCH_S = 1  # how often what is open is judged again
GOODBYE_MS = 1_000  # for the last bytes of an agent that ends

# The longest frame that cannot be split: INFO with one service. A client that takes less is refused.
_LEAST_RECORD = 2 + 2 + wire.NAME_MAX_CHARS + wire.TAG_BYTES


# Who came: its fingerprint, and the id and terms of its grant; terms None: the owner.
Holder = namedtuple("Holder", ("party", "id", "terms"))


class Sessions:
    """At most `limit` at once. `address` is where the relay's legs go."""

    def __init__(
        self,
        account: identity.Account,
        address: "tuple[str, int]",
        rules: "Rules",
        audit: "Audit",
        services: "Services",
        limit: int = board.SESSIONS,
    ) -> None:
        self.refused: dict[str, int] = {}
        self._account = account
        self._relay_fp = identity.fingerprint(account.relay_key)
        self._address = address
        self.rules = rules
        self.audit = audit
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
        party = identity.fingerprint(accepted.public)
        sid = accepted.fields[wire.TLV_SID]
        for asked, answer in self._answers:
            if asked == party + sid:
                return answer
        theirs = Offer(control.number(accepted.fields[wire.TLV_MAX_RECORD]), control.number(accepted.fields[wire.TLV_WINDOW]))
        holder = Holder(party, control.hint(accepted.m1), accepted.terms)
        if accepted.terms is None and wire.TLV_TIME in accepted.fields:
            self.rules.learn_time(control.number(accepted.fields[wire.TLV_TIME]))
        code = self._judge(accepted.fields, holder, theirs)
        if code != wire.OK:
            self.refuse(f"session {code}")
            self.audit.note(party, None, code)
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
        self._running.append(_Answered(self, session, holder, sid, accepted.fields[wire.TLV_ACCOUNT]))
        return m2

    def _judge(self, fields: "dict[int, bytes]", holder: "Holder", theirs: Offer) -> int:
        if fields[wire.TLV_RELAY] != self._relay_fp:
            return wire.DENIED
        code, _ = self.judge(holder, None)
        if code != wire.OK:
            return code
        if theirs.max_record < _LEAST_RECORD or theirs.window == 0:
            return wire.PROTO
        # The last place is the owner's: else whoever holds a grant could keep its being taken back from coming.
        places = self._limit if holder.terms is None else self._limit - 1
        return wire.OK if len(self._running) < places else wire.BUSY

    def refuse(self, reason: str) -> None:
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def judge(self, holder: "Holder", service: "str | None") -> "tuple[int, policy.Limits]":
        """As policy.decide: may it have this service, or with None a session, now?"""
        kind = 0 if service is None else self._services.kind(service)
        return self.rules.decide(holder.party, holder.id, holder.terms, service, kind)

    def find_service(self, service: str) -> "Serve | None":
        return self._services.find(service)

    def announced(self, holder: "Holder") -> "list[tuple[int, str]]":
        """The (kind, name) of what it may open."""
        return [(kind, name) for kind, name in self._services.names if self.judge(holder, name)[0] == wire.OK]

    def streams(self, party: bytes) -> int:
        """How many the party has open, in all its sessions."""
        return sum([len(running.streams) for running in self._running if running.holder.party == party])

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
            await stop_task(running.task)


class _Open:
    """One stream and the task that serves it."""

    def __init__(self, stream: link.LinkStream, idle_s: int) -> None:
        self.stream = stream
        self.idle_s = idle_s  # 0: for ever
        self.since = self.moved = board.clock()
        self._passed = 0
        self.task: asyncio.Task[None] | None = None

    def is_idle(self, now: int) -> bool:
        passed = self.stream.bytes_in + self.stream.bytes_out
        if passed != self._passed:
            self._passed, self.moved = passed, now
        return self.idle_s != 0 and now - self.moved >= self.idle_s * 1000


class _Answered:
    """One session that we said OK to, and its streams' tasks."""

    def __init__(self, sessions: Sessions, session: Session, holder: Holder, sid: bytes, client: bytes) -> None:
        self._sessions = sessions
        self._session = session
        self.holder = holder
        self._sid = sid
        self._client = client  # its account
        self.streams: list[_Open] = []
        self._link: link.Link | None = None  # once there is a leg
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        outcome = "closed"
        watching = None if self.holder.terms is None else asyncio.create_task(self._watch())
        try:
            await self._serve_leg()
        except (OSError, EOFError, ZtsError) as error:
            outcome = str(error) or type(error).__name__
        except Exception as error:
            outcome = "fault: " + repr(error)
        finally:
            if watching is not None:
                await stop_task(watching)
            while self.streams:
                task = self.streams.pop().task
                if task is not None:
                    await stop_task(task)
            self._link = None
            self._sessions.ended(self)
            board.log("session over", outcome=outcome, sessions=len(self._sessions))

    async def _serve_leg(self) -> None:
        n = self._session.start_leg(board.clock())
        hello = self._sessions.leg_hello(n, self._sid, self._client)
        reader, writer = await self._sessions.dial(hello, b"".join(self._session.data_to_send()))
        announce = self._sessions.announced(self.holder)
        self._link = link.Link(self._session, board.clock, board.READ, announce, self._open)
        await self._link.run(reader, writer)

    def drain(self) -> None:
        if self._link is None:
            self.task.cancel()
        else:
            self._link.close(wire.DRAIN)

    async def _watch(self) -> None:
        """The owner is not watched: it is not bound by its own rules."""
        try:
            await self._judge_on()
        except Exception as error:  # such as no memory: what is open would be judged no more
            if self._link is not None:
                self._link.end(error)
            else:
                self.task.cancel()

    async def _judge_on(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            code, _ = self._sessions.judge(self.holder, None)
            if code != wire.OK:
                if self._link is not None:
                    self._link.expel(code)
                    for opened in list(self.streams):
                        self._give_up(opened)  # what it has taken and not passed on stays here
                else:
                    self.task.cancel()
                return
            now = board.clock()
            for opened in list(self.streams):
                code, limits = self._sessions.judge(self.holder, opened.stream.service)
                if code == wire.OK:
                    code = self._narrow(opened, limits)
                if code == wire.OK and opened.is_idle(now):
                    code = wire.IDLE
                if code != wire.OK:
                    opened.stream.reset(code)
                    self._give_up(opened)

    def _narrow(self, opened: _Open, limits: "policy.Limits") -> int:
        """What is open keeps to today's limits; a code other than OK ends the stream. Wider ones are for streams to come."""
        if limits.read_only and not opened.stream.read_only:
            return wire.DENIED
        if limits.streams and self._sessions.streams(self.holder.party) > limits.streams:
            return wire.BUSY
        opened.idle_s = least(opened.idle_s, limits.idle)
        if self._link is not None:
            self._link.most = least(self._link.most, limits.bytes)
            self._link.spend(0)
        return wire.OK

    def _open(self, stream: link.LinkStream) -> None:
        code, limits = self._sessions.judge(self.holder, stream.service)
        serve = self._sessions.find_service(stream.service)
        if code == wire.OK and serve is None:
            code = wire.DENIED
        if code == wire.OK and limits.streams and self._sessions.streams(self.holder.party) >= limits.streams:
            code = wire.BUSY
        if code != wire.OK or serve is None or self._link is None:
            self._sessions.refuse("service")
            self._sessions.audit.note(self.holder.party, stream.service, code)
            stream.reset(code)
            return
        self._link.most = least(self._link.most, limits.bytes)
        stream.read_only = limits.read_only
        opened = _Open(stream, limits.idle)
        self.streams.append(opened)
        opened.task = asyncio.create_task(self._serve(serve, opened))
        # The stream's place is free at once. What served it must not live on: it may wait long for its target alone.
        stream.on_reset = lambda: self._give_up(opened)

    def _give_up(self, opened: _Open) -> None:
        if opened in self.streams:
            self.streams.remove(opened)
            if opened.task is not None:
                opened.task.cancel()

    async def _serve(self, serve: "Serve", opened: _Open) -> None:
        stream = opened.stream
        try:
            await serve(stream)
        except Exception as error:
            board.log("service failed", service=stream.service, error=repr(error))
            stream.reset(wire.TARGET_RESET)
        finally:
            if opened in self.streams:
                self.streams.remove(opened)
            took = board.clock() - opened.since
            self._sessions.audit.note(self.holder.party, stream.service, stream.code, stream.bytes_in, stream.bytes_out, took)
