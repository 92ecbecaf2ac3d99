"""The control plane under attack: message 1 tampered with, replayed, withheld, forged. Who refuses is a real agent, at work."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agent_lab import ask, until
from attack_stage import Actor, CountedX25519, Stage, stage, stranger
from hostile import Forger, Said, connect_fields
from tap import Flip
from zts import control, crypto, dial, identity, leg, record, session, wire
from zts.initiator import Initiator
from zts_agent import board
from zts_gateway import client
from zts_gateway.addressbook import Identity

REPLAYS = 10_000
BATCH = 200  # messages sent before the device is waited for


@pytest.fixture(autouse=True)
def no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate limit must not be what helps here."""
    monkeypatch.setattr(control, "Responder", functools.partial(control.Responder, rate=1 << 30, burst=1 << 30))


async def _meet(stage: Stage, actor: Actor) -> bytes:
    """A good session; the message 1 that made it."""
    async with stage.owner.session(actor.device) as session:
        assert await ask(session, "who", b"?") == actor.device.name.encode()
    return stage.broker.to(actor.fp)[-1]


async def _deliver(stage: Stage, actor: Actor, messages: list[bytes]) -> dict[str, int]:
    """The broker delivers messages in the owner's name; how many the device refused more than before, by reason."""
    before = dict(actor.responder.refused)
    start = sum(before.values())
    for at in range(0, len(messages), BATCH):
        batch = messages[at : at + BATCH]
        for message in batch:
            stage.broker.say(stage.inbox(actor), message)
        await until(lambda at=at, batch=batch: sum(actor.responder.refused.values()) >= start + at + len(batch))  # type: ignore[misc]
    now = actor.responder.refused
    return {reason: now[reason] - before.get(reason, 0) for reason in now if now[reason] != before.get(reason, 0)}


def _run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 300))


def _rotate(actor: Actor) -> None:
    actor.responder.rotate(board.clock())


# --- tampered with -----------------------------------------------------------------------------------------------------------


def test_every_flipped_bit_and_length_of_message_1_meets_silence_and_the_message_itself_does_not(tmp_path: Path) -> None:
    held: list[Said] = []

    def hold(said: Said) -> list[tuple[str, bytes]]:
        if len(said.payload) == wire.M1_BYTES:
            held.append(said)
            return []
        return [(said.topic, said.payload)]

    async def test() -> None:
        async with stage(tmp_path, hold) as it, it.actor("sensor") as sensor:
            meeting = asyncio.create_task(_meet(it, sensor))
            await until(lambda: bool(held))
            m1 = held[0].payload
            with CountedX25519() as counted:
                refused = await _deliver(it, sensor, [Flip(bit).take(m1) for bit in range(8 * len(m1))])
                assert sum(refused.values()) == 8 * len(m1) and set(refused) == {"form", "unknown", "mac1"}, refused
                assert await _deliver(it, sensor, [m1[:size] for size in range(len(m1))]) == {"form": len(m1)}
                assert await _deliver(it, sensor, [m1 + b"\0", m1 + bytes(300)]) == {"form": 2}
                # The client may have computed a further try's message 1 meanwhile: the device shares the process with it.
                tries = len(held) - 1
                assert counted.calls <= 4 * tries
            assert not it.broker.to(it.owner.me.fp) and not sensor.visits
            it.broker.mischief = lambda said: [(said.topic, said.payload)]
            it.broker.say(held[0].topic, m1)
            await meeting
            assert sensor.visits == 1

    _run(test)


def test_every_bit_flipped_by_who_has_the_psk_meets_silence(tmp_path: Path) -> None:
    """mac1 is made good again, so that Noise has to refuse it."""

    async def test() -> None:
        async with stage(tmp_path) as it, it.actor("sensor") as sensor:
            epoch = sensor.responder.epoch
            asking = Initiator(wire.PURPOSE_CONNECT, it.owner.me.pair, sensor.device.public, sensor.device.pairing, epoch)
            m1 = asking.message_1(connect_fields(it.owner.account, bytes(16)))
            key = control.make_peer(it.owner.me.public, sensor.device.pairing).mac_key

            def forge(bit: int) -> bytes:
                flipped = Flip(bit).take(m1)
                return flipped[:12] + control.mac1(key, epoch, flipped) + flipped[28:]

            first = 8 * (wire.HEADER_BYTES + wire.MAC_BYTES)
            refused = await _deliver(it, sensor, [forge(bit) for bit in range(first, 8 * len(m1))])
            # X25519 does not read the last bit of e, but the hash of the handshake does.
            assert refused == {"decrypt": 8 * len(m1) - first}
            assert not it.broker.to(it.owner.me.fp) and not sensor.visits
            assert len(it.legs.seen) == 3, "the owner and the device enrolled, the owner asked for a code: nobody dialled a leg"

    _run(test)


