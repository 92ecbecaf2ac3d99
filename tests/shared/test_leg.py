"""Leg hello and leg header: every length, every flipped bit, every role and number that must not pass."""

from check import raises
from zts import leg, wire
from zts.errors import RemoteError

KEY = bytes(range(32))
CHALLENGE = bytes(range(16))
HELLO = leg.LegHello(wire.ROLE_CLIENT, 7, bytes(range(16)), b"account.", b"the peer")


def test_hello_reads_back_and_verifies():
    data = leg.encode_hello(HELLO, KEY, CHALLENGE)
    assert len(data) == wire.LEG_HELLO_BYTES
    assert leg.decode_hello(data) == HELLO and leg.verify_hello(data, KEY, CHALLENGE)


def test_every_flipped_bit_of_a_hello_is_refused():
    good = leg.encode_hello(HELLO, KEY, CHALLENGE)
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        assert not leg.verify_hello(bytes(bad), KEY, CHALLENGE)


def test_a_replayed_hello_or_another_key_is_refused():
    good = leg.encode_hello(HELLO, KEY, CHALLENGE)
    assert not leg.verify_hello(good, KEY, bytes(16))
    assert not leg.verify_hello(good, bytes(32), CHALLENGE)


def test_every_other_length_of_a_hello_is_refused():
    good = leg.encode_hello(HELLO, KEY, CHALLENGE)
    for n in range(100):
        if n != len(good):
            raises(RemoteError, leg.decode_hello, (good * 2)[:n])


def test_unknown_roles_and_number_zero_are_refused():
    for role in range(256):
        if role not in (wire.ROLE_CLIENT, wire.ROLE_DEVICE):
            raises(RemoteError, leg.decode_hello, leg.encode_hello(_with(role, 7), KEY, CHALLENGE))
    raises(RemoteError, leg.decode_hello, leg.encode_hello(_with(1, 0), KEY, CHALLENGE))


def _with(role, n):
    return leg.LegHello(role, n, HELLO.sid, HELLO.account, HELLO.peer)


def test_header_reads_back():
    data = leg.encode_header(wire.ROLE_DEVICE, 5, bytes(16))
    assert len(data) == wire.LEG_HEADER_BYTES
    assert leg.decode_header(data, wire.ROLE_CLIENT, 4) == leg.LegHeader(wire.ROLE_DEVICE, 5, bytes(16))


def test_headers_that_must_not_pass():
    good = leg.encode_header(wire.ROLE_DEVICE, 5, bytes(16))
    for n in range(40):
        if n != len(good):
            raises(RemoteError, leg.decode_header, (good * 2)[:n], wire.ROLE_CLIENT, 0)
    for bit in range(24):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        raises(RemoteError, leg.decode_header, bytes(bad), wire.ROLE_CLIENT, 0)
    raises(RemoteError, leg.decode_header, good, wire.ROLE_DEVICE, 0)
    raises(RemoteError, leg.decode_header, good, wire.ROLE_CLIENT, 5)
    raises(RemoteError, leg.decode_header, good, wire.ROLE_CLIENT, 6)
    for role in (0, 3, 255):
        raises(RemoteError, leg.decode_header, leg.encode_header(role, 5, bytes(16)), wire.ROLE_CLIENT, 0)
