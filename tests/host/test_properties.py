"""Every codec: what is written is read again the same, in whatever pieces it comes; what is changed is refused, never read as another.

Arbitrary bytes: test_fuzz.py. The broker's side of MQTT: test_mqtt_codec.py.
"""

import asyncio
import copy
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

import policy_blob
from fuzz import frame as frame_target
from fuzz import message_1, mqtt_client
from fuzz.feed import xor
from pair import BOARD, KEY, End
from zts import codes, control, frame, identity, leg, policy, record, session, wire
from zts.errors import CryptoError, FormatError, RemoteError
from zts.initiator import Initiator
from zts_agent import mqtt
from zts_agent.agent import Agent
from zts_agent.keystore import Keystore
from zts_gateway import daemon
from zts_relay import mqtt_codec

quietly = settings(
    deadline=None, database=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)

bits = st.integers(0, 7).map(lambda bit: bytes((1 << bit,)))
names = st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,30}[a-z0-9])?", fullmatch=True)
hosts = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,60}[a-z0-9])?", fullmatch=True) | st.ip_addresses().map(str)
ports = st.integers(0, 65535)
code_bytes = st.integers(0, 255)
words = st.integers(0, (1 << 32) - 1)
longs = st.integers(0, (1 << 64) - 1)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


places = st.lists(st.integers(0, 1 << 20), max_size=20)


# --- the control plane -----------------------------------------------------------------------------------------------

known = st.sampled_from(sorted(control._SIZES)).flatmap(
    lambda kind: st.tuples(st.just(kind), st.binary(min_size=control._SIZES[kind], max_size=control._SIZES[kind] or 30))
)
unknown = st.tuples(st.integers(1, 0x7F).filter(lambda kind: kind not in control._SIZES), st.binary(max_size=30))
fields = st.lists(known | unknown, max_size=8).map(dict)


@quietly
@given(fields, st.integers(0, 9))
def test_fields(values: dict[int, bytes], padding: int) -> None:
    size = sum(2 + len(value) for value in values.values())
    data = control.encode_fields(values, size + padding)
    assert control.decode_fields(data, tuple(values)) == values
    with pytest.raises(RemoteError):
        control.decode_fields(data[:size] + b"\0" * padding + b"\1", ())
    if size:
        with pytest.raises(RemoteError):
            control.encode_fields(values, size - 1)
        kind, value = next(iter(values.items()))
        with pytest.raises(RemoteError):
            control.decode_fields(data[:size] + bytes((kind, len(value))) + value, ())
        with pytest.raises(RemoteError):
            control.decode_fields(data[:size] + b"\xff\0", ())
        last = 2 + len(list(values.values())[-1])
        for end in range(size - last + 1, size):
            with pytest.raises(RemoteError):
                control.decode_fields(data[:end], ())


@quietly
@given(st.binary(min_size=16, max_size=16), words, st.binary(max_size=40))
def test_hello(epoch: bytes, features: int, noise: bytes) -> None:
    data = control.encode_hello(epoch, features)
    assert control.decode_hello(data) == (epoch, features)
    for bad in (data[:-1], data + b"\0", b"\2" + data[1:], noise):
        if len(bad) != wire.HELLO_BYTES or bad[0] != wire.VERSION:
            with pytest.raises(RemoteError):
                control.decode_hello(bad)


