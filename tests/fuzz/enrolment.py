"""The relay's desk: only who holds a code or a party's key gets a message 2, everybody else silence; nothing raises, and no
message makes more parties than there were codes."""

import atexit
import functools

from fuzz import hostile
from fuzz.feed import Feed, folder, key_pair, xor
from zts import codes, control, wire
from zts.errors import RemoteError
from zts.initiator import Initiator
from zts_relay.enrolment import Desk
from zts_relay.registry import DEVICE, OWNER, Registry

PARTY, OWNED = key_pair(b"party"), key_pair(b"owner")
CHALLENGE = b"c" * wire.CHALLENGE_BYTES
RAW, FLIPPED, FLIPPED_SIGNED, PAYLOAD = range(4)
# mode, kind, who asks
SEEDS = [
    bytes([RAW, 0, 0, wire.VERSION, wire.TYPE_M1]) + bytes(wire.M1_BYTES - 2),
    bytes([FLIPPED, 0, 0, 0, 30, 1]),
    bytes([FLIPPED_SIGNED, 0, 0, 0, 3, 1]),
    bytes([FLIPPED_SIGNED, 1, 1, 0, 80, 1]),
    bytes([PAYLOAD, 0, 0, wire.TLV_NAME, 5]) + b"alice",
    bytes([PAYLOAD, 0, 0, wire.TLV_NAME, 0]),
    bytes([PAYLOAD, 0, 0, wire.TLV_NAME, 3]) + b"\xff\xfe\xfd",
    bytes([PAYLOAD, 1, 1]),
    bytes([PAYLOAD, 1, 0]),
    bytes([PAYLOAD, 2, 1, wire.TLV_CODE_ID, 8]) + b"12345678",
    bytes([PAYLOAD, 2, 1]),
]


class _Lab:
    """A desk, a code for a device, and an owner."""

    def __init__(self) -> None:
        self.now = 0
        self.registry = Registry(folder("registry"))
        atexit.register(self.registry.close)
        self.desk = Desk(self.registry, "mqtts://:7441", b"p" * 32, self._clock, lambda: None, lambda party: None)
        secret = self.registry.make_code(OWNER)
        assert secret
        owner = self.registry.enrol(codes.code_id(secret), OWNED[1], "owner").party
        assert owner
        code = self.registry.make_code(DEVICE, owner.account)
        assert code
        self.code_hint, self.code_psk = codes.code_id(code), codes.code_psk(code)
        self.owner_hint, self.owner_psk = owner.account, control.party_psk(self.registry.leg_key(owner.account))

    def _clock(self) -> int:
        self.now += 1000  # so that the rate limit never bites
        return self.now


@functools.cache
def _lab() -> _Lab:
    return _Lab()


def one(data: bytes) -> None:
    lab = _lab()
    feed = Feed(data)
    mode, kind, owns = feed.number() % 4, feed.number() % 3, feed.number() % 2
    if mode == RAW:
        assert lab.desk.answer(feed.rest(), CHALLENGE, b"src") is None
        return
    pair = OWNED if owns else PARTY
    hint, psk = (lab.owner_hint, lab.owner_psk) if owns else (lab.code_hint, lab.code_psk)
    initiator = Initiator(wire.PURPOSE_RELAY, pair, lab.registry.public, psk, CHALLENGE, kind, hint)
    m1 = good = hostile.message_1(initiator, feed.rest() if mode == PAYLOAD else b"", psk, CHALLENGE)
    if mode != PAYLOAD:
        m1 = xor(good, feed.number(2), feed.rest())
        if mode == FLIPPED_SIGNED:
            m1 = hostile.sign(m1, psk, CHALLENGE)
    m2 = lab.desk.answer(m1, CHALLENGE, b"src")
    known = (kind == wire.KIND_ENROL) != bool(owns)  # a code enrols, an account asks
    assert (m2 is not None) == (m1 == good and known)
    if m2 is not None:
        try:
            answer = initiator.read_message_2(m2)
        except RemoteError:
            raise AssertionError("the relay's message 2 is not understood") from None
        assert answer is not None
    assert len(lab.registry.parties()) <= 2
