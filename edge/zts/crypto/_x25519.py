"""X25519 (RFC 7748) on MicroPython: a Montgomery ladder without secret-dependent branches or indices.

A field element is 20 limbs of 13 bits, least significant first, one per 32-bit word: limb i counts 2^(13 i), and 2^260 = 608 mod p.
Elements are kept loosely reduced: limbs at most 8192, so that the largest column of a product, 20 * 8192^2 < 2^31, and the carry
into it fit in a signed word. The work space is a row of elements; 0 and 1 are the columns of a product. A program is a row of
(op, result, left, right), elements by their number in the work space; op 1 to 253 multiplies, then squares the result op - 1 times.
"""

import micropython
from micropython import const

_ADD = const(0)
_SUB = const(255)
_A24 = const(254)  # times 121665 = (486662 - 2) / 4, RFC 7748's a24

_SIZE = const(11 * 80)
_X1 = const(2)
_X2 = const(3)
_Z2 = const(4)
_X3 = const(5)
_Z3 = const(6)
_A = const(7)
_B = const(8)
_C = const(9)
_D = const(10)

# One step of the ladder, RFC 7748 section 5: (x2:z2) is doubled, (x3:z3) becomes the sum.
_STEP = bytes(
    (_ADD, _A, _X2, _Z2, _SUB, _B, _X2, _Z2, _ADD, _C, _X3, _Z3, _SUB, _D, _X3, _Z3)
    + (1, _D, _D, _A, 1, _C, _C, _B, 1, _A, _A, _A, 1, _B, _B, _B)
    + (_ADD, _X3, _D, _C, 1, _X3, _X3, _X3, _SUB, _Z3, _D, _C, 1, _Z3, _Z3, _Z3, 1, _Z3, _Z3, _X1)
    + (1, _X2, _A, _B, _SUB, _B, _A, _B, _A24, _Z2, _B, _B, _ADD, _Z2, _Z2, _A, 1, _Z2, _Z2, _B)
)
# x2 / z2 = x2 * z2^(p - 2). Powers of z2: A = 2, B = 9, A = 11, C = 2^5 - 1, 2^10 - 1, D = 2^20 - 1, 2^40 - 1, C = 2^50 - 1,
# D = 2^100 - 1, 2^200 - 1, 2^250 - 1, and 2^255 - 21 = p - 2.
_DIVIDE = bytes(
    (1, _A, _Z2, _Z2, 2, _B, _A, _A, 1, _B, _B, _Z2, 1, _A, _A, _B, 1, _C, _A, _A, 1, _C, _C, _B)
    + (5, _D, _C, _C, 1, _C, _D, _C, 10, _D, _C, _C, 1, _D, _D, _C, 20, _X3, _D, _D, 1, _D, _X3, _D, 10, _D, _D, _D, 1, _C, _D, _C)
    + (50, _D, _C, _C, 1, _D, _D, _C, 100, _X3, _D, _D, 1, _D, _X3, _D, 50, _D, _D, _D, 1, _D, _D, _C)
    + (5, _D, _D, _D, 1, _D, _D, _A, 1, _X2, _X2, _D)
)