@quietly
@given(st.integers(0, wire.M1_BYTES - 1), st.integers(0, wire.M2_BYTES - 1), bits, st.integers(0, 1000))
def test_messages_1_and_2(at_1: int, at_2: int, bit: bytes, size: int) -> None:
    responder = control.Responder(message_1.DEVICE, 0)
    initiator = Initiator(wire.PURPOSE_CONNECT, message_1.OWNER, message_1.DEVICE[1], message_1.PSK, responder.epoch)
    m1 = initiator.message_1(message_1.FIELDS)

    def receive(data: bytes) -> Any:
        return responder.receive_message_1(data, message_1.OWNER_FP, message_1._find, 0)

    assert receive(xor(m1, at_1, bit)) is None
    assert size == wire.M1_BYTES or receive(m1[:size].ljust(size, b"\0")) is None
    accepted = receive(m1)
    assert accepted.fields == message_1.FIELDS
    assert receive(m1) is None
    answer = {wire.TLV_CODE: b"\0", wire.TLV_ACCOUNT: b"a" * 8}
    m2 = control.write_message_2(accepted.handshake, m1, answer)
    assert initiator.read_message_2(xor(m2, at_2, bit)) is None
    assert size == wire.M2_BYTES or initiator.read_message_2(m2[:size].ljust(size, b"\0")) is None
    assert initiator.read_message_2(m2) == answer
    assert initiator.handshake.split() == accepted.handshake.split() and initiator.handshake.h == accepted.handshake.h


# --- legs, records, frames -------------------------------------------------------------------------------------------

hellos = st.builds(
    leg.LegHello,
    st.sampled_from((wire.ROLE_CLIENT, wire.ROLE_DEVICE)),
    st.integers(1, (1 << 32) - 1),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=8, max_size=8),
    st.binary(min_size=8, max_size=8),
)


@quietly
@given(hellos, st.integers(0, wire.LEG_HELLO_BYTES - 1), bits, st.integers(0, 80))
def test_leg_hello_and_header(hello: leg.LegHello, at: int, bit: bytes, size: int) -> None:
    data = leg.encode_hello(hello, KEY, b"c" * 16)
    assert leg.decode_hello(data) == hello and leg.verify_hello(data, KEY, b"c" * 16)
    assert not leg.verify_hello(xor(data, at, bit), KEY, b"c" * 16)
    assert not leg.verify_hello(data, KEY, xor(b"c" * 16, at % 16, bit)) and not leg.verify_hello(data, xor(KEY, at % 32, bit), b"c" * 16)
    header = leg.encode_header(hello.role, hello.n, hello.sid)
    assert leg.decode_header(header, leg.other_role(hello.role), hello.n - 1) == (hello.role, hello.n, hello.sid)
    for our_role, last in ((hello.role, 0), (leg.other_role(hello.role), hello.n)):
        with pytest.raises(RemoteError):
            leg.decode_header(header, our_role, last)
    for bad in (data[:size], header[:size], data + header):
        if len(bad) != wire.LEG_HELLO_BYTES:
            with pytest.raises(RemoteError):
                leg.decode_hello(bad)
        if len(bad) != wire.LEG_HEADER_BYTES:
            with pytest.raises(RemoteError):
                leg.decode_header(bad, leg.other_role(hello.role), 0)


said = st.one_of(
    st.tuples(st.just(wire.FRAME_RESUME), st.lists(st.tuples(words, longs), max_size=5)),
    st.tuples(st.just(wire.FRAME_INFO), st.booleans(), st.lists(st.tuples(code_bytes, names), max_size=5)),
    st.tuples(st.just(wire.FRAME_PING), longs),
    st.tuples(st.just(wire.FRAME_PONG)),
    st.tuples(st.just(wire.FRAME_GOAWAY), code_bytes, words),
    st.tuples(st.just(wire.FRAME_OPEN), names),
    st.tuples(st.just(wire.FRAME_DATA), st.binary(min_size=1, max_size=300)),
    st.tuples(st.just(wire.FRAME_ACK), longs, words),
    st.tuples(st.just(wire.FRAME_FIN), longs),
    st.tuples(st.just(wire.FRAME_RST), code_bytes),
)


@quietly
@given(said, st.integers(1, 12))
def test_frames(what: tuple, less: int) -> None:  # type: ignore[type-arg]
    stream = 0 if what[0] < wire.FRAME_OPEN else 7
    plain = frame_target.encode(what)
    assert frame.decode(stream, plain) == what
    with pytest.raises(RemoteError):
        frame.decode(7 - stream, plain)
    if what[0] in frame._FIXED:
        for bad in (plain + b"\0", plain[:-less]):
            if bad:
                with pytest.raises(RemoteError):
                    frame.decode(stream, bad)


