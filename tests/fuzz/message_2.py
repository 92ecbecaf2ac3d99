"""Message 2 and hello at a client: nothing but a whole answer of the device itself gives a session, and whatever an evil
device or broker says ends in one sentence or in silence."""

import aiomqtt
from paho.mqtt.properties import Properties

from fuzz import hostile
from fuzz.feed import Feed, xor
from fuzz.message_1 import ACCOUNT, DEVICE, OWNER, OWNER_FP, PSK, _find
from zts import control, wire
from zts_gateway.addressbook import Identity
from zts_gateway.client import _LEAST_RECORD, _Call
from zts_gateway.ui import Failure

ME = Identity("alice", *OWNER, ACCOUNT)
FIELDS = {
    wire.TLV_CODE: b"\0",
    wire.TLV_ACCOUNT: b"d" * 8,
    wire.TLV_MAX_RECORD: b"\x04\x10",
    wire.TLV_WINDOW: b"\0\0\x10\0",
    wire.TLV_SESSIONS_LEFT: b"\3",
}
RAW, FLIPPED, PAYLOAD, HELLO = range(4)
GOOD = control.encode_fields(FIELDS, 26)
SEEDS = [
    bytes([RAW]) + bytes([wire.VERSION, wire.TYPE_M2]) + bytes(wire.M2_BYTES - 2),
    bytes([FLIPPED, 0, 11, 1]),
    bytes([FLIPPED, 0, 44, 1]),
    bytes([FLIPPED, 0, 0, 0]),
    bytes([PAYLOAD]) + GOOD,
    bytes([PAYLOAD]) + GOOD[3:],
    bytes([PAYLOAD, wire.TLV_CODE, 1, wire.BUSY]),
    bytes([PAYLOAD, wire.TLV_CODE, 1, 255]),
    bytes([PAYLOAD]) + control.encode_fields(FIELDS | {wire.TLV_WINDOW: bytes(4)}, 40),
    bytes([HELLO]) + control.encode_hello(b"e" * 16),
    bytes([HELLO]),
]


def _message(topic: str, payload: bytes) -> aiomqtt.Message:
    return aiomqtt.Message(topic, payload, 0, False, 1, Properties(3))


def one(data: bytes) -> None:
    feed = Feed(data)
    mode = feed.number() % 4
    responder = control.Responder(DEVICE, 0)
    call = _Call(ME, ACCOUNT, "pi", DEVICE[1], PSK)
    if mode == HELLO:
        said = feed.rest()
        call.receive(_message(call.hello, said))
        whole = len(said) == wire.HELLO_BYTES and said[0] == wire.VERSION
        assert call.epoch == (said[1:17] if whole else None)
        return
    call.receive(_message(call.hello, control.encode_hello(responder.epoch)))
    m1 = call.next_message_1()
    accepted = responder.receive_message_1(m1, OWNER_FP, _find, 0)
    assert accepted is not None
    good = mine = hostile.message_2(accepted, feed.rest() if mode == PAYLOAD else GOOD)
    if mode == RAW:
        mine = feed.rest()
    elif mode == FLIPPED:
        mine = xor(good, feed.number(2), feed.rest())
    try:
        call.receive(_message(call.inbox, mine))
    except Failure as failure:
        assert mode == PAYLOAD and failure.code
    if call.answer is not None:
        assert mine == good and call.answer.handshake.h == accepted.handshake.h
        assert call.answer.offer.max_record >= _LEAST_RECORD and call.answer.offer.window > 0
        assert len(call.answer.account) == wire.ACCOUNT_BYTES
    else:
        assert mode == PAYLOAD or mine != good
