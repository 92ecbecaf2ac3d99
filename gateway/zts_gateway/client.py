"""From a card to a running session: message 1 and 2 through the broker, a leg through the relay, the keys proved."""

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

import aiomqtt

from zts import control, crypto, dial, identity, leg, link, record, wire
from zts.errors import CryptoError, LocalError, RemoteError, StreamReset, ZtsError
from zts.initiator import Initiator
from zts.link import LinkStream
from zts.noise import HandshakeState
from zts.session import Offer, Session
from zts_agent import board
from zts_gateway import broker
from zts_gateway.addressbook import Held, Identity
from zts_gateway.ui import Exit, Failure, failure_of

PATIENCE_MS = 15_000  # for an answer; what a connection waits for a device that comes back
_NAMING_S = wire.CONFIRM_MS / 1000 + 5  # the keys proved, and the services named
_NEW_EPOCH_MS = 500  # at least, from a message 1 to one under another epoch: a broker may say any number of hellos
_LEAST_RECORD = 64  # a device that takes less could not take a service's name


class Answer(NamedTuple):
    """A message 2 that proves the device: what both need for the session."""

    handshake: HandshakeState
    sid: bytes
    account: bytes
    offer: Offer
    streams: int  # at once


class Meeting:
    """A running session with a device."""

    def __init__(self, name: str, running: link.Link, task: "asyncio.Task[None]") -> None:
        self.name = name
        self.link = running
        self._task = task
        task.add_done_callback(lambda task: task.cancelled() or task.exception())  # an end nobody asks about is none to report

    @property
    def is_up(self) -> bool:
        return not self.link.session.is_over()

    @property
    def services(self) -> list[tuple[int, str]]:
        """(kind, name) of what the device offers us."""
        return self.link.services

    async def close(self) -> None:
        self.link.close()
        await self.wait_over()

    async def wait_over(self) -> Failure:
        """Waits for the end, and says what it means."""
        await asyncio.wait([self._task])
        error = None if self._task.cancelled() else self._task.exception()
        who = f"@{self.name}"
        if error is None:
            return failure_of(self.link.reason, who) if self.link.reason > wire.OK else failure_of(wire.TRUNCATED, who)
        if isinstance(error, CryptoError):
            return Failure(Exit.LOST, f"{who}: something between the two ends changed the bytes; the connection was ended, try again")
        if isinstance(error, RemoteError) and error.code != wire.IDLE:
            return failure_of(error.code, who)
        if isinstance(error, ZtsError | OSError | EOFError):
            return failure_of(wire.TRUNCATED, who)
        raise error


async def meet(
    me: Identity,
    account: identity.Account,
    name: str,
    public: bytes,
    access: bytes | Held,
    patience_ms: int,
    step: Callable[[str], None],
) -> Meeting:
    """A session with a device, its services known. Raises Failure.

    `access`: the pairing secret of a device of ours, or a grant of its owner's.
    `patience_ms`: how long to wait for a hello if there is none; the answer to message 1 has PATIENCE_MS in any case.
    """
    step(f"asking @{name} …")
    answer = await call(me, account, name, public, access, patience_ms)
    step(f"@{name} answers; joining at the relay …")
    return await join(account, name, answer)


async def join(account: identity.Account, name: str, answer: Answer) -> Meeting:
    """The session that `answer` allows: a leg that the relay has joined, and the keys proved. Raises Failure."""
    key = record.session_key(answer.handshake.h, *answer.handshake.split(), answer.sid)
    ours = Offer(wire.RECORD_MAX_LEN, wire.HOST_WINDOW)
    session = Session(wire.ROLE_CLIENT, key, ours, answer.offer, min(wire.HOST_STREAMS, answer.streams))
    n = session.start_leg(board.clock())
    hello = leg.LegHello(wire.ROLE_CLIENT, n, answer.sid, account.account, answer.account)
    where = identity.join_address(account.host, account.port)
    try:
        reader, writer = await dial.dial_leg(board, account.host, account.port, hello, account.party_key, b"".join(session.data_to_send()))
    except RemoteError as error:
        raise failure_of(error.code, f"@{name}") from None
    except OSError as error:
        raise broker.relay_unreachable(where, error) from None
    except EOFError:
        raise Failure(Exit.UNREACHABLE, f"the relay at {where} closed the connection; it may be restarting: try again") from None
    running = link.Link(session, board.clock, link.HOST_READ)
    meeting = Meeting(name, running, asyncio.create_task(running.run(reader, writer)))
    try:
        async with asyncio.timeout(_NAMING_S):
            if await running.ready():
                return meeting
    except TimeoutError:
        await meeting.close()
        raise failure_of(wire.PROTO, f"@{name}") from None
    except asyncio.CancelledError:
        await meeting.close()
        raise
    raise await meeting.wait_over()


async def open_stream(meeting: Meeting, service: str) -> LinkStream:
    """A stream whose target is there. Raises StreamReset."""
    try:
        stream = meeting.link.open(service)
    except LocalError:
        raise StreamReset(wire.BUSY if meeting.is_up else wire.TRUNCATED) from None
    try:
        async with asyncio.timeout(PATIENCE_MS / 1000):
            await stream.opened()
    except TimeoutError:
        stream.reset(wire.IDLE)
        raise StreamReset(wire.IDLE) from None
    except asyncio.CancelledError:
        stream.reset(wire.TARGET_RESET)
        raise
    return stream


