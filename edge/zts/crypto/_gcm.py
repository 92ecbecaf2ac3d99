"""AES-256-GCM (NIST SP 800-38D) on MicroPython, in a time that does not depend on keys or data as far as AES's does not.

CTR is one cryptolib ECB call over counter blocks in a scratch buffer, then a XOR. The scratch is shared by all Aead objects, so a
call must not be interrupted by another one: no await, no second thread, no call from an interrupt.

GHASH multiplies polynomials over GF(2) without tables. A 128-bit number is 8 limbs of 16 bits; three levels of Karatsuba make 27
products of 16 by 16 bits. Each splits its factors into three, taking every third bit, and multiplies those as integers: at most 6
bits meet in a column, whose sum fits in the 3 bits of room, so that the lowest bit of a column is the product over GF(2).
Numbers stay below 2^32, and reads by ptr32 are turned to uint before a right shift, so 32- and 64-bit words agree.
"""

import struct
from array import array

import micropython
from cryptolib import aes

from zts.errors import CryptoError, LocalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    Buffer = bytes | bytearray | memoryview

_BATCH = 1024  # a board's longest record (wire.BOARD_MAX_RECORD) in one batch
_TAG_AT = 16 + _BATCH
_scratch = bytearray(_TAG_AT + 16)  # the block that masks the tag, key stream, room for a tag
_view = memoryview(_scratch)
_lengths = bytearray(16)

# GHASH's work space, in words: 0..26 factors, then products; 27..43 a zero, then the product's 16-bit columns; 44..51 the product.
# Between calls limb j of the running value lies at 9 * (j >> 2) + 3 * (j >> 1 & 1) + (j & 1).
_work = bytearray(52 * 4)
# Offsets in it, in bytes. Of the first column to which Karatsuba's terms 9i + 3j belong: 4 c(i) + 2 c(j), c = 0, 2, 1 for the low,
# the high and the middle term. Then of the limbs of the running value.
_COLUMNS = bytes(112 + 4 * c for c in (0, 4, 2, 8, 12, 10, 4, 8, 6)) + bytes((0, 4, 12, 16, 36, 40, 48, 52))


@micropython.viper
def differ(a: ptr8, a_at: int, b: ptr8, b_at: int, n: int) -> bool:
    """Whether a[a_at:a_at + n] and b[b_at:b_at + n] differ; reads all of both. The caller has checked the lengths."""
    d = 0
    for i in range(n):
        d |= a[a_at + i] ^ b[b_at + i]
    return d != 0


@micropython.viper
def _counters(out: ptr8, nonce: ptr8, before: int, blocks: int):
    # Block 0 is J0 (it masks the tag); the others count on from `before` data blocks.
    at = 0
    for b in range(blocks):
        for i in range(12):
            out[at + i] = nonce[i]
        c = 1
        if b > 0:
            c = before + b + 1
        out[at + 12] = c >> 24
        out[at + 13] = c >> 16
        out[at + 14] = c >> 8
        out[at + 15] = c
        at += 16


@micropython.viper
def _xor(out: ptr8, data: ptr8, at: int, n: int):
    # out[16:] ^= data[at:at + n]. Words where both are aligned: a Cortex-M0+ faults otherwise.
    i = 0
    if (int(data) + at) & 3 == 0:
        o = ptr32(int(out) + 16)
        d = ptr32(int(data) + at)
        w = n >> 2
        while i < w:
            o[i] = o[i] ^ d[i]
            i += 1
        i <<= 2
    while i < n:
        out[16 + i] = out[16 + i] ^ data[at + i]
        i += 1


