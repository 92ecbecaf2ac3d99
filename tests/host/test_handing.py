"""A grant handed over: every changed bit and length, and everybody but the two, are met with silence."""

from zts import control, crypto, identity, wire
from zts.grant import caveat
from zts.initiator import Initiator
from zts_gateway import handing
from zts_gateway.addressbook import Identity, Party
from zts_gateway.introduction import GrantLine, join_keys

EPOCH = bytes(range(16))
RELAY = identity.base32(b"r" * 15)


def _person(name: str) -> Identity:
    private = crypto.sha256(name.encode())
    return Identity(name, private, crypto.x25519_public(private))


ALICE, BOB, EVE = map(_person, ("alice", "bob", "eve"))
AS_ALICE = Party("alice", ALICE.public, RELAY)
CAVEATS = caveat(wire.CAVEAT_HOLDER, identity.fingerprint(BOB.public))
LINE = GrantLine("pi", bytes(range(32)), RELAY, b"grant id", b"m" * 32, b"t" * 32, CAVEATS)
FIELDS = {
    wire.TLV_RELAY: b"r" * 15,
    wire.TLV_GRANT: join_keys(LINE),
    wire.TLV_CAVEATS: CAVEATS,
    wire.TLV_NAME: b"pi",
}


def _message_1(me: Identity = ALICE, fields: dict[int, bytes] = FIELDS, purpose: int = wire.PURPOSE_GIVE) -> tuple[Initiator, bytes]:
    initiator = Initiator(purpose, me.pair, BOB.public, handing._psk(ALICE.public, BOB.public), EPOCH)
    return initiator, initiator.message_1(fields)


def _read(m1: bytes, me: Identity = BOB, epoch: bytes = EPOCH) -> tuple[GrantLine, bytes] | None:
    return handing._read(me, AS_ALICE, m1, epoch, control.Bucket(4, 1000, 0))


def test_the_good_way() -> None:
    initiator, m1 = _message_1()
    taken = _read(m1)
    assert taken and taken[0] == LINE
    assert handing._is_taken([initiator], taken[1]) and not handing._is_taken([_message_1()[0]], taken[1])


def test_every_flipped_bit_and_every_other_length() -> None:
    _, m1 = _message_1()
    for bit in range(8 * len(m1)):
        changed = bytearray(m1)
        changed[bit // 8] ^= 1 << bit % 8
        assert _read(bytes(changed)) is None, bit
    for size in range(len(m1)):
        assert _read(m1[:size]) is None
    assert _read(m1 + b"\0") is None and _read(m1)


def test_anybody_else_and_anything_else() -> None:
    assert _read(_message_1(EVE)[1]) is None  # who knows both cards can make mac1, and no more
    assert _read(_message_1()[1], EVE) is None
    assert _read(_message_1()[1], epoch=bytes(16)) is None
    for purpose in (wire.PURPOSE_CONNECT, wire.PURPOSE_RELAY):
        assert _read(_message_1(purpose=purpose)[1]) is None
    for field in FIELDS:
        assert _read(_message_1(fields={kind: value for kind, value in FIELDS.items() if kind != field})[1]) is None
    for field, value in ((wire.TLV_NAME, b"Pi"), (wire.TLV_NAME, b"\xff"), (wire.TLV_CAVEATS, CAVEATS[:-1]), (wire.TLV_CAVEATS, b"")):
        assert _read(_message_1(fields={**FIELDS, field: value})[1]) is None


def test_the_rate_is_limited() -> None:
    bucket = control.Bucket(0, 2, 0)
    taken = [handing._read(BOB, AS_ALICE, _message_1(EVE)[1], EPOCH, bucket) for _ in range(3)]
    assert taken == [None] * 3 and handing._read(BOB, AS_ALICE, _message_1()[1], EPOCH, bucket) is None
