"""Two sessions against each other: the good way, the ends of streams, and everything that must end the leg."""

from check import raises
from pair import BOARD, Pair
from zts import crypto, noise, record, session, wire
from zts.errors import CryptoError, LocalError, RemoteError


def test_both_ends_confirm():
    pair = Pair()
    assert pair.client.all(session.Confirmed) and pair.device.all(session.Confirmed)


def test_any_chunking_gives_the_same_events():
    expected = None
    for size in (None, 1, 2, 3, 7, 24, 25, 100):
        pair = Pair(up=False)
        while pair.step(size=size):
            pass
        stream = pair.client.session.open("http")
        pair.client.session.send(stream, b"x" * 3000)
        pair.client.session.finish(stream)
        pair.step(size=size)
        got = (pair.device.data, len(pair.device.all(session.Opened)), len(pair.device.all(session.Finished)))
        expected = expected or got
        assert got == expected


class NoMemory:
    """In place of an AEAD on a stream's way out: what is sealed, or else the whole record, finds no memory."""

    def __init__(self, sealed):
        self._sealed = sealed

    def seal(self, nonce, plaintext, ad):
        if self._sealed:
            raise MemoryError
        return self

    def __radd__(self, head):
        raise MemoryError


def test_a_record_that_finds_no_memory_ends_the_leg_and_what_came_before_it_is_good():
    size = wire.BOARD_WINDOW - 5
    calls = (("send", (b"data",)), ("finish", ()), ("reset", (wire.BUSY,)), ("open", ()), ("accept", ()), ("consume", (size,)))
    for sealed in (True, False):
        for what, more in calls:
            pair = Pair()
            stream = pair.client.session.open("http")
            pair.settle()
            end, other = (pair.device, pair.client) if what in ("accept", "consume") else (pair.client, pair.device)
            pair.carry(pair.client, stream, b"some ")
            pair.carry(pair.device, stream, b"some ")
            other.session.send(stream, bytes(size))
            pair.settle()
            end.session.send(stream, b"more")
            cipher = record._Cipher(bytes(32))
            cipher._aead = NoMemory(sealed)
            for id_ in (stream, stream + 1):  # the next one is what `open` opens
                end.session._records._sealing[id_] = cipher
            raises(MemoryError, getattr(end.session, what), *(("http",) if what == "open" else (stream,) + more))
            assert end.session.is_over()
            raises(LocalError, end.session.send, stream, b"data")
            had = bytes(end.data[stream])
            pair.settle()
            assert other.data[stream] == b"some more" and not other.session.is_over()
            other.session.reset(stream, wire.BUSY)
            pair.settle()
            assert end.data[stream] == had and not end.all(session.Reset)
            assert not end.session._early and not end.session.streams(), "nothing is kept for a leg that has ended"


def test_services_are_announced():
    pair = Pair()
    services = [(wire.SERVICE_HANDLER, f"service-{n:02d}") for n in range(wire.MAX_SERVICES)]
    pair.device.session.announce(services)
    pair.settle()
    assert pair.client.all(session.Services) == [session.Services(services)]
    pair = Pair()
    pair.device.session.announce([])
    pair.settle()
    assert pair.client.all(session.Services) == [session.Services([])]


def test_bytes_go_both_ways_past_the_window():
    pair = Pair()
    stream = pair.client.session.open("http")
    pair.settle()
    up = bytes(range(256)) * 36
    down = bytes(range(255, -1, -1)) * 40
    pair.carry(pair.client, stream, up)
    pair.carry(pair.device, stream, down)
    assert pair.device.data[stream] == up and pair.client.data[stream] == down


def test_a_stalled_stream_does_not_hold_another():
    pair = Pair()
    stalled, other = pair.client.session.open("a"), pair.client.session.open("b")
    pair.settle()
    sent = pair.client.session.send(stalled, bytes(10000))
    pair.settle()
    while pair.client.session.send(stalled, bytes(1000)):
        pair.settle()
    pair.carry(pair.client, other, b"y" * 9000)
    assert pair.device.data[other] == b"y" * 9000
    assert len(pair.device.data[stalled]) == wire.BOARD_WINDOW and sent <= wire.BOARD_WINDOW


def test_streams_end_in_every_order_and_are_forgotten():
    for first, second in (("client", "device"), ("device", "client"), ("both", "both")):
        pair = Pair()
        stream = pair.client.session.open("http")
        pair.settle()
        pair.client.session.send(stream, b"ask")
        pair.device.session.send(stream, b"answer")
        for who in (first, second):
            if who in ("client", "both") and not pair.device.all(session.Finished):
                pair.client.session.finish(stream)
            if who in ("device", "both") and not pair.client.all(session.Finished):
                pair.device.session.finish(stream)
            pair.settle()
        assert pair.device.data[stream] == b"ask" and pair.client.data[stream] == b"answer"
        for end in (pair.client, pair.device):
            assert end.all(session.Finished) and end.all(session.Gone) and end.session.streams() == 0


