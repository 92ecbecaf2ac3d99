"""A broker that swaps, replays, drops, reorders, repeats and answers in others' names can deny service, and nothing else.

The real client asks two real devices through it. Either it gets a session with the device it asked for, or a failure with an
exit code.
"""

import asyncio
import collections
import gc
import os
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from agent_lab import ask, until
from attack_stage import Actor, CountedX25519, Stage, stage
from hostile import EvilBroker, Mischief, Said, honest
from zts import control, crypto, identity, wire
from zts.errors import StreamReset
from zts_agent import board
from zts_agent.agent import AgentError
from zts_gateway import broker, client
from zts_gateway.addressbook import Identity
from zts_gateway.ui import Exit, Failure
from zts_relay import mqtt_codec as codec

PATIENCE_MS = 2_500  # what a client waits for an answer here
HUNG_S = 90.0
FLOOD = 100  # messages a millisecond, of which a client can read some
Delivery = list[tuple[str, bytes]]


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PATIENCE_MS", PATIENCE_MS)
    monkeypatch.setattr(wire, "RETRY_MS", (300, 600, 1_200))
    monkeypatch.setattr(broker, "PRESENCE_S", 1.0)
    monkeypatch.setattr(broker, "BROKER_S", 3.0)


class Cast:
    """Two devices of one owner, both online."""

    def __init__(self, stage: Stage, a: Actor, b: Actor) -> None:
        self.stage, self.a, self.b = stage, a, b
        self.owner_fp = stage.owner.me.fp

    def plot(self, mischief: Mischief) -> None:
        self.stage.broker.mischief = mischief

    async def call(self, actor: Actor) -> bytes | Failure:
        """What the device's service answers, or why there was no session."""
        owner, device = self.stage.owner, actor.device
        try:
            meeting = await client.meet(owner.me, owner.account, device.name, device.public, device.pairing, 400, lambda _: None)
        except Failure as failure:
            return failure
        try:
            return await ask(meeting.link, "who", b"?")
        except StreamReset as reset:
            return Failure(Exit.LOST, str(reset))
        finally:
            await meeting.close()

    async def fails(self, actor: Actor, code: Exit = Exit.OFFLINE) -> None:
        visits = self.a.visits + self.b.visits
        got = await asyncio.wait_for(self.call(actor), HUNG_S)
        assert isinstance(got, Failure) and got.code == code, got
        assert self.a.visits + self.b.visits == visits, "a service was reached"

    async def works(self, actor: Actor) -> None:
        got = await asyncio.wait_for(self.call(actor), HUNG_S)
        assert got == actor.device.name.encode(), got

    def is_m1(self, said: Said) -> bool:
        return said.sender == self.owner_fp and len(said.payload) == wire.M1_BYTES

    def is_m2(self, said: Said) -> bool:
        return len(said.payload) == wire.M2_BYTES


def _run(folder: Path, *plots: Callable[[Cast], Coroutine[Any, Any, None]]) -> None:
    """Each plot on a stage of its own, all at once."""

    async def play(at: int, plot: Callable[[Cast], Coroutine[Any, Any, None]]) -> None:
        async with AsyncExitStack() as stack:
            it = await stack.enter_async_context(stage(folder / f"{at}-{plot.__name__}"))
            cast = Cast(it, await stack.enter_async_context(it.actor("aaa")), await stack.enter_async_context(it.actor("bbb")))
            await plot(cast)
            for actor in (cast.a, cast.b):
                assert not actor.running.task.done()

    async def all_of_them() -> None:
        await asyncio.gather(*(play(at, plot) for at, plot in enumerate(plots)))

    asyncio.run(all_of_them())


# --- what denies service -----------------------------------------------------------------------------------------------------


async def swaps_hellos(cast: Cast) -> None:
    """Each device's hello comes as the other's."""
    hellos = {control.hello_topic(x.fp): control.encode_hello(y.responder.epoch) for x, y in ((cast.a, cast.b), (cast.b, cast.a))}
    cast.stage.broker.retained.update(hellos)
    await cast.fails(cast.a)
    assert cast.a.responder.refused == {"mac1": len(cast.stage.broker.to(cast.a.fp))} and not cast.b.responder.refused