@quietly
@given(
    st.lists(st.tuples(st.integers(0, 3), st.binary(min_size=1, max_size=200)), min_size=1, max_size=12),
    places,
    st.integers(0, 1 << 20),
    bits,
)
def test_records(frames: list[tuple[int, bytes]], where: list[int], at: int, bit: bytes) -> None:
    sender = record.RecordLayer(KEY, wire.ROLE_CLIENT, wire.ROLE_DEVICE, 1040)
    stream = b"".join(sender.seal(number, plain) for number, plain in frames)

    def read(chunks: list[bytes]) -> tuple[list[tuple[int, bytes]], bool]:
        """The frames, and whether reading failed."""
        receiver, got = record.RecordLayer(KEY, wire.ROLE_DEVICE, wire.ROLE_CLIENT, 1040), []
        try:
            for chunk in chunks:
                receiver.receive_data(chunk)
                while (found := receiver.next_record(lambda number: True)) is not None:
                    got.append(found)
        except (RemoteError, CryptoError):
            return got, True
        return got, False

    assert read(cut(stream, where)) == read([stream]) == (frames, False)
    # Behind what was changed come more bytes, so that a length that became longer gets its fill.
    changed = xor(stream, at % len(stream), bit) + bytes(2000)
    got, failed = read(cut(changed, where))
    assert failed and got == frames[: len(got)] and len(got) < len(frames)


operations = st.lists(
    st.tuples(st.sampled_from(("open", "send", "finish", "reset", "ping")), st.integers(0, 5), st.integers(1, 1500)), max_size=12
)


def transcript(what: list[tuple[str, int, int]]) -> tuple[session.Session, bytes]:
    """A device's session before its leg, and all the bytes that an honest client then said to it."""
    device, client = End(wire.ROLE_DEVICE, BOARD, BOARD), End(wire.ROLE_CLIENT, BOARD, BOARD)
    device.session.start_leg(0)
    before = copy.deepcopy(device.session)
    client.session.start_leg(0)
    spoken, now = b"", 0
    opened: list[int] = []

    def carry() -> None:
        nonlocal spoken
        for _ in range(6):
            out = b"".join(client.session.data_to_send())
            spoken += out
            device.session.receive_data(out)
            react(device.session, device.events)
            client.session.receive_data(b"".join(device.session.data_to_send()))
            client.take(now)

    carry()
    for action, number, size in what:
        stream = opened[number % len(opened)] if opened else 0
        if action == "open" and client.session.streams() < 8:
            opened.append(client.session.open(f"s{number}"))
        elif action == "ping":
            now += wire.PING_MS
            client.session.handle_timeout(now)
        elif client.session.is_open(stream):
            if action == "reset":
                client.session.reset(stream, 3)
            elif client.session._streams[stream].can_send():
                client.session.send(stream, bytes((number,)) * size) if action == "send" else client.session.finish(stream)
        carry()
    return before, spoken


def react(end: session.Session, events: list[Any]) -> None:
    """All events, each answered in the same way."""
    while (event := end.next_event(0)) is not None:
        events.append(event)
        if isinstance(event, session.Opened):
            end.accept(event.stream)
        elif isinstance(event, session.Received):
            end.consume(event.stream, len(event.data))


def hear(end: session.Session, chunks: list[bytes]) -> tuple[list[Any], bytes, bool]:
    events: list[Any] = []
    try:
        for chunk in chunks:
            end.receive_data(chunk)
            react(end, events)
    except (RemoteError, CryptoError):
        return events, b"".join(end.data_to_send()), True
    return events, b"".join(end.data_to_send()), False


