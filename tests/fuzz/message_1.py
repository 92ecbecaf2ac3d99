"""Message 1 at a device: what it accepts came whole, and once, from the holder of psk and static key; it answers with a whole
message 2, and everything else it counts and passes over in silence."""

import asyncio

from fuzz import hostile
from fuzz.feed import Feed, key_pair, xor
from zts import control, identity, wire
from zts.errors import RemoteError
from zts.initiator import Initiator
from zts_agent.audit import Audit
from zts_agent.keystore import Keystore
from zts_agent.rules import Rules
from zts_agent.services import Services
from zts_agent.sessions import Sessions

OWNER, DEVICE, RELAY = key_pair(b"owner"), key_pair(b"device"), key_pair(b"relay")[1]
PSK = b"p" * 32
OWNER_FP = identity.fingerprint(OWNER[1])
PEER = control.make_peer(OWNER[1], PSK)
STORE = Keystore("nowhere")
STORE.state = {"owner": OWNER[1].hex(), "pairing": PSK.hex()}
ACCOUNT = identity.Account(RELAY, "127.0.0.1", 1, b"a" * 8, b"k" * 32, "password", b"", "mqtt://:1")
FIELDS = {
    wire.TLV_RELAY: identity.fingerprint(RELAY),
    wire.TLV_SID: b"s" * 16,
    wire.TLV_ACCOUNT: b"c" * 8,
    wire.TLV_MAX_RECORD: b"\xff\xff",
    wire.TLV_WINDOW: b"\0\x10\0\0",
}
GOOD = control.encode_fields(FIELDS, 2 * len(FIELDS) + 45)
RAW, FLIPPED, FLIPPED_SIGNED, PAYLOAD = range(4)
SEEDS = [
    bytes([RAW]) + bytes([wire.VERSION, wire.TYPE_M1]) + bytes(wire.M1_BYTES - 2),
    bytes([FLIPPED, 0, 40, 1]),
    bytes([FLIPPED, 1, 255, 255]),
    bytes([FLIPPED_SIGNED, 0, 59, 0x80]),
    bytes([FLIPPED_SIGNED, 0, 2, 1]),
    bytes([PAYLOAD]) + GOOD,
    bytes([PAYLOAD]) + GOOD[2 + wire.FP_BYTES :],
    bytes([PAYLOAD]) + control.encode_fields(FIELDS | {wire.TLV_MAX_RECORD: b"\0\1", wire.TLV_NAME: b"x"}, 70),
    bytes([PAYLOAD]) + control.encode_fields(FIELDS | {wire.TLV_RELAY: b"r" * 15}, 64) + b"\x07\x02ab\x8f\x01a",
]


def _find(sender: bytes, kind: int, hint: bytes) -> control.Peer | None:
    return PEER if sender == OWNER_FP and kind == wire.KIND_CONNECT and not any(hint) else None


async def _answer(accepted: control.Accepted) -> bytes:
    rules = Rules(STORE)
    sessions = Sessions(ACCOUNT, ("127.0.0.1", 1), rules, Audit(rules), Services({}), 1)
    m2 = sessions.answer(accepted)
    for running in sessions._running:
        running.task.cancel()  # before it could dial
    return m2


def one(data: bytes) -> None:
    feed = Feed(data)
    mode = feed.number() % 4
    responder = control.Responder(DEVICE, 0)
    if mode == RAW:
        assert responder.receive_message_1(feed.rest(), OWNER_FP, _find, 0) is None
        assert sum(responder.refused.values()) == 1
        return
    initiator = Initiator(wire.PURPOSE_CONNECT, OWNER, DEVICE[1], PSK, responder.epoch)
    if mode == PAYLOAD:
        _payload(responder, initiator, hostile.message_1(initiator, feed.rest(), PSK, responder.epoch))
        return
    good = initiator.message_1(FIELDS)
    m1 = xor(good, feed.number(2), feed.rest())
    if mode == FLIPPED_SIGNED:
        m1 = hostile.sign(m1, PSK, responder.epoch)
    accepted = responder.receive_message_1(m1, OWNER_FP, _find, 0)
    assert (accepted is not None) == (m1 == good)
    again = responder.receive_message_1(good, OWNER_FP, _find, 0)
    assert (again is None) == (m1 == good)


def _payload(responder: control.Responder, initiator: Initiator, m1: bytes) -> None:
    accepted = responder.receive_message_1(m1, OWNER_FP, _find, 0)
    if accepted is None:
        assert responder.refused == {"fields": 1}
        return
    m2 = asyncio.run(_answer(accepted))
    assert len(m2) == wire.M2_BYTES
    try:
        answer = initiator.read_message_2(m2)
    except RemoteError:
        raise AssertionError("our own message 2 is not understood") from None
    assert answer is not None
    right_relay = accepted.fields[wire.TLV_RELAY] == FIELDS[wire.TLV_RELAY]
    assert right_relay or answer[wire.TLV_CODE][0] == wire.DENIED
    assert responder.receive_message_1(m1, OWNER_FP, _find, 0) is None and responder.refused == {"replay": 1}
