"""The handshake against itself: what a failed message may change (nothing), and every bit that must matter."""

from check import raises
from zts import crypto, noise
from zts.errors import CryptoError, LocalError


def keypair(seed):
    private = bytes([seed]) * 32
    return private, crypto.x25519_public(private)


CLIENT = keypair(1)
DEVICE = keypair(2)
PSK = b"p" * 32
PROLOGUE = b"ZTS/1 test"


def initiator(psk=PSK, prologue=PROLOGUE, s=CLIENT, rs=DEVICE[1]):
    return noise.HandshakeState(True, prologue, s, rs, psk, bytes([3]) * 32)


def responder(psk=PSK, prologue=PROLOGUE, s=DEVICE):
    return noise.HandshakeState(False, prologue, s, None, psk, bytes([4]) * 32)


def test_both_sides_come_to_the_same_keys():
    i, r = initiator(), responder()
    assert r.read_message(i.write_message(b"one")) == b"one"
    assert r.rs == CLIENT[1]
    assert i.read_message(r.write_message(b"two")) == b"two"
    assert i.h == r.h and i.split() == r.split() and len(i.split()[0]) == 32


def test_every_flipped_byte_of_message_1_fails_and_changes_nothing():
    m1 = initiator().write_message(b"payload")
    r = responder()
    for at in range(len(m1)):
        bad = bytearray(m1)
        bad[at] ^= 1 << at % 8
        if at == 31:
            bad[at] ^= 0x80 ^ 1 << at % 8  # RFC 7748 ignores the top bit of a u-coordinate; h does not
        raises(CryptoError, r.read_message, bytes(bad))
    assert r.read_message(m1) == b"payload" and r.rs == CLIENT[1]


def test_every_flipped_byte_of_message_2_fails_and_changes_nothing():
    i, r = initiator(), responder()
    r.read_message(i.write_message(b""))
    m2 = r.write_message(b"payload")
    for at in range(len(m2)):
        bad = bytearray(m2)
        bad[at] ^= 0x80
        raises(CryptoError, i.read_message, bytes(bad))
    assert i.read_message(m2) == b"payload" and i.split() == r.split()


def test_every_cut_length_fails():
    i, r = initiator(), responder()
    m1 = i.write_message(b"")
    for n in range(len(m1)):
        raises(CryptoError, r.read_message, m1[:n])
    r.read_message(m1)
    m2 = r.write_message(b"")
    for n in range(len(m2)):
        raises(CryptoError, i.read_message, m2[:n])


def test_wrong_psk_prologue_or_key_fails():
    i, r = initiator(), responder(psk=b"q" * 32)
    r.read_message(i.write_message(b""))
    raises(CryptoError, i.read_message, r.write_message(b""))
    raises(CryptoError, responder(prologue=b"other").read_message, initiator().write_message(b""))
    raises(CryptoError, responder(s=keypair(9)).read_message, initiator().write_message(b""))


def test_small_order_points_are_refused():
    m1 = initiator().write_message(b"")
    for point in (bytes(32), b"\x01" + bytes(31)):
        raises(CryptoError, responder().read_message, point + m1[32:])
        raises(CryptoError, initiator(rs=point).write_message, b"")


def test_messages_out_of_turn_are_refused():
    i, r = initiator(), responder()
    raises(LocalError, r.write_message, b"")
    raises(LocalError, i.read_message, bytes(100))
    raises(LocalError, i.split)
    m1 = i.write_message(b"")
    raises(LocalError, i.write_message, b"")
    r.read_message(m1)
    raises(LocalError, r.read_message, m1)


def test_ephemerals_differ_also_when_none_is_injected():
    seen = set()
    for _ in range(3):
        i = noise.HandshakeState(True, PROLOGUE, CLIENT, DEVICE[1], PSK)
        seen.add(i.write_message(b"")[:32])
    assert len(seen) == 3


def test_rekey_is_the_specifications():
    k = bytes(range(32))
    assert noise.rekey(k) == crypto.Aead(k).seal(bytes(4) + b"\xff" * 8, bytes(32), b"")[:32] != k
    assert noise.nonce(0x0102030405060708) == bytes(4) + bytes(range(1, 9))