def test_the_other_direction_goes_on_after_fin():
    pair = Pair()
    stream = pair.client.session.open("http")
    pair.settle()
    pair.client.session.finish(stream)
    pair.settle()
    raises(LocalError, pair.client.session.send, stream, b"x")
    pair.carry(pair.device, stream, b"z" * 9000)
    assert pair.client.data[stream] == b"z" * 9000


def test_reset_from_either_side_or_both():
    for who in ("client", "device", "both"):
        pair = Pair()
        stream = pair.client.session.open("http")
        pair.settle()
        pair.client.session.send(stream, b"x" * 100)
        if who in ("client", "both"):
            pair.client.session.reset(stream, wire.TARGET_RESET)
        if who in ("device", "both"):
            pair.device.session.reset(stream, wire.DENIED)
        pair.settle()
        assert pair.client.session.streams() == 0 and pair.device.session.streams() == 0
        if who == "device":
            assert pair.client.all(session.Reset) == [session.Reset(stream, wire.DENIED)]
        if who == "client":
            assert pair.device.all(session.Reset) == [session.Reset(stream, wire.TARGET_RESET)]


def test_streams_beyond_the_limit_are_told_busy():
    pair = Pair(streams=2)
    pair.client.session._max_streams = 3
    for _ in range(3):
        pair.client.session.open("http")
    pair.settle()
    assert [event.code for event in pair.client.all(session.Reset)] == [wire.BUSY]
    assert len(pair.device.all(session.Opened)) == 2


def test_a_place_is_free_as_soon_as_its_end_is_sent():
    pair = Pair(streams=2)
    for _ in range(20):
        finished, reset = pair.client.session.open("http"), pair.client.session.open("http")
        raises(LocalError, pair.client.session.open, "http")
        pair.settle()
        pair.device.session.finish(finished)
        pair.settle()
        pair.client.session.finish(finished)
        pair.client.session.reset(reset, wire.TARGET_RESET)
    pair.settle()
    assert len(pair.device.all(session.Opened)) == 40 and not pair.client.all(session.Reset)


def test_streams_without_end_are_an_attack():
    pair = Pair(streams=2)
    pair.client.session._max_streams = 99
    for _ in range(5):
        pair.client.session.open("http")
    raises(RemoteError, pair.step)


def test_every_flipped_bit_ends_the_leg():
    pair = Pair()
    stream = pair.client.session.open("http")
    opening = b"".join(pair.client.session.data_to_send())
    pair.client.session.send(stream, b"secret")
    data = b"".join(pair.client.session.data_to_send())
    for good, at in ((opening, 0), (opening + data, len(opening))):
        for bit in range(at * 8, len(good) * 8):
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << bit % 8
            victim = _copy_of_device(pair)
            victim.receive_data(bytes(bad))
            events = []
            try:
                event = victim.next_event(0)
                while event is not None:
                    events.append(event)
                    event = victim.next_event(0)
                # A greater length makes it wait for bytes that nobody can seal that way.
                assert bit - at * 8 < 16
            except (RemoteError, CryptoError):
                pass
            assert not [event for event in events if isinstance(event, session.Received)]
            assert len(events) == (at > 0)


def _copy_of_device(pair):
    """A device session with the same leg keys and counters as the pair's, by running its handshake again."""
    source = pair.device.session
    copy = session.Session(wire.ROLE_DEVICE, source._key, BOARD, BOARD, 8)
    copy.start_leg(0)
    copy._header = source._header
    copy.receive_data(pair.client.session._header)
    copy.next_event(0)
    copy._state = "up"
    copy._records.received = 1
    copy._records._cipher(copy._records._opening, 0, wire.ROLE_CLIENT).n = 1
    return copy


def test_a_cut_or_withheld_stream_is_noticed():
    pair = Pair()
    one, two = pair.client.session.open("a"), pair.client.session.open("b")
    pair.settle()
    pair.client.session.send(two, b"withheld")
    pair.client.session.data_to_send()
    pair.client.session.send(one, b"passed on")
    pair.step()
    assert pair.device.data == {one: b"passed on"}
    pair.client.session.handle_timeout(wire.PING_MS)
    raises(RemoteError, pair.step)


def test_a_record_twice_or_out_of_order_ends_the_leg():
    pair = Pair()
    stream = pair.client.session.open("http")
    pair.settle()
    pair.client.session.send(stream, b"1")
    first = b"".join(pair.client.session.data_to_send())
    pair.client.session.send(stream, b"2")
    second = b"".join(pair.client.session.data_to_send())
    pair.device.session.receive_data(second)
    raises(CryptoError, pair.device.take, 0)
    pair = Pair()
    stream = pair.client.session.open("http")
    pair.settle()
    pair.client.session.send(stream, b"1")
    first = b"".join(pair.client.session.data_to_send())
    pair.device.session.receive_data(first + first)
    raises(CryptoError, pair.device.take, 0)