@micropython.viper
def _ghash(p: ptr32, h: ptr16, data: ptr8, at: int, n: int, start: int):
    # Takes in data[at:at + n], its last block filled up with zeros. p is the work space, and then runs through it: viper keeps the
    # first two locals in registers, and an index that is a constant costs nothing.
    w = p
    factors = h
    columns = ptr8(_COLUMNS)
    if start:
        for i in range(14):
            w[i] = 0
    end = at + n
    m0 = 0x12492492
    m0 = (m0 << 2) | 1  # bits 0, 3, .. 30; too large for a literal, and for a constant the compiler folds
    while at < end:
        for j in range(8):
            v = 0
            if at + 1 < end:
                v = (data[at] << 8) | data[at + 1]
            elif at < end:
                v = data[at] << 8
            at += 2
            p = ptr32(int(w) + columns[16 - j])
            p[0] = p[0] ^ v
        p = w
        for _ in range(3):
            p[18] = p[0] ^ p[9]
            p[19] = p[1] ^ p[10]
            p[20] = p[2] ^ p[11]
            p = ptr32(int(p) + 12)
        p = w
        for _ in range(3):
            p[6] = p[0] ^ p[3]
            p[7] = p[1] ^ p[4]
            p[8] = p[2] ^ p[5]
            p = ptr32(int(p) + 36)
        p = w
        h = factors
        for _ in range(9):
            p[2] = p[0] ^ p[1]
            for _ in range(3):
                x0 = p[0]
                x1 = x0 & 0x2492
                x2 = x0 & 0x4924
                x0 &= 0x9249
                y0 = int(h[0])
                y1 = y0 & 0x2492
                y2 = y0 & 0x4924
                y0 &= 0x9249
                p[0] = (
                    ((x0 * y0 ^ x1 * y2 ^ x2 * y1) & m0)
                    | ((x0 * y1 ^ x1 * y0 ^ x2 * y2) & 0x12492492)
                    | ((x0 * y2 ^ x1 * y1 ^ x2 * y0) & 0x24924924)
                )
                p = ptr32(int(p) + 4)
                h = ptr16(int(h) + 2)
        p = w
        for _ in range(3):
            p[18] = p[18] ^ p[0] ^ p[9]
            p[19] = p[19] ^ p[1] ^ p[10]
            p[20] = p[20] ^ p[2] ^ p[11]
            p = ptr32(int(p) + 12)
        p = w
        for _ in range(3):
            p[6] = p[6] ^ p[0] ^ p[3]
            p[7] = p[7] ^ p[1] ^ p[4]
            p[8] = p[8] ^ p[2] ^ p[5]
            p = ptr32(int(p) + 36)
        p = ptr32(int(w) + 112)
        for _ in range(4):
            p[0] = 0
            p[1] = 0
            p[2] = 0
            p[3] = 0
            p = ptr32(int(p) + 16)
        q = w
        for g in range(9):
            # Three products: low, high, and the one of the sums.
            p = ptr32(int(w) + columns[g])
            x0 = q[0]
            x1 = q[1]
            p[0] = p[0] ^ x0
            p[1] = p[1] ^ q[2] ^ x0 ^ x1
            p[2] = p[2] ^ x1
            q = ptr32(int(q) + 12)
        # GCM's bits are mirrored: the product of two mirrored numbers must move up by one.
        p = ptr32(int(w) + 108)
        q = ptr32(int(w) + 176)
        for _ in range(8):
            q[0] = (p[1] << 1) ^ (p[2] << 17) ^ (p[0] >> 15)
            p = ptr32(int(p) + 8)
            q = ptr32(int(q) + 4)
        # x^128 = x^7 + x^2 + x + 1, mirrored: the low half goes up into the high half.
        p = ptr32(int(w) + 176)
        for _ in range(4):
            z = uint(p[0])
            p[4] = int(uint(p[4]) ^ z ^ (z >> 1) ^ (z >> 2) ^ (z >> 7))
            p[3] = int(uint(p[3]) ^ (z << 31) ^ (z << 30) ^ (z << 25))
            p = ptr32(int(p) + 4)
        for j in range(0, 8, 2):
            z = uint(p[0])
            q = ptr32(int(w) + columns[9 + j])
            q[0] = int(z) & 0xFFFF
            q[1] = int(z >> 16)
            p = ptr32(int(p) + 4)