@quietly
@given(operations, places, st.integers(0, 1 << 20), bits)
@example([("open", 0, 1), ("send", 0, 1500), ("finish", 0, 1)], [], 0, b"\1")
def test_sessions(what: list[tuple[str, int, int]], where: list[int], at: int, bit: bytes) -> None:
    before, stream = transcript(what)
    whole = hear(copy.deepcopy(before), [stream])
    assert not whole[2] and isinstance(whole[0][0], session.Confirmed)
    assert hear(copy.deepcopy(before), cut(stream, where)) == whole
    assert hear(copy.deepcopy(before), [bytes((byte,)) for byte in stream[:300]] + [stream[300:]]) == whole
    events, _, failed = hear(copy.deepcopy(before), cut(xor(stream, at % len(stream), bit) + bytes(2000), where))
    assert failed and events == whole[0][: len(events)]


# --- MQTT: each side reads what the other writes ---------------------------------------------------------------------

topics = st.text(st.characters(exclude_characters="\0+#", exclude_categories=["Cs"]), min_size=1, max_size=40)
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)


@quietly
@given(topics, texts, texts, st.binary(max_size=600), st.booleans(), st.integers(1, 65535), places)
def test_the_broker_reads_what_the_agent_says(
    topic: str, user: str, password: str, payload: bytes, retain: bool, number: int, where: list[int]
) -> None:
    stream = mqtt.encode_connect("id", user, password, topic)
    stream += mqtt.encode_publish(topic, payload, retain) + mqtt.encode_subscribe(number, topic)
    decoder, found = mqtt_codec.Decoder(2048), []
    for chunk in cut(stream, where):
        decoder.feed(chunk)
        while (packet := decoder.next_packet()) is not None:
            found.append(packet)
    will = mqtt_codec.Will(topic, b"", True)
    assert found == [
        mqtt_codec.Connect("id", True, mqtt.KEEPALIVE_S, will, user, password.encode()),
        mqtt_codec.Publish(topic, payload, retain, None),
        mqtt_codec.Subscribe(number, (topic,)),
    ]


@quietly
@given(st.lists(st.tuples(topics, st.binary(max_size=600), st.booleans()), max_size=5), places)
def test_the_agent_reads_what_the_broker_says(messages: list[tuple[str, bytes, bool]], where: list[int]) -> None:
    stream = mqtt_codec.connack(mqtt_codec.ACCEPTED) + mqtt_codec.suback(1, [mqtt_codec.GRANTED])
    stream += b"".join(mqtt_codec.publish(*message) + mqtt_codec.PINGRESP for message in messages)
    for chunks in ([stream], cut(stream, where), [bytes((byte,)) for byte in stream]):
        heard, end = asyncio.run(mqtt_client._hear(chunks))
        assert heard == [message[:2] for message in messages] and end.startswith("Dropped")


# --- what people paste and configure ---------------------------------------------------------------------------------

keys = st.binary(min_size=32, max_size=32)
join_codes = st.builds(codes.JoinCode, keys, st.binary(min_size=16, max_size=16), hosts, ports)


@quietly
@given(join_codes, keys, keys, names, st.integers(1, 200))
def test_pasted_lines(code: codes.JoinCode, pairing: bytes, owner: bytes, name: str, at: int) -> None:
    line = codes.EnrolLine(code, pairing, owner, name)
    short, long = codes.format_join_code(code), codes.format_enrol_line(line)
    assert codes.parse_join_code(f" {short}\n") == code and codes.parse_enrol_line(f"\t{long} ") == line
    for text, parse in ((short, codes.parse_join_code), (long, codes.parse_enrol_line)):
        start, end = text.index(":") + 1, text.index("@")
        place = start + at % (end - start)
        # Cut, or with a character lost, doubled or misread, in the part with the keys.
        for bad in (
            text[:place],
            text[:place] + text[place + 1 :],
            text[:place] + text[place] + text[place:],
            text[:place] + "=" + text[place + 1 :],
        ):
            with pytest.raises(FormatError):
                parse(bad)
    for other in (long, "", "zts1"):
        with pytest.raises(FormatError):
            codes.parse_join_code(other)
    with pytest.raises(FormatError):
        codes.parse_enrol_line(short)