def test_header_that_reflects_or_repeats_ends_the_leg():
    pair = Pair(up=False)
    own = b"".join(pair.client.session.data_to_send())
    pair.client.session.receive_data(own)
    raises(RemoteError, pair.client.take, 0)
    pair = Pair()
    theirs = pair.client.session._header
    pair.device.session.start_leg(0)
    pair.device.session.receive_data(theirs)
    raises(RemoteError, pair.device.take, 0)


def test_wrong_key_never_confirms():
    pair = Pair(up=False)
    pair.device.session._key = bytes(32)
    raises(CryptoError, pair.settle)
    assert not pair.device.events and not pair.client.events


def test_lengths_are_refused_before_their_bytes_come():
    for length in (0, 1, 16, wire.BOARD_MAX_RECORD + 1, 65535):
        pair = Pair()
        pair.device.session.receive_data(length.to_bytes(2, "big") + bytes(4))
        raises(RemoteError, pair.device.take, 0)


def test_streams_that_are_not_open_end_the_leg():
    pair = Pair()
    pair.client.session.receive_data((17).to_bytes(2, "big") + (5).to_bytes(4, "big"))
    raises(RemoteError, pair.client.take, 0)
    pair = Pair()
    stream = pair.client.session.open("http")
    pair.client.session.reset(stream, 1)
    pair.settle()
    pair.device.session.receive_data((17).to_bytes(2, "big") + stream.to_bytes(4, "big"))
    raises(RemoteError, pair.device.take, 0)


def test_silence_is_noticed_in_time():
    pair = Pair()
    end = pair.client.session
    assert end.next_timeout() == wire.PING_MS
    end.handle_timeout(wire.PING_MS - 1)
    assert not end.data_to_send()
    end.handle_timeout(wire.PING_MS)
    assert end.data_to_send()
    raises(RemoteError, end.handle_timeout, wire.DEAD_MS)
    pair = Pair(up=False)
    raises(RemoteError, pair.client.session.handle_timeout, wire.CONFIRM_MS)
    # The wait for a partner at the relay does not count.
    pair.client.session.joined(wire.PARTNER_MS)
    pair.client.session.handle_timeout(wire.PARTNER_MS + wire.CONFIRM_MS - 1)
    raises(RemoteError, pair.client.session.handle_timeout, wire.PARTNER_MS + wire.CONFIRM_MS)


def test_a_ping_is_answered():
    pair = Pair()
    pair.now = wire.PING_MS
    pair.client.session.handle_timeout(pair.now)
    pair.settle()
    assert pair.client.session.next_timeout() == 2 * wire.PING_MS


def test_goaway_ends_both():
    pair = Pair()
    pair.client.session.close(wire.DRAIN)
    pair.settle()
    assert pair.device.all(session.Closed) == [session.Closed(wire.DRAIN)]
    assert pair.device.session.is_over() and pair.client.session.is_over()


def test_a_reader_that_never_reads_cannot_fill_our_memory():
    pair = Pair()
    raises(RemoteError, _flood, pair)


def test_a_writer_of_single_bytes_waits_for_room():
    pair = Pair()
    stream = pair.client.session.open("http")
    pair.settle()
    sent = 0
    while pair.client.session.send(stream, b"x"):
        sent += 1
    assert 0 < sent < 100
    pair.settle()
    assert pair.client.session.send(stream, b"x") == 1 and len(pair.device.data[stream]) == sent


def _flood(pair):
    for _ in range(100000):
        pair.client.session._seal(0, bytes([wire.FRAME_PING]) + pair.client.session._records.sent.to_bytes(8, "big"))
        pair.device.session.receive_data(b"".join(pair.client.session.data_to_send()))
        pair.device.take(0)


def test_rekey_comes_before_its_record():
    """PROTOCOL.md, "Records": the first record under the new key is the one whose counter is a multiple."""
    before = wire.REKEY_RECORDS
    wire.REKEY_RECORDS = 3
    try:
        layer = record.RecordLayer(bytes(32), wire.ROLE_CLIENT, wire.ROLE_DEVICE, wire.BOARD_MAX_RECORD)
        key = record.stream_key(bytes(32), 1, wire.ROLE_CLIENT)
        for n in range(10):
            if n in (3, 6, 9):
                key = noise.rekey(key)
            sealed = layer.seal(1, b"frame")
            assert crypto.Aead(key).open_(noise.nonce(n), sealed[6:], sealed[:6]) == b"frame"
    finally:
        wire.REKEY_RECORDS = before


def test_rekey_goes_on_reading():
    before = wire.REKEY_RECORDS
    wire.REKEY_RECORDS = 4
    try:
        pair = Pair()
        stream = pair.client.session.open("http")
        pair.settle()
        pair.carry(pair.client, stream, b"k" * 9000)
        assert pair.device.data[stream] == b"k" * 9000
        assert pair.client.session._records._sealing[stream]._key != pair.client.session._records._cipher({}, stream, 1)._key
    finally:
        wire.REKEY_RECORDS = before
