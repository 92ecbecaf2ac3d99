"""Mutated messages into a device's parsers, on MicroPython: `micropython board_mutations.py COUNT`.

Prints one JSON line: how many messages went into each, the seconds, and the free heap before and after. Nothing but the errors of the
protocol may be raised, and nothing that is not whole and sealed may be taken; what else happens is a traceback and exit code 1.
"""

import asyncio
import gc
import json
import random
import sys
import time
from pipes import Pipe

from zts import codes, control, crypto, frame, identity, leg, record, session, wire
from zts.errors import CryptoError, FormatError, RemoteError, ZtsError
from zts.initiator import Initiator
from zts_agent import mqtt

KEY = bytes(range(32))
OFFER = session.Offer(wire.BOARD_MAX_RECORD, wire.BOARD_WINDOW)
OWNER = (KEY, crypto.x25519_public(KEY))
DEVICE = (bytes(32), crypto.x25519_public(bytes(32)))
FP = identity.fingerprint(OWNER[1])
PSK = b"p" * 32
PEER = control.make_peer(OWNER[1], PSK)
FIELDS = {
    wire.TLV_RELAY: b"r" * 15,
    wire.TLV_SID: b"s" * 16,
    wire.TLV_ACCOUNT: b"c" * 8,
    wire.TLV_MAX_RECORD: b"\xff\xff",
    wire.TLV_WINDOW: b"\xff\xff\xff\xff",
}
INTERESTING = (0, 1, 2, 0x0F, 0x11, 0x7F, 0x80, 0x81, 0xFE, 0xFF)


def mutate(data):
    """Never the same bytes again."""
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(out)) if out else 0
        what = random.randrange(6)
        if what < 2 and out:
            out[at] ^= 1 << random.randrange(8)
        elif what == 2 and out:
            out[at] = random.choice(INTERESTING)
        elif what == 3:
            out = out[:at] + bytes([random.choice(INTERESTING)]) * random.randrange(1, 9) + out[at:]
        elif what == 4:
            out = out[:at] + out[at + random.randrange(1, 9) :]
        elif len(out) > 1:
            out[at : at + 2] = b"\xff\xff" if at + 2 <= len(out) else b"\xff"
    return bytes(out) if bytes(out) != bytes(data) else mutate(data)


def tried(error, work, *arguments):
    """What `work` gives, None when it raises `error`."""
    try:
        return work(*arguments)
    except error:
        return None


class Responding:
    """A responder, and messages 1 for it."""

    def __init__(self):
        self.responder = control.Responder(DEVICE, 0, 1_000_000, 1_000_000)
        self.good = self._initiator().message_1(FIELDS)

    def _initiator(self):
        return Initiator(wire.PURPOSE_CONNECT, OWNER, DEVICE[1], PSK, self.responder.epoch)

    def _find(self, sender, kind, hint):
        return PEER if kind == wire.KIND_CONNECT else None

    def _receive(self, m1):
        return self.responder.receive_message_1(m1, FP, self._find, 0)

    def raw(self):
        assert self._receive(mutate(self.good)) is None

    def signed(self):
        """By the holder of the psk: it gets as far as X25519."""
        m1 = self.good[:28] + mutate(self.good[28:])[:484]
        m1 = m1 + bytes(wire.M1_BYTES - len(m1))
        if m1 == self.good:
            return
        mac = crypto.hmac_sha256(PEER.mac_key, self.responder.epoch + m1[:12] + m1[28:])[:16]
        assert self._receive(m1[:12] + mac + m1[28:]) is None

    def sealed(self):
        """By the owner, with fields of any content."""
        payload = mutate(control.encode_fields(FIELDS, 80))[: wire.M1_PAYLOAD_BYTES]
        initiator = self._initiator()
        noise = initiator.handshake.write_message(payload + bytes(wire.M1_PAYLOAD_BYTES - len(payload)))
        header = bytes([wire.VERSION, wire.TYPE_M1, wire.KIND_CONNECT]) + bytes(9)
        mac = crypto.hmac_sha256(PEER.mac_key, self.responder.epoch + header + noise)[:16]
        accepted = self._receive(header + mac + noise)
        if accepted is not None:
            assert len(accepted.fields) >= 5
            assert len(control.write_message_2(accepted.handshake, accepted.m1, {wire.TLV_CODE: b"\0"})) == wire.M2_BYTES