async def says_an_old_hello(cast: Cast) -> None:
    old = cast.stage.broker.retained[control.hello_topic(cast.a.fp)]
    for _ in range(2):
        cast.a.responder.rotate(board.clock())
    cast.plot(lambda said: honest(said) if not said.retain else [])
    cast.stage.broker.retained[control.hello_topic(cast.a.fp)] = old
    await cast.fails(cast.a)
    assert set(cast.a.responder.refused) == {"mac1"}


async def makes_up_hellos(cast: Cast) -> None:
    cast.stage.broker.retained[control.hello_topic(cast.a.fp)] = control.encode_hello(os.urandom(16), 0xFFFFFFFF)
    await cast.fails(cast.a)
    for junk in (b"", b"\1", bytes(21), b"\2" + bytes(20), bytes(22), bytes(5_000)):
        cast.stage.broker.retained[control.hello_topic(cast.b.fp)] = junk
        await cast.fails(cast.b)
    assert not cast.b.responder.refused


async def sends_message_1_to_another(cast: Cast) -> None:
    def redirect(said: Said) -> Delivery:
        return [(cast.stage.inbox(cast.b), said.payload)] if cast.is_m1(said) else honest(said)

    cast.plot(redirect)
    await cast.fails(cast.a)
    assert set(cast.b.responder.refused) == {"mac1"} and not cast.a.responder.refused


async def answers_in_anothers_name(cast: Cast) -> None:
    """Message 1 for @aaa is held, what @bbb answers to one of its own comes as @aaa's answer."""
    recorded: list[bytes] = []

    def listen(said: Said) -> Delivery:
        if cast.is_m2(said):
            recorded.append(said.payload)
        return honest(said)

    cast.plot(listen)
    await cast.works(cast.b)

    def impersonate(said: Said) -> Delivery:
        if not cast.is_m1(said):
            return honest(said)
        own = bytes([wire.VERSION, wire.TYPE_M2, 0, 0]) + crypto.sha256(said.payload)[:8]
        inbox = control.inbox_topic(cast.owner_fp, cast.a.fp)
        # As it was; under the right header; made up; the question itself; too short; none.
        answers = (recorded[0], own + recorded[0][12:], own + os.urandom(244), said.payload, own, b"")
        return [(inbox, answer) for answer in answers]

    cast.plot(impersonate)
    await cast.fails(cast.a)


async def answers_with_an_old_answer(cast: Cast) -> None:
    recorded: list[bytes] = []

    def listen(said: Said) -> Delivery:
        if cast.is_m2(said):
            recorded.append(said.payload)
        return honest(said)

    cast.plot(listen)
    await cast.works(cast.a)
    cast.plot(lambda said: [(control.inbox_topic(cast.owner_fp, cast.a.fp), recorded[0])] if cast.is_m1(said) else honest(said))
    await cast.fails(cast.a)


async def drops_questions(cast: Cast) -> None:
    cast.plot(lambda said: [] if cast.is_m1(said) else honest(said))
    await cast.fails(cast.a)


async def drops_answers(cast: Cast) -> None:
    cast.plot(lambda said: [] if cast.is_m2(said) else honest(said))
    await cast.fails(cast.a)


async def drops_hellos(cast: Cast) -> None:
    cast.stage.broker.retained.clear()
    await cast.fails(cast.a)
    assert not cast.stage.broker.to(cast.a.fp)


def test_what_a_broker_can_deny(tmp_path: Path) -> None:
    _run(
        tmp_path,
        swaps_hellos,
        says_an_old_hello,
        makes_up_hellos,
        sends_message_1_to_another,
        answers_in_anothers_name,
        answers_with_an_old_answer,
        drops_questions,
        drops_answers,
        drops_hellos,
    )


# --- what does not even deny it ------------------------------------------------------------------------------------------------


async def repeats_everything(cast: Cast) -> None:
    cast.plot(lambda said: honest(said) * 3)
    await cast.works(cast.a)
    assert cast.a.visits == 1
    await until(lambda: cast.a.responder.refused == {"replay": 2})  # what is refused waits while a session runs