async def call(me: Identity, account: identity.Account, name: str, public: bytes, access: bytes | Held, patience_ms: int) -> Answer:
    """Message 1 until there is a message 2; `access` and `patience_ms` as in `meet`. Raises Failure."""
    fp = identity.fingerprint_text(public)
    async with broker.connect(me, account) as client:
        call = _Call(me, account, name, public, access)
        await broker.subscribe(client, [call.inbox, call.hello])
        # A broker works in order: when it has answered this, it has sent the retained hello.
        await client.unsubscribe(control.hello_topic(me.fp))
        for _ in range(len(client.messages)):  # not "while": a broker may never stop
            call.receive(await anext(client.messages))
        deadline = board.clock() + patience_ms
        coming = asyncio.ensure_future(anext(client.messages))
        try:
            while call.answer is None:
                if call.epoch is not None:
                    if not call.tries:
                        deadline = board.clock() + PATIENCE_MS
                    if board.clock() >= call.due:
                        await client.publish(control.inbox_topic(fp, me.fp), call.next_message_1())
                if board.clock() >= deadline:
                    raise call.give_up()
                until = deadline if call.epoch is None else min(deadline, call.due)
                await asyncio.wait([coming], timeout=max(0, until - board.clock()) / 1000)
                if coming.done():
                    call.receive(coming.result())
                    coming = asyncio.ensure_future(anext(client.messages))
        finally:
            coming.cancel()
            await asyncio.wait([coming])
    return call.answer


class _Call:
    """Message 1, made anew after 2, 4 and 8 s: a slow board may answer any of them, so all are remembered.

    They share one sid, by which the device knows that they ask for one session.
    """

    def __init__(self, me: Identity, account: identity.Account, name: str, public: bytes, access: bytes | Held) -> None:
        fp = identity.fingerprint_text(public)
        self.inbox, self.hello = control.inbox_topic(me.fp, fp), control.hello_topic(fp)
        self.epoch: bytes | None = None
        self.tries: list[Initiator] = []
        self.due = 0  # ms: when the next message 1 is
        self._asked = 0  # when the last was
        self.answer: Answer | None = None
        self._sid = crypto.random_bytes(wire.SID_BYTES)
        self._me, self._account, self._name = me, account, name
        self._public, self._access = public, access

    def next_message_1(self) -> bytes:
        assert self.epoch is not None
        fields = {
            wire.TLV_RELAY: identity.fingerprint(self._account.relay_key),
            wire.TLV_SID: self._sid,
            wire.TLV_ACCOUNT: self._account.account,
            wire.TLV_MAX_RECORD: wire.RECORD_MAX_LEN.to_bytes(2, "big"),
            wire.TLV_WINDOW: wire.HOST_WINDOW.to_bytes(4, "big"),
        }
        held, who = self._access, (wire.PURPOSE_CONNECT, self._me.pair, self._public)
        if isinstance(held, Held):
            initiator = Initiator(*who, held.tail, self.epoch, wire.KIND_GRANT, held.id, held.mac_key)
            fields[wire.TLV_CAVEATS] = held.caveats
        else:
            initiator = Initiator(*who, held, self.epoch)
            fields[wire.TLV_TIME] = int(time.time()).to_bytes(4, "big")
        self._asked = board.clock()
        self.due = self._asked + wire.RETRY_MS[min(len(self.tries), len(wire.RETRY_MS) - 1)]
        self.tries.append(initiator)
        return initiator.message_1(fields)

    def receive(self, message: aiomqtt.Message) -> None:
        """Raises Failure when the device refuses."""
        if message.topic.value == self.hello:
            self._receive_hello(broker.payload(message))
        elif message.topic.value == self.inbox and self.answer is None:
            self._receive_message_2(broker.payload(message))

    def _receive_hello(self, data: bytes) -> None:
        try:
            epoch = control.decode_hello(data).epoch
        except RemoteError:  # an empty one: the device is gone
            self.epoch = None
            return
        if epoch != self.epoch:
            self.epoch = epoch
            if self.tries:
                self.due = min(self.due, self._asked + _NEW_EPOCH_MS)

    def _receive_message_2(self, data: bytes) -> None:
        who = f"@{self._name}"
        for initiator in self.tries:
            try:
                fields = initiator.read_message_2(data)
            except RemoteError:
                raise failure_of(wire.PROTO, who) from None
            if fields is None:
                continue
            if fields[wire.TLV_CODE][0] != wire.OK:
                raise failure_of(fields[wire.TLV_CODE][0], who)
            if any(kind not in fields for kind in (wire.TLV_ACCOUNT, wire.TLV_MAX_RECORD, wire.TLV_WINDOW)):
                raise failure_of(wire.PROTO, who)
            offer = Offer(control.number(fields[wire.TLV_MAX_RECORD]), control.number(fields[wire.TLV_WINDOW]))
            if offer.max_record < _LEAST_RECORD or not offer.window:
                raise failure_of(wire.PROTO, who)
            streams = control.number(fields[wire.TLV_STREAMS]) if wire.TLV_STREAMS in fields else wire.BOARD_STREAMS
            self.answer = Answer(initiator.handshake, self._sid, fields[wire.TLV_ACCOUNT], offer, streams)
            return

    def give_up(self) -> Failure:
        if not self.tries:
            return Failure(Exit.OFFLINE, f"@{self._name} is offline; check its power and network, then try again")
        return Failure(
            Exit.OFFLINE,
            f"@{self._name} does not answer, although the broker says it is there; it may just have lost its network, or its key is not "
            "the one this computer knows",
        )