def test_every_flipped_bit_and_length_of_message_2_is_no_answer() -> None:
    device, owner = [(key, crypto.x25519_public(key)) for key in (b"d" * 32, b"o" * 32)]
    pairing = b"p" * 32
    account = identity.Account(bytes(32), "127.0.0.1", 1, bytes(8), bytes(32), "", b"", "")
    responder = control.Responder(device, 0)
    call = client._Call(Identity("alice", *owner), account, "sensor", device[1], pairing)
    call.epoch = responder.epoch
    m1 = call.next_message_1()
    peer = control.make_peer(owner[1], pairing)
    accepted = responder.receive_message_1(m1, identity.fingerprint(owner[1]), lambda *_: peer, 0)
    assert accepted
    fields = {wire.TLV_CODE: b"\0", wire.TLV_ACCOUNT: bytes(8), wire.TLV_MAX_RECORD: b"\4\x10", wire.TLV_WINDOW: b"\0\0\x10\0"}
    m2 = control.write_message_2(accepted.handshake, m1, fields)
    for bit in range(8 * len(m2)):
        call._receive_message_2(Flip(bit).take(m2))
        assert call.answer is None, bit
    for size in range(len(m2)):
        call._receive_message_2(m2[:size])
    call._receive_message_2(m2 + b"\0")
    assert call.answer is None
    call._receive_message_2(m2)
    assert call.answer is not None
    assert call.answer.handshake.split() == accepted.handshake.split()


# --- replayed ----------------------------------------------------------------------------------------------------------------


