"""The device's viper code under 32-bit words, with alignment and bounds checked, and its freedom from secret branches and indices."""

import os
import random
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import board
import viper32
from zts.errors import CryptoError

P = 2**255 - 19
LIMBS = 20
TOP = 8192  # what a limb may be, says _x25519
GCM = board.EDGE / "zts/crypto/_gcm.py"
X25519 = board.EDGE / "zts/crypto/_x25519.py"


class Aes:
    """cryptolib.aes in ECB mode."""

    def __init__(self, key: bytes, mode: int) -> None:
        assert mode == 1
        self._cipher = Cipher(algorithms.AES256(bytes(key)), modes.ECB())

    def encrypt(self, source: memoryview, target: memoryview) -> None:
        target[:] = self._cipher.encryptor().update(bytes(source))


gcm = viper32.load(GCM, "gcm32", aes=Aes)
x25519 = viper32.load(X25519, "x25519_32")


def element(value: int) -> bytes:
    return b"".join((value >> 13 * i & 8191).to_bytes(4, "little") for i in range(LIMBS))


def number(work: bytes | bytearray, index: int) -> int:
    limbs = [int.from_bytes(work[80 * index + 4 * i : 80 * index + 4 * i + 4], "little") for i in range(LIMBS)]
    assert max(limbs) <= TOP
    return sum(limb << 13 * i for i, limb in enumerate(limbs))


@pytest.mark.parametrize(("n", "start"), [*((n, start) for n in (0, 1, 15, 16, 17, 47) for start in range(4)), (1024, 0), (1041, 3)])
def test_gcm(n: int, start: int) -> None:
    r = random.Random(n)
    key, nonce, ad, message = r.randbytes(32), r.randbytes(12), r.randbytes(6), r.randbytes(n)
    sealed = AESGCM(key).encrypt(nonce, message, ad)
    aead = gcm.Aead(key)
    assert aead.seal(nonce, memoryview(bytearray(start) + message)[start:], ad) == sealed
    assert aead.open_(nonce, memoryview(bytearray(start) + sealed)[start:], ad) == message
    bad = bytearray(sealed)
    bad[r.randrange(n + 16)] ^= 1
    with pytest.raises(CryptoError):
        aead.open_(nonce, bad, ad)


def test_gcm_full_words() -> None:
    """All bits set is where products are largest."""
    key, nonce = b"\xff" * 32, b"\xff" * 12
    for length in (32, 33):
        ones = b"\xff" * length
        assert gcm.Aead(key).seal(nonce, ones, ones) == AESGCM(key).encrypt(nonce, ones, ones)


def test_field_at_its_limits() -> None:
    """Every operation on the largest limbs there may be, and on 0, 1, p and around: right mod p, and as reduced as promised."""
    full = b"".join(TOP.to_bytes(4, "little") for _ in range(LIMBS))
    values = [full] + [element(v) for v in (0, 1, P - 1, P, P + 1, 2**255, 2**260 - 1, random.Random(1).getrandbits(255))]
    a24, add, sub, multiply, square_twice = 254, 0, 255, 1, 3
    for a in values:
        for b in values:
            for op in (a24, add, sub, multiply, square_twice):
                work = bytearray(80 * 11)
                work[240:320], work[320:400] = a, b
                x, y = number(work, 3), number(work, 4)
                x25519._run(4, work, bytes((op, 5, 3, 4)))
                expected = {a24: x * 121665, add: x + y, sub: x - y, multiply: x * y, square_twice: (x * y) ** 4}[op]
                assert (number(work, 5) - expected) % P == 0, (op, x, y)
                assert (number(work, 3), number(work, 4)) == (x, y)
                x25519._run(4, work, bytes((op, 3, 3, 3)))  # in place
                expected = {a24: x * 121665, add: 2 * x, sub: 0, multiply: x * x, square_twice: x**8}[op]
                assert (number(work, 3) - expected) % P == 0, (op, x)


def test_packing_reduces_fully() -> None:
    r = random.Random(2)
    for value in [0, 1, 18, 19, P - 1, P, P + 1, 2 * P - 1, 2 * P, 2**255, 2**260 - 1, *(r.getrandbits(260) for _ in range(40))]:
        out = bytearray(34)
        x25519._pack(bytearray(element(value)), out)
        assert out[:32] == (value % P).to_bytes(32, "little") and not any(out[32:]), value
    full = bytearray(b"".join(TOP.to_bytes(4, "little") for _ in range(LIMBS)))
    value, out = number(full, 0), bytearray(34)
    x25519._pack(full, out)
    assert out[:32] == (value % P).to_bytes(32, "little")
    for _ in range(20):
        u = r.randbytes(32)
        work = bytearray(80)
        x25519._unpack(work, bytearray(u + bytes(2)))
        assert number(work, 0) == int.from_bytes(u, "little")


