"""What only the embedded broker does: its limits, its counters, revocation; and junk in bulk."""

import contextlib
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from host import mqtt_tools as mqtt
from host.mqtt_engines import Embedded, Party, log_in
from zts import wire as sizes
from zts_relay.broker import Limits

HELLO = bytes(range(sizes.HELLO_BYTES))


@contextlib.contextmanager
def running(limits: Limits | None = None) -> Iterator[Embedded]:
    with closing(Embedded(limits)) as engine:
        yield engine


def inbox(to: Party, sender: Party) -> str:
    return f"zts/1/{to.fp}/in/{sender.fp}"


def hello(party: Party) -> str:
    return f"zts/1/{party.fp}/hello"


@pytest.mark.parametrize("start", [b"", b"\x10", b"\x10\x40\0\4MQTT", None])
def test_connect_must_come_in_time(start: bytes | None) -> None:
    with running(Limits(connect_s=0.2)) as engine, mqtt.Wire(engine.address) as wire:
        party = engine.party()
        wire.send(mqtt.connect(party.fp, party.password)[:-1] if start is None else start)
        assert wire.read() is None
        assert engine.call(lambda broker: broker.stats.closed) == {"timeout": 1}


def test_a_login_outlives_the_deadline_of_connect() -> None:
    with running(Limits(connect_s=0.5)) as engine, log_in(engine, engine.party()) as wire, mqtt.Wire(engine.address) as silent:
        assert silent.read() is None  # opened later, so the time is over for both
        assert wire.fence() == []


def test_connect_is_bounded_before_its_body() -> None:
    with running() as engine:
        party = engine.party()
        for will_bytes, good in ((800, True), (1000, False)):
            raw = mqtt.connect(party.fp, party.password, will=("x", bytes(will_bytes), False))
            assert (len(raw) <= 1024) == good
            with mqtt.Wire(engine.address) as wire:
                wire.send(raw if good else raw[:3])
                assert wire.read() == ((0x20, b"\0\0") if good else None)


def test_the_authenticator_sees_bounded_well_formed_logins_only() -> None:
    with running() as engine:
        party = engine.party()
        odd: list[tuple[str, bytes]] = [
            (party.fp, bytes(65)),
            (party.fp.upper(), party.password),
            (party.fp + "a", party.password),
            (party.fp[:-1], party.password),
            ("", party.password),
            ("a" * 500, party.password),
            ("../" * 8, party.password),
        ]
        for username, password in odd:
            with mqtt.Wire(engine.address) as wire:
                wire.send(mqtt.connect(username, password))
                assert wire.read() == (0x20, b"\0\5")
                assert wire.read() is None
        assert engine.asked == []
        assert engine.call(lambda broker: broker.stats.auth_failures) == len(odd)


def test_an_authenticator_that_fails_lets_nobody_in() -> None:
    def broken(username: str, password: bytes) -> bool:
        raise RuntimeError("disk")

    engine = Embedded()
    party = engine.party()
    engine.broker.authenticate = broken  # type: ignore[misc]
    with mqtt.Wire(engine.address) as wire:
        wire.send(mqtt.connect(party.fp, party.password))
        assert wire.read() is None
    engine.wait_for(lambda broker: broker.stats.pending == 0)
    with pytest.raises(AssertionError, match="disk"):  # reported to the loop, not swallowed
        engine.close()


def test_too_many_connections() -> None:
    with running(Limits(connections=3)) as engine, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(log_in(engine, engine.party()))
        with mqtt.Wire(engine.address) as wire:
            assert wire.read() is None
        assert engine.call(lambda broker: broker.stats.closed) == {"limit": 1}


@pytest.mark.parametrize("limits", [Limits(pending=3), Limits(pending_per_source=3)])
def test_too_many_silent_sockets(limits: Limits) -> None:
    with running(limits) as engine, ExitStack() as stack:
        party = engine.party()
        for _ in range(5):
            stack.enter_context(log_in(engine, party))  # logged in: pending no longer
        silent = [stack.enter_context(mqtt.Wire(engine.address)) for _ in range(3)]
        engine.wait_for(lambda broker: broker.stats.pending == 3)
        with mqtt.Wire(engine.address) as wire:
            assert wire.read() is None
        silent[0].abandon()
        engine.wait_for(lambda broker: broker.stats.pending == 2)
        log_in(engine, party).abandon()


