"""Grants: the chain against one of its own, and caveats that only ever take away."""

import hashlib

from check import raises
from zts import crypto, grant, wire
from zts.errors import RemoteError

PAIRING = bytes(range(32))
HOLDER = b"h" * wire.FP_BYTES
ID = b"\1\2abcdef"


def _holder(who=HOLDER):
    return grant.caveat(wire.CAVEAT_HOLDER, who)


def _services(text):
    return grant.caveat(wire.CAVEAT_SERVICES, text)


def _number(kind, value, size):
    return grant.caveat(kind, value.to_bytes(size, "big"))


def _hmac(key, data):
    """RFC 2104, written out."""
    pad = key + bytes(64 - len(key))
    inner = hashlib.sha256(bytes([b ^ 0x36 for b in pad]) + data).digest()
    return hashlib.sha256(bytes([b ^ 0x5C for b in pad]) + inner).digest()


def test_the_chain():
    caveats = [_holder(), _services(b"http"), _number(wire.CAVEAT_UNTIL, 1_800_000_000, 4)]
    key = grant.root(PAIRING, 0x0102)
    assert key == crypto.hkdf(b"", PAIRING, b"ZTS/1 grant\1\2") and grant.generation(ID) == 0x0102
    assert grant.mac_key(key, ID) == _hmac(key, b"mac1" + ID)
    expected = _hmac(key, b"tail" + ID)
    for one in caveats:
        expected = _hmac(expected, one)
    assert grant.tail(key, ID, b"".join(caveats)) == expected
    # Who holds a grant can narrow it, and the device comes to the same tail.
    narrower = grant.narrow(expected, _number(wire.CAVEAT_STREAMS, 1, 1))
    assert grant.tail(key, ID, b"".join(caveats) + _number(wire.CAVEAT_STREAMS, 1, 1)) == narrower


def test_no_two_grants_share_a_key():
    caveats = _holder() + _services(b"http")
    seen = set()
    for generation in (0, 1, 256):
        for pairing in (PAIRING, bytes(32)):
            key = grant.root(pairing, generation)
            for id_ in (ID, b"\1\2abcdeg", bytes(8)):
                seen.add(grant.mac_key(key, id_))
                for some in (caveats, _holder(), _services(b"http") + _holder(), _holder(b"i" * 15), caveats + _services(b"http")):
                    seen.add(grant.tail(key, id_, some))
    assert len(seen) == 3 * 2 * 3 * 6


def test_what_caveats_leave():
    none = (0, 0, 0, 0, False)
    for caveats, expected in (
        ((_holder(),), (HOLDER, False, None) + none),
        ((_holder(), _holder()), (HOLDER, False, None) + none),
        ((_services(b"http"), _holder()), (HOLDER, False, ["http"]) + none),
        ((_holder(), _services(b"http,ssh")), (HOLDER, False, ["http", "ssh"]) + none),
        ((_holder(), _services(b"*")), (HOLDER, False, ["*"]) + none),  # the name of no service
        ((_holder(), _services(b"")), (HOLDER, False, []) + none),
        ((_holder(), grant.caveat(wire.CAVEAT_MEMBER, b"")), (HOLDER, True, None) + none),
        ((_holder(), grant.caveat(wire.CAVEAT_MEMBER, b""), _services(b"http")), (HOLDER, True, ["http"]) + none),
        ((_holder(), _services(b"*"), _services(b"http")), (HOLDER, False, []) + none),
        ((_holder(), _services(b"http"), _services(b"*")), (HOLDER, False, []) + none),
        ((_holder(), _services(b"http,ssh"), _services(b"ssh,repl")), (HOLDER, False, ["ssh"]) + none),
        ((_holder(), _services(b"http"), _services(b"ssh")), (HOLDER, False, []) + none),
        ((_holder(), _services(b"http"), _services(b"ssh"), _services(b"*")), (HOLDER, False, []) + none),
        ((_holder(), _services(b"http"), _services(b"")), (HOLDER, False, []) + none),
        ((_holder(), _services(b"a,*"), _services(b"b")), (HOLDER, False, []) + none),
        (
            (_holder(), _number(wire.CAVEAT_UNTIL, 9, 4), _number(wire.CAVEAT_UNTIL, 7, 4), _number(wire.CAVEAT_UNTIL, 8, 4)),
            (HOLDER, False, None, 7, 0, 0, 0, False),
        ),
        ((_holder(), _number(wire.CAVEAT_STREAMS, 3, 1)), (HOLDER, False, None, 0, 3, 0, 0, False)),
        ((_holder(), _number(wire.CAVEAT_BYTES, 5, 8), _number(wire.CAVEAT_BYTES, 1 << 40, 8)), (HOLDER, False, None, 0, 0, 5, 0, False)),
        ((_holder(), _number(wire.CAVEAT_IDLE, 60, 2)), (HOLDER, False, None, 0, 0, 0, 60, False)),
        ((_holder(), grant.caveat(wire.CAVEAT_READ_ONLY, b"")), (HOLDER, False, None, 0, 0, 0, 0, True)),
    ):
        assert tuple(grant.read(b"".join(caveats))) == expected, caveats