def ladder(k: bytes | bytearray, u: int, bits: int) -> bytearray:
    """The work space after the ladder's first steps."""
    work = bytearray(80 * 11)
    work[160:240] = work[400:480] = element(u)
    work[240] = work[480] = 1
    for bit in range(254, 254 - bits, -1):
        x25519._swap(work, bytearray(k), bit)
        x25519._run(len(x25519._STEP), work, x25519._STEP)
    return work


def test_ladder_steps() -> None:
    """The first steps against the curve's formulas: (x2:z2) is [n]u and (x3:z3) is [n + 1]u, n the bits seen so far."""

    def times(n: int, u: int) -> tuple[int, int]:
        x2, z2, x3, z3 = 1, 0, u, 1
        for bit in bin(n)[2:]:
            if bit == "1":
                x2, z2, x3, z3 = x3, z3, x2, z2
            a, b, c, d = (x2 + z2) ** 2, (x2 - z2) ** 2, (x3 + z3) * (x2 - z2), (x3 - z3) * (x2 + z2)
            x3, z3 = (c + d) ** 2 % P, u * (c - d) ** 2 % P
            x2, z2 = a * b % P, (a - b) * (a + 121665 * (a - b)) % P
            if bit == "1":
                x2, z2, x3, z3 = x3, z3, x2, z2
        return x2, z2

    for seed in (1, 2):
        r = random.Random(seed)
        k, u = bytearray(r.randbytes(32)), r.getrandbits(254)
        k[31] = k[31] & 127 | 64
        work = ladder(k, u, 6)
        n = int.from_bytes(k, "little") >> 249
        at = 5 if n & 1 else 3  # after an odd bit the pairs are swapped until the next step
        x, z = number(work, at), number(work, at + 1)
        x0, z0 = times(n, u)
        assert (x * z0 - x0 * z) % P == 0 and z % P


def test_division() -> None:
    for z in (P - 1, random.Random(3).getrandbits(255)):
        work = bytearray(80 * 11)
        work[240:320], work[320:400] = element(12345), element(z)
        x25519._run(len(x25519._DIVIDE), work, x25519._DIVIDE)
        assert number(work, 3) * z % P == 12345


def test_x25519_no_secret_branch_or_index() -> None:
    """Two private keys: the same lines run, the same memory is touched, in the same order."""

    def observed(k: bytes) -> tuple[list[tuple[int, int]], list[int]]:
        viper32.trace = []
        try:
            lines = viper32.lines_of(lambda: x25519._pack(ladder(k, 9, 2), bytearray(34)), X25519)
            return viper32.trace, lines
        finally:
            viper32.trace = None

    first = observed(b"\x00" * 31 + b"\x40")
    assert len(first[0]) > 10_000 and len(first[1]) > 1_000
    for k in (b"\xff" * 31 + b"\x7f", os.urandom(31) + b"\x60"):
        assert observed(k) == first


def test_gcm_no_secret_branch_or_index() -> None:
    def observed(key: bytes, message: bytes) -> tuple[list[tuple[int, int]], list[int]]:
        viper32.trace = []
        try:
            lines = viper32.lines_of(lambda: gcm.Aead(key).seal(bytes(12), message, b"ad"), GCM)
            return viper32.trace, lines
        finally:
            viper32.trace = None

    first = observed(bytes(32), bytes(40))
    assert len(first[0]) > 500
    for _ in range(2):
        assert observed(os.urandom(32), os.urandom(40)) == first


def test_the_emulation_notices(tmp_path: Path) -> None:
    """What it is there for: wrapping, alignment, bounds, shifts that differ between chips, branches on secrets."""
    assert viper32.Int(0x7FFFFFFF) + 1 == -0x80000000 and viper32.Int(-1) >> 28 == -1
    assert viper32.UInt(0) - 1 == 0xFFFFFFFF and viper32.UInt(0x80000000) >> 31 == 1
    assert 3 - viper32.Int(5) == -2
    buffer = bytearray(16)
    assert viper32.Ptr32(memoryview(buffer)[4:])[0] == 0
    with pytest.raises(AssertionError, match="unaligned"):
        viper32.Ptr32(memoryview(buffer)[2:])[0]
    with pytest.raises(AssertionError, match="bounds"):
        viper32.Ptr32(buffer)[4]
    with pytest.raises(AssertionError, match="shift"):
        viper32.Int(1) << 32
    path = tmp_path / "leaky.py"
    path.write_text("import micropython\n@micropython.viper\ndef f(a: ptr8, k: int):\n    if k:\n        a[0] = 1\n    a[k] = 2\n")
    leaky = viper32.load(path, "leaky")
    assert viper32.lines_of(lambda: leaky.f(buffer, 0), path) != viper32.lines_of(lambda: leaky.f(buffer, 1), path)
    viper32.trace = []
    try:
        leaky.f(buffer, 0)
        leaky.f(buffer, 3)
        assert viper32.trace == [(0, 1), (0, 1), (3, 1)]
    finally:
        viper32.trace = None