def test_too_many_connections_of_one_user() -> None:
    with running(Limits(connections_per_username=2)) as engine, ExitStack() as stack:
        party = engine.party()
        first = stack.enter_context(log_in(engine, party, "one"))
        stack.enter_context(log_in(engine, party))
        with mqtt.Wire(engine.address) as wire:
            wire.send(mqtt.connect(party.fp, party.password))
            assert wire.read() == (0x20, b"\0\3")
            assert wire.read() is None
        stack.enter_context(log_in(engine, party, "one"))  # a takeover frees a place first
        assert first.read() is None
        stack.enter_context(log_in(engine, engine.party()))


def test_too_many_subscriptions() -> None:
    with running(Limits(subscriptions=3)) as engine, log_in(engine, party := engine.party()) as wire:
        hellos = [f"zts/1/{mqtt.fingerprint()}/hello" for _ in range(4)]
        assert wire.subscribe(*hellos) == [0, 0, 0, 0x80]
        assert wire.subscribe(hellos[0]) == [0]  # again is not one more
        wire.send(mqtt.unsubscribe(hellos[0], f"zts/1/{party.fp}/in/+"))
        assert wire.read() == (0xB0, b"\0\2")
        assert wire.subscribe(hellos[3]) == [0]


def test_publishing_too_fast() -> None:
    with running(Limits(packets_per_s=0, packet_burst=10)) as engine:
        sender, receiver = engine.party(), engine.party()
        with log_in(engine, sender) as sending, log_in(engine, receiver) as receiving:
            receiving.subscribe(f"zts/1/{receiver.fp}/in/+")
            sending.send(b"".join(mqtt.publish(inbox(receiver, sender), bytes((number,))) for number in range(12)))
            sending.fence()  # answered all the same
            assert [payload for _, payload, _ in receiving.fence()] == [bytes((number,)) for number in range(10)]
            assert engine.call(lambda broker: broker.stats.dropped) == {"rate": 2}


def test_the_rate_comes_back() -> None:
    with running(Limits(packets_per_s=50, packet_burst=1)) as engine, log_in(engine, party := engine.party()) as wire:
        wire.send(mqtt.subscribe(inbox(party, party)) + mqtt.publish(inbox(party, party), b"0"))
        assert wire.read() == (0x90, b"\0\1\0")
        assert wire.fence() == []  # reading paused for five tokens' time
        while True:  # a publish passes as soon as a token is back
            wire.send(mqtt.publish(inbox(party, party), b"1"))
            if wire.fence():
                break


def test_a_flood_is_read_slowly() -> None:
    with running(Limits(packets_per_s=0, packet_burst=1)) as engine, log_in(engine, party := engine.party()) as wire:

        def reading() -> bool:
            return engine.call(lambda broker: next(iter(broker._open))._transport.is_reading())

        assert wire.fence() == [] and reading()
        end = time.monotonic() + mqtt.DEADLINE_S
        while reading():
            assert time.monotonic() < end
            wire.send(mqtt.publish(inbox(party, party), b"x"))
        while not reading():
            assert time.monotonic() < end


def test_forbidden_messages_are_counted() -> None:
    with running() as engine, log_in(engine, party := engine.party(), will=("zts", b"", False)) as wire:
        wire.send(mqtt.publish("zts", b"x") + mqtt.publish(hello(party), b"x", retain=True))
        wire.fence()
        assert engine.call(lambda broker: broker.stats.dropped) == {"forbidden": 3}


def test_a_slow_subscriber_is_bounded() -> None:
    limits = Limits(packets_per_s=1e9, packet_burst=1e9, outgoing_bytes=8192)
    with running(limits) as engine:
        sender, slow = engine.party(), engine.party()
        with log_in(engine, sender) as sending, log_in(engine, slow, receive_buffer=4096) as stuck:
            stuck.subscribe(f"zts/1/{slow.fp}/in/+")
            count = 4000
            for number in range(count):
                sending.send(mqtt.publish(inbox(slow, sender), number.to_bytes(2, "big") * 256))
            sending.fence()
            dropped = engine.call(lambda broker: broker.stats.dropped["slow"])
            got = [int.from_bytes(payload[:2], "big") for _, payload, _ in stuck.fence()]  # reads at last
            assert dropped > 0 and len(got) == count - dropped
            assert got == sorted(set(got))  # in order, none twice


def test_asking_without_taking_answers_ends_the_connection() -> None:
    limits = Limits(packets_per_s=1e9, packet_burst=1e9, outgoing_bytes=4096)
    with running(limits) as engine, log_in(engine, engine.party(), receive_buffer=4096) as wire:
        wire.socket.setblocking(True)
        with contextlib.suppress(ConnectionError):
            for _ in range(100_000):
                wire.socket.sendall(mqtt.PINGREQ * 1000)
        engine.wait_for(lambda broker: broker.stats.connections == 0)
        assert engine.call(lambda broker: broker.stats.closed) == {"slow": 1}