class Legs:
    """A device's session, and an evil client that holds the keys. A leg that died is followed by the next."""

    FRAMES = (
        frame.open_("http"),
        bytes([wire.FRAME_DATA]) + b"x" * 100,
        bytes([wire.FRAME_DATA]) + b"y" * 1000,
        frame.ack(0, wire.BOARD_WINDOW),
        frame.ack(0xFFFF, 0xFFFFFFFF),
        frame.fin(0),
        frame.fin(100),
        frame.rst(3),
        frame.ping(1),
        frame.pong(),
        frame.goaway(0, 9),
        frame.info([(1, "ssh")], 99)[0],
        frame.resume([(1, 65535)]),
    )

    def __init__(self):
        self.legs = 0
        self.start()

    def start(self):
        self.legs += 1
        self.end = session.Session(wire.ROLE_DEVICE, KEY, OFFER, OFFER, wire.BOARD_STREAMS)
        self.end.start_leg(0)
        mine = b"".join(self.end.data_to_send())
        theirs = leg.encode_header(wire.ROLE_CLIENT, 1, b"n" * 16)
        self.records = record.RecordLayer(record.leg_key(KEY, theirs, mine), wire.ROLE_CLIENT, wire.ROLE_DEVICE, 0xFFFF)
        self.opened = 0
        assert self.deliver(theirs + self.records.seal(0, frame.resume([])))

    def deliver(self, data):
        """Whether the leg lives on. The application takes all that comes."""
        try:
            self.end.receive_data(data)
            while True:
                event = self.end.next_event(0)
                if event is None:
                    break
                if isinstance(event, session.Opened):
                    self.end.accept(event.stream)
                elif isinstance(event, session.Received):
                    assert len(event.data) <= wire.BOARD_MAX_RECORD
                    self.end.consume(event.stream, len(event.data))
                elif isinstance(event, session.Finished) and self.end.is_open(event.stream):
                    self.end.finish(event.stream)
            self.end.data_to_send()
        except (RemoteError, CryptoError):
            return False
        return not self.end.is_over()

    def frames(self):
        """A frame of any content, sealed."""
        plain = random.choice(self.FRAMES)
        if random.randrange(2):
            plain = mutate(plain)[: wire.BOARD_MAX_RECORD - wire.TAG_BYTES] or b"\0"
        if plain[0] == wire.FRAME_OPEN and random.randrange(2):
            self.opened += 1
        stream = 0 if plain[0] < wire.FRAME_OPEN else random.choice((self.opened, self.opened, 1, 0, 0xFFFFFFFF))
        if not self.deliver(self.records.seal(stream, plain)):
            self.start()

    def flips(self):
        """A good record, changed: it never lives, whatever follows it."""
        data = self.records.seal(0, frame.pong())
        changed = mutate(data)
        if changed.startswith(data):
            return
        assert not self.deliver(changed + bytes(2 * wire.BOARD_MAX_RECORD)), changed
        self.start()


def headers():
    good = leg.encode_header(wire.ROLE_CLIENT, 9, b"n" * 16)
    tried(RemoteError, leg.decode_header, mutate(good), wire.ROLE_DEVICE, 8)


def bare_frames():
    plain = mutate(random.choice(Legs.FRAMES)) or b"\0"
    tried(RemoteError, frame.decode, random.randrange(2), plain)


PAYLOAD = control.encode_fields(FIELDS, 90)


def bare_fields():
    data = mutate(PAYLOAD)
    found = tried(RemoteError, control.decode_fields, data, ())
    if found is not None:
        assert control.decode_fields(control.encode_fields(found, len(data)), ()) == found


LINE = "zts1d:" + "A" * 150 + "@relay.example:7440/sensor42"


def lines():
    text = "".join([chr(byte) for byte in mutate(LINE.encode())])
    for parse in (codes.parse_enrol_line, codes.parse_join_code, identity.split_address, identity.check_name):
        tried(FormatError, parse, text)


