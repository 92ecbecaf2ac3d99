"""The MQTT codec: every field, every cut, arbitrary bytes."""

import contextlib
import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from host import mqtt_tools as mqtt
from zts.errors import RemoteError
from zts_relay import mqtt_codec as codec

LIMIT = 2048
# A loaded machine is no failure, and no file stays behind.
quietly = settings(deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
names = st.text(st.characters(exclude_characters="\0+#", exclude_categories=["Cs"]), min_size=1, max_size=40)
blobs = st.binary(max_size=200)
ids = st.integers(1, 65535)


def filters(packet_type: type[codec.Subscribe] | type[codec.Unsubscribe]) -> st.SearchStrategy[tuple[bytes, codec.Packet]]:
    encode = mqtt.subscribe if packet_type is codec.Subscribe else mqtt.unsubscribe
    filled = st.lists(texts.filter(bool), min_size=1, max_size=5)
    return st.builds(lambda number, chosen: (encode(*chosen, packet_id=number), packet_type(number, tuple(chosen))), ids, filled)


packets: st.SearchStrategy[tuple[bytes, codec.Packet]] = st.one_of(
    st.builds(
        lambda client, clean, keepalive, will, login: (
            mqtt.connect(login[0], login[1], client, clean=clean, keepalive=keepalive, will=will),
            codec.Connect(client, clean, keepalive, codec.Will(*will) if will else None, *login),
        ),
        texts,
        st.booleans(),
        st.integers(0, 65535),
        st.none() | st.tuples(names, blobs, st.booleans()),
        st.tuples(texts, blobs) | st.tuples(texts, st.none()) | st.just((None, None)),
    ),
    st.builds(
        lambda topic, payload, retain, number: (
            mqtt.publish(topic, payload, retain=retain, packet_id=number or 0),
            codec.Publish(topic, payload, retain, number),
        ),
        names,
        blobs,
        st.booleans(),
        st.none() | ids,
    ),
    filters(codec.Subscribe),
    filters(codec.Unsubscribe),
    st.just((mqtt.PINGREQ, codec.PingReq())),
    st.just((mqtt.DISCONNECT, codec.Disconnect())),
)


def decode(*chunks: bytes, limit: int = LIMIT) -> list[codec.Packet]:
    decoder, found = codec.Decoder(limit), []
    for chunk in chunks:
        decoder.feed(chunk)
        while (packet := decoder.next_packet()) is not None:
            found.append(packet)
    return found


def same(found: list[codec.Packet], wanted: list[codec.Packet]) -> bool:
    """Named tuples compare as tuples, so their types count too."""
    return found == wanted and [type(packet) for packet in found] == [type(packet) for packet in wanted]


@quietly
@given(st.lists(packets, max_size=6), st.data())
def test_packets_come_out_whole_however_they_are_cut(pairs: list[tuple[bytes, codec.Packet]], data: st.DataObject) -> None:
    stream, wanted = b"".join(raw for raw, _ in pairs), [packet for _, packet in pairs]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    edges = [0, *cuts, len(stream)]
    assert same(decode(*(stream[start:end] for start, end in itertools.pairwise(edges))), wanted)
    assert same(decode(*(bytes((byte,)) for byte in stream)), wanted)


@quietly
@given(packets)
def test_a_shorter_or_longer_body_is_never_the_same_packet(pair: tuple[bytes, codec.Packet]) -> None:
    raw, packet = pair
    body = raw[2 if raw[1] < 128 else 3 :]
    for changed in [body[:cut] for cut in range(len(body))] + [body + b"\0"]:
        try:
            found = decode(mqtt.packet(raw[0], changed))
        except RemoteError:
            continue
        assert not same(found, [packet])
        assert isinstance(packet, codec.Publish | codec.Subscribe | codec.Unsubscribe)  # these have open ends


@quietly
@given(st.binary(max_size=400))
def test_arbitrary_bytes_raise_nothing_else(noise: bytes) -> None:
    for start in (b"", b"\x10\x7f\0\4MQTT\4", b"\x30\x7f", b"\x82\x7f"):
        with contextlib.suppress(RemoteError):
            decode(start + noise)


@quietly
@given(packets, st.data())
def test_flipped_bits_raise_nothing_else(pair: tuple[bytes, codec.Packet], data: st.DataObject) -> None:
    raw = bytearray(pair[0])
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(RemoteError):
        decode(bytes(raw))


@pytest.mark.parametrize("limit", [10, 127, 128, 129, 130, 131, 200, 1024, LIMIT])
def test_the_limit_counts_the_whole_packet_and_needs_no_body(limit: int) -> None:
    for size in range(max(0, limit - 10), limit + 1):
        raw = mqtt.publish("t", bytes(size))
        if len(raw) <= limit:
            assert same(decode(raw, limit=limit), [codec.Publish("t", bytes(size), False, None)])
        else:
            header = raw[: 2 if raw[1] < 128 else 3]
            with pytest.raises(RemoteError, match="too long"):
                decode(header, limit=limit)


def test_a_bad_first_byte_is_refused_alone() -> None:
    good = {0x10, 0x82, 0xA2, 0xC0, 0xE0, 0x30, 0x31, 0x32, 0x33, 0x3A, 0x3B}
    for first in range(256):
        if first in good:
            assert decode(bytes((first,))) == []
        else:
            with pytest.raises(RemoteError):
                decode(bytes((first,)))


@pytest.mark.parametrize("length", [b"\xff\xff\xff\xff\x7f", b"\x80\x80\x80\x80\x00", b"\x80\x80\x80\x80"])
def test_a_length_of_five_bytes_is_refused(length: bytes) -> None:
    with pytest.raises(RemoteError):
        decode(b"\x30" + length, limit=1 << 40)


def test_answers() -> None:
    """Against the figures of sections 3.2 to 3.13 of the standard."""
    assert codec.connack(codec.NOT_AUTHORISED) == b"\x20\x02\x00\x05"
    assert codec.puback(0x1234) == b"\x40\x02\x12\x34"
    assert codec.suback(10, [0, 0x80]) == b"\x90\x04\x00\x0a\x00\x80"
    assert codec.unsuback(10) == b"\xb0\x02\x00\x0a"
    assert codec.PINGRESP == b"\xd0\x00"
    assert codec.publish("a/b", b"xy", retain=True) == b"\x31\x07\x00\x03a/bxy"


@quietly
@given(names, st.binary(max_size=600), st.booleans())
def test_publish_comes_back(topic: str, payload: bytes, retain: bool) -> None:
    raw = codec.publish(topic, payload, retain)
    assert raw == mqtt.publish(topic, payload, retain=retain)
    assert same(decode(raw), [codec.Publish(topic, payload, retain, None)])