async def drops_the_first_of_each(cast: Cast) -> None:
    dropped: set[bool] = set()

    def drop(said: Said) -> Delivery:
        if (cast.is_m1(said) or cast.is_m2(said)) and cast.is_m1(said) not in dropped:
            dropped.add(cast.is_m1(said))
            return []
        return honest(said)

    cast.plot(drop)
    await cast.works(cast.a)
    assert cast.a.visits == 1


async def reorders(cast: Cast) -> None:
    """The second message 1 comes before the first."""
    held: list[tuple[str, bytes]] = []

    def hold(said: Said) -> Delivery:
        if not cast.is_m1(said):
            return honest(said)
        held.extend(honest(said))
        if len(held) < 2:
            return []
        out = held[::-1]
        held.clear()
        return out

    cast.plot(hold)
    await cast.works(cast.a)
    assert cast.a.visits == 1 and not cast.a.responder.refused


async def adds_noise(cast: Cast) -> None:
    """Foreign topics, wildcards' worth of junk, answers of nobody, between good messages."""

    def noise(said: Said) -> Delivery:
        junk = [
            ("zts/1", b""),
            ("$SYS/broker", b"x"),
            (control.inbox_topic(cast.owner_fp, cast.b.fp), os.urandom(256)),
            (control.inbox_topic(cast.owner_fp, cast.a.fp), os.urandom(256)),
            (control.inbox_topic(cast.a.fp, cast.owner_fp), os.urandom(512)),
            (f"zts/1/{cast.a.fp}/in/{'A' * 24}", os.urandom(512)),
            (control.hello_topic(cast.b.fp), bytes([wire.VERSION + 1]) + os.urandom(20)),
        ]
        return [*junk, *honest(said), *junk] if not said.retain else honest(said)

    cast.plot(noise)
    await cast.works(cast.a)
    assert set(cast.a.responder.refused) <= {"form", "unknown"}


def test_what_a_client_gets_over(tmp_path: Path) -> None:
    _run(tmp_path, repeats_everything, drops_the_first_of_each, reorders, adds_noise)


# --- floods ----------------------------------------------------------------------------------------------------------------------


async def floods_with_hellos(cast: Cast) -> None:
    """Each names a new epoch. A question an epoch would have the client compute for as long as the broker likes."""

    async def flood() -> None:
        while True:
            for _ in range(100):
                hello = codec.publish(control.hello_topic(cast.a.fp), control.encode_hello(os.urandom(16)), False)
                cast.stage.broker.send_raw(cast.owner_fp, hello)
            await asyncio.sleep(0.01)

    cast.stage.broker.retained[control.hello_topic(cast.a.fp)] = control.encode_hello(os.urandom(16))
    flooding = asyncio.create_task(flood())
    try:
        with CountedX25519() as counted:
            await cast.fails(cast.a)
        asked = len(cast.stage.broker.to(cast.a.fp))
        print(f"flood of hellos: {asked} questions, {counted.calls} X25519 operations of both ends in {PATIENCE_MS} ms")
        assert asked <= 20
    finally:
        flooding.cancel()


async def floods_the_asker(cast: Cast) -> None:
    """Messages that never end, from the login on."""
    packet = b"\x30\x07\x00\x05zts/1" * FLOOD

    async def flood() -> None:
        while True:
            cast.stage.broker.send_raw(cast.owner_fp, packet)
            await asyncio.sleep(0.001)

    flooding = asyncio.create_task(flood())
    try:
        got = await asyncio.wait_for(cast.call(cast.a), HUNG_S)
        assert not isinstance(got, Failure) or got.code in (Exit.OFFLINE, Exit.UNREACHABLE), got
        owner = cast.stage.owner
        try:
            await asyncio.wait_for(broker.present(owner.me, owner.account, [cast.a.fp]), HUNG_S)
        except Failure as failure:
            assert failure.code == Exit.UNREACHABLE
    finally:
        flooding.cancel()