TOPIC = b"\0\x20zts/1/aaaaaaaaaaaaaaaaaaaaaaaa/in"
MESSAGES = (b"\x20\2\0\0\x90\3\0\1\0", b"\x30\x22" + TOPIC, b"\x30\xa2\4" + TOPIC + b"m" * 512, b"\xd0\0", b"\x30\xff\xff\3")


async def _take(topic, payload):
    assert len(topic) + len(payload) <= mqtt.PACKET_MAX


async def _tick():
    pass


async def broker():
    """One connection to a broker that says anything; the client ends it with an error."""
    down = Pipe()
    if random.randrange(4):
        down.write(MESSAGES[0])
    for _ in range(3):
        down.write(mutate(random.choice(MESSAGES)))
    down.close()
    client = mqtt.Client(down, Pipe(), _take)
    try:
        await client.login("id", "user", "password", "will")
        await client.subscribe("topic")
        await client.run(_tick)
    except (ZtsError, OSError, EOFError):
        return
    raise AssertionError("a connection ended without a reason")


# (what, function, messages each call, parts of 1000 of all messages)
PLAN = (
    ("message 1", "raw", 1, 360),
    ("message 1 with a good mac1", "signed", 1, 2),
    ("message 1 of the owner", "sealed", 1, 1),
    ("sealed frames", "frames", 1, 70),
    ("changed records", "flips", 1, 25),
    ("leg headers", "headers", 1, 100),
    ("frames", "bare_frames", 1, 150),
    ("fields", "bare_fields", 1, 120),
    ("lines", "lines", 1, 22),
    ("MQTT packets", "broker", 3, 150),
)


async def run(count, told):
    """Everything it needs is made here and gone afterwards."""
    responding, legs = Responding(), Legs()
    for what, name, weight, part in PLAN:
        work = getattr(responding, name, None) or getattr(legs, name, None) or globals()[name]
        calls = max(1, count * part // 1000 // weight)
        start = time.ticks_ms()
        for _ in range(calls):
            if name == "broker":
                await work()
            else:
                work()
        told[what] = (calls * weight, time.ticks_diff(time.ticks_ms(), start) / 1000)
    told["legs"] = legs.legs
    told["refused"] = responding.responder.refused


def lengths():
    """65535 wherever a length stands: refused with what has come. Gives the most bytes that one record head had allocated."""
    legs, most = Legs(), 0
    for data in (b"\xff\xff\0\0\0\0", b"\xff\xff\xff\xff\xff\xff", b"\x04\x11\0\0\0\0", b"\0\0\0\0\0\0"):
        legs.start()
        gc.collect()
        gc.disable()
        before = gc.mem_alloc()
        assert not legs.deliver(data)
        most = max(most, gc.mem_alloc() - before)
        gc.enable()
    for data in (b"\x82\xff" + b"r" * 300, b"\x02\xff", b"\xff\xff" + bytes(300)):
        assert tried(RemoteError, control.decode_fields, data, ()) is None
    for plain in (b"\x02\0\1\xff" + b"a" * 33, frame.open_("a" * 33), frame.ack(0xFFFF, 0xFFFF) + b"\xff", b"\1" + b"\xff" * 65):
        assert tried(RemoteError, frame.decode, plain[0] >> 4, plain) is None
    return most


async def long_packets():
    for data in (b"\x30\xff\xff\3", b"\x30\xff\x7f", b"\x30\x81\x08", b"\x30\4\xff\xffab"):
        down = Pipe()
        down.write(MESSAGES[0] + data)
        client = mqtt.Client(down, Pipe(), _take)
        await client.login("id", "user", "password", "will")
        await client.subscribe("topic")
        try:
            await client.run(_tick)
            raise AssertionError("taken")
        except RemoteError:
            pass


def free():
    gc.collect()
    return gc.mem_free()


def main():
    count = int(sys.argv[1])
    random.seed(9)
    told = {"65535": lengths()}
    asyncio.run(long_packets())
    asyncio.run(run(2000, {}))  # what is made once for all
    before = free()
    ran = {}
    asyncio.run(run(count, ran))
    gc.collect()
    told["ran"] = ran
    ran = None
    told["before"], told["after"] = before, 0
    told["after"] = free()
    print(json.dumps(told))


main()