def test_replays_to_an_agent_over_epochs_and_a_restart(tmp_path: Path) -> None:
    async def test() -> None:
        async with stage(tmp_path) as it:
            totals: dict[str, int] = {}

            async def replay(actor: Actor, count: int, reason: str) -> None:
                with CountedX25519() as counted:
                    refused = await _deliver(it, actor, [m1] * count)
                assert refused == {reason: count} and counted.calls == 0, refused
                totals[reason] = totals.get(reason, 0) + count

            async with it.actor("sensor") as sensor:
                m1 = await _meet(it, sensor)
                legs, answers, visits = len(it.legs.seen), len(it.broker.to(it.owner.me.fp)), sensor.visits
                await replay(sensor, REPLAYS // 2, "replay")
                _rotate(sensor)
                await replay(sensor, REPLAYS // 4, "replay")
                _rotate(sensor)
                await replay(sensor, REPLAYS // 8, "mac1")
                assert sensor.visits == visits
            async with it.actor("sensor") as sensor:
                await replay(sensor, REPLAYS // 8, "mac1")
                assert not sensor.visits and not len(sensor.running.agent.sessions)
                assert len(it.legs.seen) == legs and len(it.broker.to(it.owner.me.fp)) == answers
                print(f"{REPLAYS} replays, 0 accepted: {totals}")
                await _meet(it, sensor)

    _run(test)


def test_of_many_messages_each_is_accepted_once_however_often_and_late_it_comes() -> None:
    """The sets of seen ephemerals fill and rotate under way."""
    owner, device = [(key, crypto.x25519_public(key)) for key in (b"o" * 32, b"d" * 32)]
    responder = control.Responder(device, 0)
    peer, sender = control.make_peer(owner[1], bytes(32)), identity.fingerprint(owner[1])
    account = identity.Account(bytes(32), "", 1, bytes(8), bytes(32), "", b"", "")
    old: list[bytes] = []
    epochs = {responder.epoch}
    for count in range(5 * wire.SEEN_EPHEMERALS // 2):
        asking = Initiator(wire.PURPOSE_CONNECT, owner, device[1], bytes(32), responder.epoch)
        m1 = asking.message_1(connect_fields(account, bytes(16)))
        assert responder.receive_message_1(m1, sender, lambda *_: peer, 0), count
        epochs.add(responder.epoch)
        old.append(m1)
        for late in range(REPLAYS // (5 * wire.SEEN_EPHEMERALS // 2)):
            assert responder.receive_message_1(old[(7 * late) % len(old)], sender, lambda *_: peer, 0) is None
    assert len(epochs) == 3 and set(responder.refused) == {"replay", "mac1"}


def test_a_withheld_message_1_dies_with_its_epoch(tmp_path: Path) -> None:
    """The broker keeps it and delivers it when the device has drawn two more epochs; a fresh one is answered."""
    held: list[Said] = []

    def hold(said: Said) -> list[tuple[str, bytes]]:
        if len(said.payload) == wire.M1_BYTES and not held:
            held.append(said)
            return []
        return [(said.topic, said.payload)]

    async def test() -> None:
        async with stage(tmp_path, hold) as it, it.actor("sensor") as sensor:
            meeting = asyncio.create_task(_meet(it, sensor))
            await until(lambda: bool(held))
            _rotate(sensor)
            _rotate(sensor)
            assert await _deliver(it, sensor, [held[0].payload]) == {"mac1": 1}
            await meeting
            assert sensor.visits == 1

    _run(test)


# --- forged ------------------------------------------------------------------------------------------------------------------


def test_a_stolen_device_key_without_the_pairing_secret_is_worth_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with stage(tmp_path) as it, it.actor("sensor") as sensor:
            stolen = sensor.running.store.key_pair()
            legs = len(it.legs.seen)
            for guess in (bytes(32), stolen[0], stolen[1], it.owner.me.public):
                forged = Forger(it.owner.me.public, stolen, guess, sensor.responder.epoch)
                m1 = forged.message_1(connect_fields(it.owner.account, bytes(16)))
                with CountedX25519() as counted:
                    assert await _deliver(it, sensor, [m1]) == {"mac1": 1}
                assert counted.calls == 0
            # An enrolled stranger, in its own name, with the right psk even.
            other = await stranger(it)
            legs += 1
            asking = Initiator(wire.PURPOSE_CONNECT, other.me.pair, sensor.device.public, sensor.device.pairing, sensor.responder.epoch)
            m1 = asking.message_1(connect_fields(other.account, bytes(16)))
            for name, reason in ((other.me.fp, "unknown"), (it.owner.me.fp, "identity")):
                before = sensor.responder.refused.get(reason, 0)
                it.broker.say(control.inbox_topic(sensor.fp, name), m1)
                await until(lambda reason=reason, before=before: sensor.responder.refused.get(reason, 0) == before + 1)  # type: ignore[misc]
            assert not sensor.visits and len(it.legs.seen) == legs and not it.broker.to(it.owner.me.fp)

    _run(test)


@pytest.mark.parametrize("how", ["silence", "junk", "reflection", "guess"])
def test_message_1_forged_with_all_a_device_holds_never_reaches_a_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Key compromise impersonation. Who dumped the device can forge the owner's message 1 to it, and no record after it."""
    monkeypatch.setattr(session.Session.__init__, "__defaults__", (session.Times(1_000, 300, 1_000),))

    async def test() -> None:
        async with stage(tmp_path) as it, it.actor("sensor") as sensor:
            thief, sid = await stranger(it), crypto.random_bytes(wire.SID_BYTES)
            forged = Forger(it.owner.me.public, sensor.running.store.key_pair(), sensor.device.pairing, sensor.responder.epoch)
            it.broker.say(it.inbox(sensor), forged.message_1(connect_fields(thief.account, sid)))
            await until(lambda: bool(it.broker.to(it.owner.me.fp)))
            assert not sensor.responder.refused, "the forgery is good: KCI is a property of the pattern"
            assert forged.read_message_2(it.broker.to(it.owner.me.fp)[0]) is None, "and the answer is for the owner alone"

            mine = leg.encode_header(wire.ROLE_CLIENT, 1, bytes(16))
            device = sensor.running.store.relay()
            assert device
            hello = leg.LegHello(wire.ROLE_CLIENT, 1, sid, thief.account.account, device.account)
            reader, writer = await dial.dial_leg(board, *it.relay.address, hello, thief.account.party_key, mine)
            theirs = await reader.readexactly(wire.LEG_HEADER_BYTES)
            if how == "junk":
                writer.write(bytes([0, 100, 0, 0, 0, 0]) + bytes(100))
            elif how == "reflection":
                writer.write(await reader.readexactly(wire.RECORD_HEAD_BYTES + wire.RECORD_MIN_LEN))
            elif how == "guess":
                # What it can compute of the key schedule: all but se.
                for key in (bytes(32), forged.handshake._symmetric.ck, sensor.device.pairing):
                    records = record.RecordLayer(record.leg_key(key, mine, theirs), wire.ROLE_CLIENT, wire.ROLE_DEVICE, 0xFFFF)
                    writer.write(records.seal(0, b"\1") + records.seal(1, b"\x10who"))
            await writer.drain()
            assert await asyncio.wait_for(reader.read(), 60) is not None  # to the end, which comes
            await dial.close_quietly(writer)
            await until(lambda: not len(sensor.running.agent.sessions))
            assert not sensor.visits
            await _meet(it, sensor)
            assert sensor.visits == 1

    _run(test)


# --- stuck sources ---------------------------------------------------------------------------------------------------------------


def test_a_stuck_clock_refuses_more_and_accepts_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    owner, device = [(key, crypto.x25519_public(key)) for key in (b"o" * 32, b"d" * 32)]
    responder = control.Responder(device, 7)
    peer, sender = control.make_peer(owner[1], bytes(32)), identity.fingerprint(owner[1])
    account = identity.Account(bytes(32), "", 1, bytes(8), bytes(32), "", b"", "")
    accepted = 0
    for _ in range(3 * wire.HANDSHAKE_BURST):
        asking = Initiator(wire.PURPOSE_CONNECT, owner, device[1], bytes(32), responder.epoch)
        m1 = asking.message_1(connect_fields(account, bytes(16)))
        for _ in range(2):
            accepted += responder.receive_message_1(m1, sender, lambda *_: peer, 7) is not None
    burst = wire.HANDSHAKE_BURST
    assert accepted == burst and responder.refused == {"replay": burst, "rate": 4 * burst}