def test_a_hello_that_a_device_did_not_say_ends_its_agent_and_no_other(tmp_path: Path) -> None:
    """To an agent this is another agent with its identity: an honest broker lets nobody else say its hello."""

    async def test() -> None:
        async with stage(tmp_path / "stage") as it, it.actor("aaa") as a, it.actor("bbb") as b:
            it.broker.say(control.hello_topic(b.fp), control.encode_hello(os.urandom(16)))
            await until(b.running.task.done)
            error = b.running.task.exception()
            assert isinstance(error, AgentError) and error.exit_code == Exit.DUPLICATE
            await Cast(it, a, b).works(a)

    asyncio.run(test())


def test_a_flood_of_hellos(tmp_path: Path) -> None:
    _run(tmp_path, floods_with_hellos)


def test_a_flood_of_messages(tmp_path: Path) -> None:
    _run(tmp_path, floods_the_asker)


# --- a broker that speaks no MQTT ------------------------------------------------------------------------------------------------

_NAME = b"\x00\x05zts/1"
MALFORMED = {
    "type 0": b"\x00\x00",
    "no topic": b"\x30\x00",
    "half a length": b"\x30\x01\x00",
    "topic beyond the packet": b"\x30\x04\xff\xffab",
    "not UTF-8": b"\x30\x04\x00\x02\xff\xfe",
    "an endless length": b"\x30\xff\xff\xff\xff\xff\xff",
    "a length of a quarter of a GiB": b"\x30\xff\xff\xff\x7f" + _NAME,
    "QoS 3": b"\x36\x09" + _NAME + b"\x00\x01",
    "QoS 2 without an id": b"\x34\x07" + _NAME,
    "SUBACK of nothing": b"\x90\x00",
    "SUBACK of another": b"\x90\x03\xff\xff\x00",
    "UNSUBACK cut": b"\xb0\x01\x00",
    "CONNACK again": b"\x20\x02\x00\x00",
    "CONNACK cut": b"\x20\x00",
    "PUBREL": b"\x62\x02\x00\x01",
    "a client's CONNECT": b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00",
    "random": bytes(range(256)),
}


def _breaches() -> list[dict[int, bytes | None]]:
    """Junk in the place of each answer and behind it, and no answer."""
    plans: list[dict[int, bytes | None]] = [{answer: junk} for junk in MALFORMED.values() for answer in (0x20, 0x90, 0xB0)]
    plans += [{0x90: codec.suback(1, [0] * count) + junk} for junk in MALFORMED.values() for count in (1, 2)]
    plans += [{answer: said} for answer in (0x20, 0x90, 0xB0) for said in (None, b"")]
    plans += [{0x20: codec.connack(code)} for code in (1, 3, 6, 255)]
    plans.append({0x90: codec.suback(1, [0x80, 0x80])})
    return plans


def test_a_broker_that_breaks_mqtt_is_told_as_unreachable_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "BROKER_S", 1.0)
    pair = (b"a" * 32, crypto.x25519_public(b"a" * 32))
    device = crypto.x25519_public(b"d" * 32)
    left: list[dict[str, Any]] = []
    codes: collections.Counter[int] = collections.Counter()

    async def ask(plan: dict[int, bytes | None], question: Callable[[Identity, identity.Account], Coroutine[Any, Any, Any]]) -> None:
        async with EvilBroker() as evil:
            evil.answers = plan
            account = identity.Account(bytes(32), "127.0.0.1", 1, bytes(8), bytes(32), "password", b"", evil.url)
            try:
                await asyncio.wait_for(question(Identity("alice", *pair), account), HUNG_S)
                codes[Exit.OK] += 1
            except Failure as failure:
                codes[failure.code] += 1
                assert failure.code in (Exit.UNREACHABLE, Exit.OFFLINE, Exit.DENIED), (plan, failure)

    async def all_of_them() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: left.append(context))
        questions = (
            lambda me, account: broker.present(me, account, [identity.fingerprint_text(device)]),
            lambda me, account: client.meet(me, account, "sensor", device, bytes(32), 300, lambda _: None),
        )
        await asyncio.gather(*(ask(plan, question) for plan in _breaches() for question in questions))
        gc.collect()

    asyncio.run(all_of_them())
    gc.collect()
    assert not left, left
    print(f"{codes.total()} connections to brokers that break MQTT, exit codes { {int(code): codes[code] for code in sorted(codes)} }")