@quietly
@given(hosts, ports, st.sampled_from(("mqtt", "mqtts")), names, keys)
def test_addresses_urls_names_and_fingerprints(host: str, port: int, scheme: str, name: str, key: bytes) -> None:
    address = identity.join_address(host, port)
    assert identity.split_address(address) == (host, port)
    assert identity.parse_broker(f"{scheme}://{address}", "other") == (scheme == "mqtts", host, port)
    assert identity.parse_broker(f"{scheme}://:{port}", host) == (scheme == "mqtts", host, port)
    assert identity.check_name(name) == identity.check_name("@" + name) == name
    fp = identity.fingerprint_text(key)
    assert identity.parse_fingerprint(fp) == identity.fingerprint(key)
    for bad in (name.upper(), name + "-", "_" + name, name + ".x", name + "é", "@@" + name):
        if bad != name:
            with pytest.raises(FormatError):
                identity.check_name(bad)
    for bad in (host, f"{address} ", f"{host}:{port + 65536}", f"{host}:", f":{port}", f"{host}:+1", f"{host}:\uff11"):
        with pytest.raises(FormatError):
            identity.split_address(bad)
    for bad in (fp[1:], fp + "a", fp.upper(), "1" + fp[1:]):
        assume(bad != fp)
        with pytest.raises(FormatError):
            identity.parse_fingerprint(bad)


@quietly
@given(st.dictionaries(names, st.tuples(hosts, st.integers(1, 65535)), max_size=5), hosts, ports)
def test_agent_configuration(tmp_path: Path, services: dict[str, tuple[str, int]], host: str, port: int) -> None:
    table = {name: {"kind": "tcp", "target": identity.join_address(*target)} for name, target in services.items()}
    path = tmp_path / "agent.toml"
    text = f'[identity]\nstate = "state"\n[relay]\naddress = {json.dumps(identity.join_address(host, port))}\n'
    path.write_text(
        text
        + "".join(
            f"[services.{json.dumps(name)}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in entry.items())
            for name, entry in table.items()
        )
    )
    read = daemon.read_config(path)
    assert read.state == tmp_path / "state" and read.device.get("services", {}) == table
    agent = Agent(read.device, Keystore(str(tmp_path)))
    assert agent._services.names == sorted((wire.SERVICE_TCP, name) for name in services)
    assert agent._address == (host, port)


@quietly
@given(st.binary(max_size=20), st.binary(max_size=20), st.none() | names, st.binary(max_size=9), st.none() | st.integers(0, 1 << 32))
def test_without_a_grant_only_the_owner_comes_in(owner: bytes, party: bytes, service: str | None, id_: bytes, now: int | None) -> None:
    def code(owner: bytes, party: bytes) -> int:
        return policy.decide(owner, policy.Policy(), party, id_, None, service, wire.SERVICE_HTTP, now)[0]

    assert code(owner, party) == (wire.OK if owner == party and len(owner) == wire.FP_BYTES else wire.DENIED)
    fp = owner.ljust(wire.FP_BYTES, b"\0")[: wire.FP_BYTES]
    assert code(fp, fp) == wire.OK
    assert code(fp, fp[:-1]) == code(fp[:-1], fp[:-1]) == code(b"", b"") == wire.DENIED


@quietly
@given(st.binary(max_size=60))
def test_bytes_that_are_no_policy(data: bytes) -> None:
    for blob in (data, wire.MAGIC_POLICY + data, policy_blob.seal(wire.MAGIC_POLICY + data)):
        try:
            read = policy.Policy(blob)
        except FormatError:
            continue
        assert blob == b"" or (len(blob) >= 21 and read.seq)