@micropython.viper
def _tag(a: ptr32, out: ptr8, at: int):
    # out[at:at + 16] = GHASH's value, masked by the first block.
    for j in range(8):
        v = a[9 * (j >> 2) + 3 * ((j >> 1) & 1) + (j & 1)]
        i = 14 - 2 * j
        out[at + i] = out[i] ^ (v >> 8)
        out[at + i + 1] = out[i + 1] ^ v


def _factors(h):
    # The hash key's 27 factors of 16 bits, ordered as in _work.
    f = array("H", bytes(54))
    for j in range(8):
        f[9 * (j >> 2) + 3 * ((j >> 1) & 1) + (j & 1)] = h[14 - 2 * j] << 8 | h[15 - 2 * j]
    for i in range(9):
        f[18 + i] = f[i] ^ f[9 + i]
    for g in range(0, 27, 9):
        for i in range(g, g + 3):
            f[i + 6] = f[i] ^ f[i + 3]
    for g in range(0, 27, 3):
        f[g + 2] = f[g] ^ f[g + 1]
    return f


class Aead:
    """AES-256-GCM with 12-byte nonces and 16-byte tags. The caller never uses a nonce twice.

    An open message is returned only after its tag was checked. Not to be called from two threads.
    """

    def __init__(self, key: "Buffer") -> None:
        if len(key) != 32:
            raise LocalError("Aead: the key has 32 bytes")
        self._aes = aes(key, 1)
        h = bytearray(16)
        self._aes.encrypt(h, h)
        self._h = _factors(h)

    def _key_stream(self, nonce, at, n):
        # Fills the scratch with the block of the tag and with key stream for data[at:at + n].
        blocks = (n + 31) >> 4
        _counters(_scratch, nonce, at >> 4, blocks)
        v = _view[: blocks << 4]
        self._aes.encrypt(v, v)

    def _hash_lengths(self, ad, n):
        struct.pack_into(">QQ", _lengths, 0, len(ad) * 8, n * 8)
        _ghash(_work, self._h, _lengths, 0, 16, 0)

    def seal(self, nonce: "Buffer", plaintext: "Buffer", ad: "Buffer") -> bytes:
        """Ciphertext and tag: 16 bytes more than `plaintext`. `ad` is authenticated, not enclosed."""
        if len(nonce) != 12:
            raise LocalError("Aead: the nonce has 12 bytes")
        _ghash(_work, self._h, ad, 0, len(ad), 1)
        n = len(plaintext)
        at = 0
        out = b""
        while True:
            m = min(n - at, _BATCH)
            self._key_stream(nonce, at, m)
            _xor(_scratch, plaintext, at, m)
            _ghash(_work, self._h, _view[16:], 0, m, 0)
            at += m
            if at == n:
                break
            out += _view[16 : 16 + m]
        self._hash_lengths(ad, n)
        _tag(_work, _scratch, 16 + m)
        last = bytes(_view[16 : 32 + m])
        return out + last if out else last

    def open_(self, nonce: "Buffer", data: "Buffer", ad: "Buffer") -> bytes:
        """The plaintext of ciphertext and tag. CryptoError, and nothing else, unless all of it is authentic."""
        if len(nonce) != 12:
            raise LocalError("Aead: the nonce has 12 bytes")
        n = len(data) - 16
        if n < 0:
            raise CryptoError
        _ghash(_work, self._h, ad, 0, len(ad), 1)
        _ghash(_work, self._h, data, 0, n, 0)
        self._hash_lengths(ad, n)
        at = 0
        out = b""
        while True:
            m = min(n - at, _BATCH)
            self._key_stream(nonce, at, m)
            if at == 0:
                _tag(_work, _scratch, _TAG_AT)
                if differ(_scratch, _TAG_AT, data, n, 16):
                    raise CryptoError
            _xor(_scratch, data, at, m)
            at += m
            last = bytes(_view[16 : 16 + m])
            if at == n:
                return out + last if out else last
            out += last