@pytest.mark.parametrize("keepalive", [0, 600])
def test_keep_alive_is_capped(keepalive: int) -> None:
    with running(Limits(keepalive_s=1)) as engine, log_in(engine, engine.party(), keepalive=keepalive) as wire:
        assert wire.read() is None
        assert engine.call(lambda broker: broker.stats.closed) == {"timeout": 1}


def test_revocation() -> None:
    with running() as engine:
        party, other, watcher = engine.party(), engine.party(), engine.party()
        will = (inbox(watcher, party), b"gone", False)
        with (
            log_in(engine, watcher) as watching,
            log_in(engine, other) as bystander,
            log_in(engine, party, "one", will=will) as one,
            log_in(engine, party, will=will) as two,
        ):
            watching.subscribe(hello(party), f"zts/1/{watcher.fp}/in/+")
            two.subscribe(f"zts/1/{party.fp}/in/+")
            one.send(mqtt.publish(hello(party), HELLO, retain=True))
            one.fence()
            del engine.passwords[party.fp]
            engine.call(lambda broker: broker.disconnect(party.fp))
            assert one.read() is two.read() is None
            assert watching.fence() == [(hello(party), HELLO, False), (hello(party), b"", False)]  # and no will
            assert bystander.subscribe(hello(party)) == [0]
            assert bystander.fence() == []
            engine.call(lambda broker: broker.disconnect(party.fp))  # again, and for one never seen: nothing
            engine.call(lambda broker: broker.disconnect(mqtt.fingerprint()))
            assert watching.fence() == []
            assert engine.call(lambda broker: (broker.stats.connections, broker.stats.closed)) == (2, {"revoked": 2})


def test_messages_are_counted() -> None:
    with running() as engine:
        sender, receiver = engine.party(), engine.party()
        with log_in(engine, sender) as sending, log_in(engine, receiver) as one, log_in(engine, receiver) as two:
            for wire in (one, two):
                wire.subscribe(f"zts/1/{receiver.fp}/in/+", inbox(receiver, sender))  # overlapping: one copy each
            sending.send(mqtt.publish(inbox(receiver, sender), b"x"))
            sending.fence()
            assert len(one.fence()) == len(two.fence()) == 1
            stats = engine.call(lambda broker: broker.stats)
            assert (stats.connections, stats.pending, stats.messages_in, stats.messages_out) == (3, 0, 1, 2)


def test_junk_in_bulk() -> None:
    """Mutated packets before and after login: the broker stays, nobody else notices, nothing is left behind."""
    rng = random.Random(3)
    with running(Limits(packets_per_s=1e9, packet_burst=1e9, pending_per_source=1000)) as engine:
        party, bystander = engine.party(), engine.party()
        good = [
            mqtt.connect(party.fp, party.password, "id", will=(hello(party), b"", True)),
            mqtt.subscribe(f"zts/1/{party.fp}/in/+", hello(bystander)),
            mqtt.unsubscribe(f"zts/1/{party.fp}/in/+"),
            mqtt.publish(inbox(party, party), b"x" * 40, packet_id=9),
            mqtt.publish(hello(party), HELLO, retain=True),
            mqtt.PINGREQ,
            mqtt.DISCONNECT,
        ]
        with log_in(engine, bystander) as watching:
            watching.subscribe(f"zts/1/{bystander.fp}/in/+")
            for _ in range(3000):
                stream = bytearray(b"".join([good[0], *rng.choices(good[1:], k=3)] if rng.random() < 0.8 else rng.choices(good, k=3)))
                for _ in range(rng.choice((1, 1, 2, 8))):
                    at = rng.randrange(len(stream))
                    match rng.randrange(4):
                        case 0:
                            stream[at] ^= 1 << rng.randrange(8)
                        case 1:
                            stream[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
                        case 2:
                            stream[at:at] = rng.randbytes(rng.randrange(1, 5))
                        case 3 if len(stream) > 8:
                            del stream[at : at + rng.randrange(1, 5)]
                with mqtt.Wire(engine.address) as wire:
                    wire.send(bytes(stream))
            assert watching.fence() == []
        engine.wait_for(lambda broker: broker.stats.connections == broker.stats.pending == 0)
        assert engine.call(lambda broker: [*broker._subscribers, *broker._by_user, *broker._by_id, *broker._open, *broker._pending]) == []
        assert engine.call(lambda broker: broker.stats.closed["malformed"]) > 300
        assert len(engine.call(lambda broker: broker._retained)) <= 1