def test_what_is_unclear_is_refused():
    good = _holder() + _services(b"http")
    cut, kind, nothing = "a caveat is cut", "a caveat of an unknown kind or a wrong size", "a caveat that leaves nothing"
    for caveats, reason in (
        (b"", "a grant without a holder"),
        (_services(b"http"), "a grant without a holder"),
        (_holder() + _holder(b"i" * 15), "a grant of two holders"),
        (_holder()[:-1], cut),
        (grant.caveat(wire.CAVEAT_HOLDER, b"h" * 14), kind),
        (grant.caveat(wire.CAVEAT_HOLDER, b"h" * 16), kind),
        (good + grant.caveat(0, b""), kind),
        (good + grant.caveat(9, b""), kind),
        (good + grant.caveat(wire.CAVEAT_MEMBER, b"\0"), kind),
        (good + grant.caveat(255, b"later"), kind),
        (good + grant.caveat(wire.CAVEAT_READ_ONLY, b"\0"), kind),
        (good + _services(b"\xff"), "a caveat's services are no names"),
        (good + _number(wire.CAVEAT_UNTIL, 1, 3), kind),
        (good + _number(wire.CAVEAT_UNTIL, 1, 8), kind),
        (good + _number(wire.CAVEAT_UNTIL, 0, 4), nothing),
        (good + _number(wire.CAVEAT_STREAMS, 0, 1), nothing),
        (good + _number(wire.CAVEAT_STREAMS, 1, 2), kind),
        (good + _number(wire.CAVEAT_BYTES, 0, 8), nothing),
        (good + _number(wire.CAVEAT_BYTES, 1, 4), kind),
        (good + _number(wire.CAVEAT_IDLE, 0, 2), nothing),
        (good + bytes([wire.CAVEAT_UNTIL]), cut),
        (good + bytes([wire.CAVEAT_UNTIL, 200]), cut),
        (_holder() * 12, "too many caveats"),
    ):
        assert reason in str(raises(RemoteError, grant.read, caveats)), caveats
    for size in range(len(good)):
        if size != len(_holder()):
            raises(RemoteError, grant.read, good[:size])
    full = _services(b"x" * (wire.CAVEATS_MAX_BYTES - 2 - len(_holder()))) + _holder()
    assert len(full) == wire.CAVEATS_MAX_BYTES and grant.read(full).holder == HOLDER
    raises(RemoteError, grant.read, full + grant.caveat(wire.CAVEAT_READ_ONLY, b""))
    raises(RemoteError, grant.tail, PAIRING, ID, good[:-1])


def test_the_narrower_of_two_limits():
    assert [grant.least(*pair) for pair in ((0, 0), (0, 5), (5, 0), (3, 5), (5, 3))] == [0, 5, 5, 3, 3]
