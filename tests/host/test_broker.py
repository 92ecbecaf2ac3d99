"""The broker from outside. Every test runs against the embedded broker and, as the oracle, against a real mosquitto.

Where mosquitto 2.0 falls short of what we want, the test says so with `lacks`; the embedded broker never does.
"""

import contextlib
import os
import queue
import random
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from fuzz.feed import mutate
from host import mqtt_tools as mqtt
from host.mqtt_engines import MOSQUITTO, Embedded, Engine, Mosquitto, Party, log_in
from zts import wire as sizes
from zts.errors import RemoteError
from zts_relay import mqtt_codec as codec
from zts_relay.broker import Limits

HELLO = bytes(range(sizes.HELLO_BYTES))
REFUSED = (0x20, b"\0\5")
PACKETS = int(os.environ.get("ZTS_MUTATIONS", "100000"))
MEMORY_SLACK = 4 << 20  # bytes: this process holds the test as well


@pytest.fixture(scope="module", params=["embedded", "mosquitto"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    running: Engine
    if request.param == "embedded":
        running = Embedded(Limits(packets_per_s=1e9, packet_burst=1e9))  # rates: test_broker_limits.py
    elif MOSQUITTO:
        running = Mosquitto(tmp_path_factory.mktemp("mosquitto") / "state")
    else:
        pytest.skip("mosquitto is not installed")
    with closing(running):
        yield running


def lacks(engine: Engine, what: str) -> None:
    if engine.name == "mosquitto":
        pytest.skip(f"mosquitto {what}")


def inbox(to: str, sender: str) -> str:
    return f"zts/1/{to}/in/{sender}"


def hello(fp: str) -> str:
    return f"zts/1/{fp}/hello"


# --- logging in ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["wrong password", "empty password", "no password", "no login", "unknown user", "long password"])
def test_a_bad_login_has_no_effect_at_all(engine: Engine, fault: str) -> None:
    victim, watcher = engine.party(), engine.party()
    wrong = bytes((victim.password[0] ^ 1,)) + victim.password[1:]
    username, password = {
        "wrong password": (victim.fp, wrong),
        "empty password": (victim.fp, b""),
        "no password": (victim.fp, None),
        "no login": (None, None),
        "unknown user": (mqtt.fingerprint(), victim.password),
        "long password": (victim.fp, victim.password * 20),
    }[fault]
    with log_in(engine, victim, "the-id") as living, log_in(engine, watcher) as watching, mqtt.Wire(engine.address) as bad:
        living.send(mqtt.publish(hello(victim.fp), HELLO, retain=True))
        living.fence()
        watching.subscribe(hello(victim.fp))
        assert watching.fence() == [(hello(victim.fp), HELLO, True)]
        bad.send(
            mqtt.connect(username, password, "the-id", keepalive=1, will=(hello(victim.fp), b"", True))
            + mqtt.subscribe(inbox(victim.fp, "+"))
            + mqtt.publish(hello(victim.fp), b"", retain=True)
        )
        assert bad.read() in (REFUSED, None)
        assert bad.read() is None
        assert living.fence() == []
        assert watching.fence() == []


@pytest.mark.parametrize(
    "first",
    [
        mqtt.PINGREQ,
        mqtt.DISCONNECT,
        mqtt.subscribe("#"),
        mqtt.publish("zts/1/x", b""),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00" * 20,
        b"\xff" * 20,
        b"\x10\xff\xff\xff\xff\x7f",  # a length of five bytes
        b"\x10\x80\x80\x80\x80\x01",
        b"\x10\xff\xff\x7f",  # 2 MiB to come
        mqtt.packet(0x11, mqtt.text("MQTT") + b"\x04\x02\0\0\0\0"),
        mqtt.packet(0x10, mqtt.text("MQTX") + b"\x04\x02\0\0\0\0"),
        mqtt.packet(0x10, mqtt.text("MQTT") + b"\x04\x03\0\0\0\0"),  # reserved flag
        mqtt.packet(0x10, mqtt.text("MQTT") + b"\x04\x42\0\0\0\0\0\0"),  # password without user name
        mqtt.packet(0x10, mqtt.text("MQTT") + b"\x04\x1e\0\0\0\0\0\0\0\0"),  # will with QoS 3
        mqtt.packet(0x10, mqtt.text("MQTT") + b"\x04\x22\0\0\0\0"),  # retain without will
        mqtt.packet(0x10, mqtt.text("MQTT") + b"\x04\x02\0\0\0\x09"),  # client id longer than the packet
        mqtt.packet(0x10, mqtt.text("MQTT") + b"\x04\x02\0\0" + mqtt.text(b"\xc3\x28")),
        mqtt.packet(0x10, mqtt.text("MQTT") + b"\x04\x02\0\0" + mqtt.text("a\0b")),
        mqtt.packet(0x10, mqtt.text("MQTT") + b"\x04\x06\0\0" + mqtt.text("a") + mqtt.text("a/#") + mqtt.text("")),
        mqtt.packet(0x10, b""),
    ],
    ids=lambda first: first[:24].hex(),
)
def test_whatever_is_not_a_good_connect_ends_the_connection(engine: Engine, first: bytes) -> None:
    with mqtt.Wire(engine.address) as wire:
        wire.send(first)
        assert wire.read() is None or engine.name == "mosquitto"  # mosquitto may say CONNACK 1, 2 or 5
        while wire.read() is not None:
            pass


@pytest.mark.parametrize("level", [0, 3, 5])
def test_other_protocol_levels_get_no_service(engine: Engine, level: int) -> None:
    if level != 0:
        lacks(engine, "speaks 3.1 and 5 too")
    party = engine.party()
    with mqtt.Wire(engine.address) as wire:
        wire.send(mqtt.connect(party.fp, party.password, level=level))
        assert wire.read() in (None, (0x20, b"\0\1"))
        assert wire.read() is None


def test_connect_split_into_bytes_and_all_in_one(engine: Engine) -> None:
    party = engine.party()
    start = mqtt.connect(party.fp, party.password) + mqtt.subscribe(inbox(party.fp, "+")) + mqtt.publish(inbox(party.fp, party.fp), b"x")
    for parts in ([start], [bytes((byte,)) for byte in start]):
        with mqtt.Wire(engine.address) as wire:
            for part in parts:
                wire.send(part)
            assert wire.read() == (0x20, b"\0\0")
            assert wire.read() == (0x90, b"\0\1\0")
            assert mqtt.message(wire.read()) == (inbox(party.fp, party.fp), b"x", False)


def test_client_ids(engine: Engine) -> None:
    party = engine.party()
    with log_in(engine, party) as one, log_in(engine, party) as two:  # empty ids: each its own
        assert one.fence() == two.fence() == []
    with log_in(engine, party, "kept", clean=False) as wire:
        wire.subscribe(inbox(party.fp, "+"))
    with mqtt.Wire(engine.address) as wire:
        wire.send(mqtt.connect(party.fp, party.password, clean=False))
        assert wire.read() == (0x20, b"\0\2")
        assert wire.read() is None
    lacks(engine, "keeps sessions")
    with log_in(engine, party, "kept", clean=False) as wire:  # asserts session present = 0
        wire.send(mqtt.publish(inbox(party.fp, party.fp), b"x"))
        assert wire.fence() == []


def test_a_second_connect_ends_the_connection_and_sends_the_will(engine: Engine) -> None:
    party, watcher = engine.party(), engine.party()
    with log_in(engine, watcher) as watching, log_in(engine, party, will=(inbox(watcher.fp, party.fp), b"gone", False)) as wire:
        watching.subscribe(inbox(watcher.fp, "+"))
        wire.send(mqtt.connect(party.fp, party.password))
        assert wire.read() is None
        lacks(engine, "forgets the will at a second CONNECT")
        assert mqtt.message(watching.read()) == (inbox(watcher.fp, party.fp), b"gone", False)


# --- takeover --------------------------------------------------------------------------------------------------------


def test_takeover_sends_the_will_first(engine: Engine) -> None:
    party, watcher = engine.party(), engine.party()
    with log_in(engine, watcher) as watching:
        watching.subscribe(hello(party.fp))
        with log_in(engine, party, "same", will=(hello(party.fp), b"", True)) as older:
            older.subscribe(inbox(party.fp, "+"))
            with log_in(engine, party, "same") as newer:
                newer.send(mqtt.publish(hello(party.fp), HELLO, retain=True))
                newer.fence()
                assert older.read() is None
                assert watching.fence() == [(hello(party.fp), b"", False), (hello(party.fp), HELLO, False)]
                newer.send(mqtt.publish(inbox(party.fp, party.fp), b"x"))
                assert newer.fence() == []  # the older one's subscription is gone


def test_another_user_cannot_take_over(engine: Engine) -> None:
    lacks(engine, "has one namespace of client ids for all users; ours are unguessable")
    party, other = engine.party(), engine.party()
    with log_in(engine, party, "same") as older, log_in(engine, other, "same") as newer:
        assert older.fence() == newer.fence() == []


# --- what a party may do ---------------------------------------------------------------------------------------------


def test_messages_reach_the_inbox(engine: Engine) -> None:
    sender, receiver = engine.party(), engine.party()
    topic = inbox(receiver.fp, sender.fp)
    with log_in(engine, sender) as sending, log_in(engine, receiver) as all_of_it, log_in(engine, receiver) as exact:
        assert all_of_it.subscribe(inbox(receiver.fp, "+")) == [0]
        assert exact.subscribe(topic, inbox(receiver.fp, mqtt.fingerprint())) == [0, 0]
        payloads = [b"", b"\0" * sizes.M1_BYTES, bytes(range(256))]
        for payload in payloads:
            sending.send(mqtt.publish(topic, payload))
        sending.send(mqtt.publish(topic, b"with QoS 1", packet_id=513))
        assert sending.read() == (0x40, b"\2\1")
        for wire in (all_of_it, exact):
            assert wire.fence() == [(topic, payload, False) for payload in [*payloads, b"with QoS 1"]]
        exact.send(mqtt.unsubscribe(topic))
        assert exact.read() == (0xB0, b"\0\2")
        sending.send(mqtt.publish(topic, b"late"))
        sending.fence()
        assert exact.fence() == []
        assert all_of_it.fence() == [(topic, b"late", False)]


def test_a_party_writes_only_in_its_own_name(engine: Engine) -> None:
    party, victim, other = engine.party(), engine.party(), engine.party()
    with log_in(engine, victim) as receiving, log_in(engine, party) as sending:
        receiving.subscribe(inbox(victim.fp, "+"), hello(victim.fp), hello(party.fp))
        for topic in (
            inbox(victim.fp, other.fp),
            inbox(victim.fp, victim.fp),
            inbox(victim.fp, party.fp) + "/x",
            inbox(victim.fp, party.fp.upper()),
            "/" + inbox(victim.fp, party.fp),
        ):
            for packet_id in (0, 7):
                sending.send(mqtt.publish(topic, b"forged", packet_id=packet_id))
                assert not packet_id or sending.read() == (0x40, b"\0\7")  # acknowledged all the same: no oracle
        sending.send(mqtt.publish(hello(victim.fp), HELLO, retain=True))
        sending.send(mqtt.publish(hello(victim.fp), b"", retain=True))
        sending.send(mqtt.publish(inbox(victim.fp, party.fp), b"own name"))
        sending.fence()
        assert receiving.fence() == [(inbox(victim.fp, party.fp), b"own name", False)]


def test_a_long_message_does_not_pass(engine: Engine) -> None:
    sender, receiver = engine.party(), engine.party()
    with log_in(engine, sender) as sending, log_in(engine, receiver) as receiving:
        receiving.subscribe(inbox(receiver.fp, "+"), hello(sender.fp))
        sending.send(mqtt.publish(inbox(receiver.fp, sender.fp), bytes(sizes.M1_BYTES + 1)))
        sending.send(mqtt.publish(hello(sender.fp), bytes(sizes.M1_BYTES + 1), retain=True))
        sending.fence()
        assert receiving.fence() == []


def test_a_party_reads_only_its_own_inbox(engine: Engine) -> None:
    party, victim, sender = engine.party(), engine.party(), engine.party()
    forbidden = [
        "#",
        "+/+/+/+/+",
        "zts/#",
        "zts/1/+/in/+",
        "zts/1/+/#",
        inbox(victim.fp, "+"),
        inbox(victim.fp, party.fp),
        inbox(victim.fp, sender.fp),
        f"zts/1/{victim.fp}/#",
        f"zts/1/{victim.fp}/in/#",
        f"zts/+/{victim.fp}/in/+",
        "$SYS/#",
        "$share/g/" + inbox(victim.fp, "+"),
    ]
    with log_in(engine, party) as listening, log_in(engine, sender) as sending, log_in(engine, victim) as receiving:
        codes = listening.subscribe(*forbidden)
        if engine.name == "embedded":  # mosquitto grants them, and then delivers nothing
            assert codes == [0x80] * len(forbidden)
        receiving.subscribe(inbox(victim.fp, "+"))
        sending.send(mqtt.publish(inbox(victim.fp, sender.fp), b"private"))
        sending.fence()
        assert [payload for _, payload, _ in receiving.fence()] == [b"private"]
        heard = listening.fence()  # mosquitto sends hellos, see the next test
        assert [topic for topic, _, _ in heard if not topic.endswith("/hello")] == []


def test_hellos_are_found_by_exact_name_only(engine: Engine) -> None:
    lacks(engine, "checks at delivery, not at SUBSCRIBE, so a wildcard finds hellos")
    party, other = engine.party(), engine.party()
    with log_in(engine, party) as listening, log_in(engine, other) as sending:
        sending.send(mqtt.publish(hello(other.fp), HELLO, retain=True))
        sending.fence()
        filters = ["zts/1/+/hello", "zts/1/#", f"zts/1/{other.fp}/+", f"zts/1/{other.fp}/#", "zts/+/+/hello", hello(other.fp) + "/#"]
        assert listening.subscribe(*filters) == [0x80] * len(filters)
        assert listening.fence() == []


# --- hellos and wills --------------------------------------------------------------------------------------------------


def test_retained_hello(engine: Engine) -> None:
    party, early, late = engine.party(), engine.party(), engine.party()
    topic, second = hello(party.fp), HELLO[::-1]
    with log_in(engine, party) as device, log_in(engine, early) as before, log_in(engine, late) as after:
        assert before.subscribe(topic) == [0]
        for payload in (HELLO, second):
            device.send(mqtt.publish(topic, payload, retain=True))
        device.fence()
        assert before.fence() == [(topic, HELLO, False), (topic, second, False)]
        assert after.subscribe(topic) == [0]
        assert after.fence() == [(topic, second, True)]
        device.send(mqtt.publish(topic, b"", retain=True))
        device.fence()
        assert before.fence() == after.fence() == [(topic, b"", False)]
        assert after.subscribe(topic) == [0]
        assert after.fence() == []


def test_nothing_but_a_hello_is_retained(engine: Engine) -> None:
    lacks(engine, "cannot look into payloads or at the retain flag")
    party, other = engine.party(), engine.party()
    with log_in(engine, party) as sending, log_in(engine, other) as receiving:
        receiving.subscribe(inbox(other.fp, "+"), hello(party.fp))
        for payload in (HELLO[:-1], HELLO + b"\0", b"x"):
            sending.send(mqtt.publish(hello(party.fp), payload, retain=True))
        sending.send(mqtt.publish(hello(party.fp), HELLO))
        sending.send(mqtt.publish(inbox(other.fp, party.fp), b"kept?", retain=True))
        sending.send(mqtt.publish(inbox(other.fp, party.fp), b"", retain=True))
        sending.fence()
        assert receiving.fence() == []
        receiving.subscribe(inbox(other.fp, "+"), hello(party.fp))
        assert receiving.fence() == []


def test_will_after_an_abrupt_end_and_none_after_disconnect(engine: Engine) -> None:
    party, watcher = engine.party(), engine.party()
    topic = hello(party.fp)
    with log_in(engine, watcher) as watching:
        watching.subscribe(topic)
        for bye in (True, False):
            device = log_in(engine, party, will=(topic, b"", True))
            device.send(mqtt.publish(topic, HELLO, retain=True))
            device.fence()
            assert mqtt.message(watching.read()) == (topic, HELLO, False)
            if bye:
                device.send(mqtt.DISCONNECT)
                assert device.read() is None
                assert watching.fence() == []
            device.abandon()
        assert mqtt.message(watching.read()) == (topic, b"", False)


def test_a_forged_will_is_not_sent(engine: Engine) -> None:
    party, victim = engine.party(), engine.party()
    with log_in(engine, victim) as watching:
        watching.send(mqtt.publish(hello(victim.fp), HELLO, retain=True))
        watching.subscribe(inbox(victim.fp, "+"), hello(victim.fp))
        assert watching.fence() == [(hello(victim.fp), HELLO, True)]
        for will in ((hello(victim.fp), b"", True), (inbox(victim.fp, victim.fp), b"forged", False), ("zts", b"", False)):
            with log_in(engine, party, "same", will=will), log_in(engine, party, "same"):
                assert watching.fence() == []  # the takeover would have sent it


def test_keep_alive_is_enforced(engine: Engine) -> None:
    party, watcher = engine.party(), engine.party()
    with log_in(engine, watcher) as watching, log_in(engine, party, keepalive=1, will=(hello(party.fp), b"", True)) as device:
        watching.subscribe(hello(party.fp))
        assert device.fence() == []
        device.send(mqtt.PINGREQ[:1])  # half a packet is no sign of life
        assert device.read() is None
        assert mqtt.message(watching.read()) == (hello(party.fp), b"", False)


def test_a_sign_of_life_keeps_the_connection(engine: Engine) -> None:
    with log_in(engine, engine.party(), keepalive=1) as device:
        start = time.monotonic()
        while time.monotonic() < start + 2:  # one and a half times the keep-alive, and more
            assert device.fence() == []
            time.sleep(0.05)


# --- breaches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "breach",
    [
        mqtt.subscribe("a").replace(b"\x82", b"\x80", 1),
        mqtt.unsubscribe("a").replace(b"\xa2", b"\xa0", 1),
        b"\xc1\x00",
        b"\xe1\x00",
        mqtt.packet(0x36, mqtt.text("a") + b"\0\1"),  # QoS 3
        mqtt.packet(0x32, mqtt.text("a") + b"\0\0"),  # packet id 0
        mqtt.packet(0x32, mqtt.text("a") + b"\0"),
        mqtt.packet(0x38, mqtt.text("a")),  # DUP without QoS
        mqtt.packet(0x30, b"\0"),
        mqtt.packet(0x30, b"\0\5abc"),
        mqtt.publish("", b"x"),
        mqtt.publish("zts/+/x", b"x"),
        mqtt.publish("zts/#", b"x"),
        mqtt.packet(0x30, mqtt.text(b"zts/\xff")),
        mqtt.packet(0x30, mqtt.text(b"zts/\xed\xa0\x80")),  # a surrogate
        mqtt.packet(0x30, mqtt.text(b"zts/\0")),
        mqtt.packet(0x82, b"\0\1"),
        mqtt.packet(0x82, b"\0\0" + mqtt.text("a") + b"\0"),
        mqtt.packet(0x82, b"\0\1" + mqtt.text("a") + b"\3"),
        mqtt.packet(0x82, b"\0\1" + mqtt.text("a")),
        mqtt.packet(0x82, b"\0\1" + mqtt.text("") + b"\0"),
        mqtt.packet(0x82, b"\0\1" + mqtt.text(b"\xff") + b"\0"),
        mqtt.packet(0xA2, b"\0\1"),
        mqtt.packet(0xA2, b"\0\1" + mqtt.text("a") + b"\0"),
        b"\x00\x00",
        b"\xf0\x00",
        b"\x20\x02\x00\x00",  # CONNACK
        b"\xd0\x00",  # PINGRESP
        b"\x30\x80\x80\x80\x80\x01",  # a length of five bytes
        b"\x30\xb8\x17",  # 3000 bytes to come
        b"\x30\xff\xff\xff\x7f",  # 256 MiB to come
    ],
    ids=lambda breach: breach[:24].hex(),
)
def test_a_breach_ends_the_connection_at_once(engine: Engine, breach: bytes) -> None:
    party = engine.party()
    if breach[0] in (0xC1, 0xD0, 0x38):
        lacks(engine, "does not check these flags, and takes PINGRESP from a client")
    with log_in(engine, party) as wire:
        wire.send(breach)
        assert wire.read() is None


def test_a_slow_subscriber_holds_nobody_up(engine: Engine) -> None:
    sender, slow, quick = engine.party(), engine.party(), engine.party()
    with (
        log_in(engine, sender) as sending,
        log_in(engine, slow, receive_buffer=4096) as stuck,
        log_in(engine, quick) as reading,
    ):
        stuck.send(mqtt.subscribe(inbox(slow.fp, "+")))
        reading.subscribe(inbox(quick.fp, "+"))
        for number in range(600):
            payload = number.to_bytes(2, "big") * 256
            sending.send(mqtt.publish(inbox(slow.fp, sender.fp), payload) + mqtt.publish(inbox(quick.fp, sender.fp), payload))
            assert mqtt.message(reading.read()) == (inbox(quick.fp, sender.fp), payload, False)


# --- whatever comes ----------------------------------------------------------------------------------------------------


def _packets(rng: random.Random, attacker: str, victim: str, watcher: str, login: bytes) -> bytes:
    """One to sixty packets of a party that means harm: allowed, forbidden, and now and then with bytes changed."""
    others = (attacker, victim, watcher, mqtt.fingerprint(), "+", "#")

    def topic(wild: bool) -> str:
        kind = rng.randrange(8)
        some = others if wild else others[:4]
        if kind < 2:
            return hello(rng.choice(some))
        if kind < 6:
            return inbox(rng.choice(some), rng.choice(some))
        return rng.choice(("zts/1", "é/\ufffd", "x" * 200, "#", "$SYS/#") if wild else ("zts/1", "é/\ufffd", "$SYS/x", "/"))

    stream = []
    for _ in range(rng.randrange(1, 60)):
        kind = rng.randrange(20)
        if kind < 9:
            size = rng.choice((0, 1, sizes.HELLO_BYTES, sizes.M2_BYTES, sizes.M1_BYTES, 700))
            packet = mqtt.publish(
                topic(rng.random() < 0.01), rng.randbytes(size), retain=rng.random() < 0.3, packet_id=rng.choice((0, 0, 1, 65535))
            )
        elif kind < 13:
            packet = mqtt.subscribe(*[topic(True) for _ in range(rng.randrange(1, 5))], packet_id=rng.randrange(1, 65536))
        elif kind < 16:
            packet = mqtt.unsubscribe(topic(True))
        else:
            packet = mqtt.PINGREQ if kind < 19 or rng.random() < 0.8 else rng.choice((mqtt.DISCONNECT, login))
        stream.append(mutate(rng, [packet]) if rng.random() < 0.04 else packet)
    return b"".join(stream)


def _count(stream: bytes) -> int:
    """How many packets a broker has handled when it ends the connection at the first malformed one."""
    decoder, count = codec.Decoder(Limits().packet_bytes), 0
    decoder.feed(stream)
    try:
        while decoder.next_packet() is not None:
            count += 1
    except RemoteError:
        count += 1
    return count


def _memory(engine: Engine) -> int:
    """Bytes that the broker's process has resident."""
    pid = engine.process.pid if isinstance(engine, Mosquitto) else os.getpid()
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_a_hundred_thousand_fuzzed_packets(engine: Engine) -> None:
    rng = random.Random(4)
    attacker, victim, watcher = engine.party(), engine.party(), engine.party()
    login = mqtt.connect(attacker.fp, attacker.password, "id", will=(hello(attacker.fp), b"", True))
    with log_in(engine, victim) as living, log_in(engine, watcher) as watching:
        living.send(mqtt.publish(hello(victim.fp), HELLO, retain=True))
        living.fence()
        watching.subscribe(hello(victim.fp), inbox(watcher.fp, "+"))
        assert watching.fence() == [(hello(victim.fp), HELLO, True)]
        packets = connections = heard = warm = 0
        start = time.monotonic()
        while packets < PACKETS:
            stream = _packets(rng, attacker.fp, victim.fp, watcher.fp, login)
            first = login if rng.random() < 0.95 else mutate(rng, [login])
            with mqtt.Wire(engine.address) as wire:
                wire.send(first + stream)
                with contextlib.suppress(OSError):
                    wire.socket.shutdown(socket.SHUT_WR)
                    while wire.socket.recv(65536):
                        pass
            packets += _count(first + stream) if first == login else 1
            connections += 1
            if connections % 20 == 0:
                messages = watching.fence()
                assert {topic for topic, _, _ in messages} <= {inbox(watcher.fp, attacker.fp)}
                assert all(len(payload) <= sizes.M1_BYTES or engine.name == "mosquitto" for _, payload, _ in messages)
                heard += len(messages)
                assert living.fence() == []
                if isinstance(engine, Embedded):
                    engine.asked.clear()
            if not warm and packets > PACKETS // 4:
                warm = _memory(engine)
        took = time.monotonic() - start
        grown = _memory(engine) - warm
        heard += len(watching.fence())  # else the last ones would come in place of the SUBACK
        assert heard > 100  # what is allowed went on arriving
        assert watching.subscribe(hello(victim.fp)) == [0]
        assert watching.fence() == [(hello(victim.fp), HELLO, True)]
    print(f"{packets} packets on {connections} connections, {packets / took:.0f}/s; resident memory grew by {grown // 1024} KiB")
    assert grown < MEMORY_SLACK
    if isinstance(engine, Embedded):
        engine.wait_for(lambda broker: broker.stats.connections == broker.stats.pending == 0)
        assert engine.call(lambda broker: [*broker._subscribers, *broker._by_user, *broker._by_id, *broker._open, *broker._pending]) == []


# --- clients of others -------------------------------------------------------------------------------------------------


def test_paho(engine: Engine) -> None:
    alice, bob = engine.party(), engine.party()
    got: queue.Queue[tuple[str, bytes]] = queue.Queue()
    ready: queue.Queue[list[int]] = queue.Queue()
    clients = []
    for party in (alice, bob):
        client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv311)
        client.username_pw_set(party.fp, party.password.decode())
        client.on_message = lambda _c, _u, message: got.put((message.topic, bytes(message.payload)))
        client.on_subscribe = lambda _c, _u, _m, codes, _p: ready.put([code.value for code in codes])
        client.connect(*engine.address)
        client.loop_start()
        clients.append(client)
    try:
        clients[0].subscribe([(inbox(alice.fp, "+"), 1), (hello(bob.fp), 0)])
        assert ready.get(timeout=mqtt.DEADLINE_S)[1] == 0
        clients[1].publish(inbox(alice.fp, bob.fp), b"zero")
        clients[1].publish(inbox(alice.fp, bob.fp), b"one", qos=1).wait_for_publish(mqtt.DEADLINE_S)
        clients[1].publish(hello(bob.fp), HELLO, retain=True)
        expected = [(inbox(alice.fp, bob.fp), b"zero"), (inbox(alice.fp, bob.fp), b"one"), (hello(bob.fp), HELLO)]
        assert [got.get(timeout=mqtt.DEADLINE_S) for _ in expected] == expected
    finally:
        for client in clients:
            client.disconnect()
            client.loop_stop()


def test_mosquitto_clients(engine: Engine) -> None:
    if not MOSQUITTO:
        pytest.skip("mosquitto is not installed")
    alice, bob = engine.party(), engine.party()

    def command(name: str, party: Party, topic: str, *more: str) -> list[str]:
        login = ["-u", party.fp, "-P", party.password.decode()]
        return [name, "-V", "mqttv311", "-h", engine.address[0], "-p", str(engine.address[1]), *login, "-t", topic, *more]

    subprocess.run(command("mosquitto_pub", bob, hello(bob.fp), "-r", "-m", "h" * sizes.HELLO_BYTES), check=True, timeout=mqtt.DEADLINE_S)
    read = command("mosquitto_sub", alice, hello(bob.fp), "-C", "1", "-F", "%r %p")
    assert subprocess.run(read, check=True, timeout=mqtt.DEADLINE_S, capture_output=True).stdout == b"1 " + b"h" * sizes.HELLO_BYTES + b"\n"
    alice.password = b"wrong"
    assert subprocess.run(command("mosquitto_sub", alice, hello(bob.fp)), timeout=mqtt.DEADLINE_S, capture_output=True).returncode == 5