@micropython.viper
def _run(x: int, p: ptr32, program: ptr8):
    # x is the program's length, p the work space. They are the first arguments, and used again for what the inner loops need most,
    # because viper keeps the first two locals in registers. Loops are unrolled and steps are short because every operation on
    # another local is a load and a store.
    w = p
    end = x
    pc = 0
    while pc < end:
        op = program[pc]
        r = ptr32(int(w) + 80 * program[pc + 1])
        a = ptr32(int(w) + 80 * program[pc + 2])
        b = ptr32(int(w) + 80 * program[pc + 3])
        pc += 4
        repeat = 1
        if op == 0:
            for i in range(20):
                r[i] = a[i] + b[i]
        elif op == 255:
            # Plus 64 p = 2^261 - 1216, written with limbs that no limb of b exceeds.
            x = 15168
            for i in range(20):
                r[i] = a[i] + x - b[i]
                x = 16382
        elif op == 254:
            for i in range(20):
                r[i] = a[i] * 121665
        else:
            repeat = op
        while repeat:
            repeat -= 1
            passes = 1
            if 0 < op < 254:
                p = w
                for _ in range(4):
                    p[0] = 0
                    p[1] = 0
                    p[2] = 0
                    p[3] = 0
                    p[4] = 0
                    p[5] = 0
                    p[6] = 0
                    p[7] = 0
                    p[8] = 0
                    p[9] = 0
                    p = ptr32(int(p) + 40)
                t = w
                p = b
                for i in range(20):
                    x = a[i]
                    t[0] = t[0] + x * p[0]
                    t[1] = t[1] + x * p[1]
                    t[2] = t[2] + x * p[2]
                    t[3] = t[3] + x * p[3]
                    t[4] = t[4] + x * p[4]
                    t[5] = t[5] + x * p[5]
                    t[6] = t[6] + x * p[6]
                    t[7] = t[7] + x * p[7]
                    t[8] = t[8] + x * p[8]
                    t[9] = t[9] + x * p[9]
                    t[10] = t[10] + x * p[10]
                    t[11] = t[11] + x * p[11]
                    t[12] = t[12] + x * p[12]
                    t[13] = t[13] + x * p[13]
                    t[14] = t[14] + x * p[14]
                    t[15] = t[15] + x * p[15]
                    t[16] = t[16] + x * p[16]
                    t[17] = t[17] + x * p[17]
                    t[18] = t[18] + x * p[18]
                    t[19] = t[19] + x * p[19]
                    t = ptr32(int(t) + 4)
                # The upper half's carries, so that it can be folded into the lower half.
                x = 0
                p = ptr32(int(w) + 80)
                for _ in range(4):
                    x += p[0]
                    p[0] = x & 8191
                    x >>= 13
                    x += p[1]
                    p[1] = x & 8191
                    x >>= 13
                    x += p[2]
                    p[2] = x & 8191
                    x >>= 13
                    x += p[3]
                    p[3] = x & 8191
                    x >>= 13
                    x += p[4]
                    p[4] = x & 8191
                    x >>= 13
                    p = ptr32(int(p) + 20)
                w[39] = w[39] + (x << 13)
                t = w
                p = r
                for _ in range(4):
                    p[0] = t[0] + 608 * t[20]
                    p[1] = t[1] + 608 * t[21]
                    p[2] = t[2] + 608 * t[22]
                    p[3] = t[3] + 608 * t[23]
                    p[4] = t[4] + 608 * t[24]
                    p = ptr32(int(p) + 20)
                    t = ptr32(int(t) + 20)
                a = r
                b = r
            if 0 < op < 255:
                passes = 2  # of carries: limbs come close to 2^31, and what leaves limb 19 is too much for limb 1
            while passes:
                passes -= 1
                x = 0
                p = r
                for _ in range(4):
                    x += p[0]
                    p[0] = x & 8191
                    x >>= 13
                    x += p[1]
                    p[1] = x & 8191
                    x >>= 13
                    x += p[2]
                    p[2] = x & 8191
                    x >>= 13
                    x += p[3]
                    p[3] = x & 8191
                    x >>= 13
                    x += p[4]
                    p[4] = x & 8191
                    x >>= 13
                    p = ptr32(int(p) + 20)
                x = x * 608 + r[0]
                r[0] = x & 8191
                r[1] = r[1] + (x >> 13)


@micropython.viper
def _swap(w: ptr32, k: ptr8, bit: int):
    # Swaps (x2:z2) and (x3:z3) if this bit of k and the one above differ.
    s = (k[bit >> 3] >> (bit & 7)) & 1
    bit += 1
    s = 0 - (s ^ ((k[bit >> 3] >> (bit & 7)) & 1))
    for i in range(_X2 * 20, _X3 * 20):
        d = (w[i] ^ w[i + 40]) & s
        w[i] ^= d
        w[i + 40] ^= d


@micropython.viper
def _unpack(w: ptr32, u: ptr8):
    # 32 bytes and 2 of padding, little-endian, into 20 limbs.
    for i in range(20):
        bit = 13 * i
        at = bit >> 3
        w[i] = ((u[at] | u[at + 1] << 8 | u[at + 2] << 16) >> (bit & 7)) & 8191


@micropython.viper
def _pack(w: ptr32, out: ptr8):
    # Reduces the element to 0 .. p - 1 and writes it as 32 bytes, little-endian.
    x = 0
    for i in range(3):
        # Limb 19 starts at bit 247; 2^255 = 19. The third time, 19 is added first to see whether the value is p or more.
        if i == 2:
            x = 19
            for j in range(19):
                x = (x + w[j]) >> 13
        x = 19 * ((x + w[19]) >> 8)
        w[19] = w[19] & 255
        for j in range(19):
            x += w[j]
            w[j] = x & 8191
            x >>= 13
        w[19] = w[19] + x
        x = 0
    w[19] = w[19] & 255
    at = 0
    bits = 0
    for i in range(20):
        x |= w[i] << bits
        bits += 13
        while bits >= 8 and at < 32:
            out[at] = x
            x >>= 8
            bits -= 8
            at += 1


def scalar_mult(private, public):
    # RFC 7748 section 5: X25519(private, public), both of 32 bytes; the top bit of `public` is ignored.
    k = bytearray(private)
    k[0] &= 248
    k[31] = k[31] & 127 | 64
    u = bytearray(34)
    u[:32] = public
    u[31] &= 127
    w = bytearray(_SIZE)
    v = memoryview(w)
    _unpack(v[_X1 * 80 :], u)
    _unpack(v[_X3 * 80 :], u)
    w[_X2 * 80] = 1
    w[_Z3 * 80] = 1
    for bit in range(254, -1, -1):
        _swap(w, k, bit)
        _run(len(_STEP), w, _STEP)
    _run(len(_DIVIDE), w, _DIVIDE)
    _pack(v[_X2 * 80 :], u)
    return bytes(u[:32])
