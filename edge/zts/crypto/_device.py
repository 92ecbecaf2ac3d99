"""Backend for MicroPython: hashlib and cryptolib in C, the rest in viper.

What takes a time that depends on secrets, and what does not:
- AES is cryptolib's: the chip's AES on an ESP32; on an rp2 software with tables, whose reads from RAM or flash may be told apart
  by someone who measures closely. Nothing in Python can change that.
- GHASH and X25519 (`_gcm`, `_x25519`) use no secret as an index or in a branch; they rely on a multiply of constant time, which
  the Xtensa, RISC-V and Cortex-M cores of supported boards have.
- equal() runs through all bytes. Python's own == on bytes does not: never use it on a MAC or a key.
- The garbage collector runs when it likes and never wipes: secrets stay in RAM until overwritten.
"""

import hashlib

import micropython

from zts.crypto._gcm import Aead as Aead
from zts.crypto._gcm import differ
from zts.crypto._x25519 import scalar_mult
from zts.errors import CryptoError, LocalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    Buffer = bytes | bytearray | memoryview

CODE = ("cryptolib", "viper", "viper")  # what runs AES, GHASH, X25519
_BASE = b"\x09" + bytes(31)  # u = 9, RFC 7748 section 4.1
_pad = bytearray(64)  # a key XORed with ipad or opad; SHA-256 works on blocks of 64


@micropython.viper
def _xor_pad(pad: ptr8, key: ptr8, n: int, value: int):
    for i in range(64):
        v = value
        if i < n:
            v = value ^ key[i]
        pad[i] = v


def hmac_sha256(key: "Buffer", data: "Buffer") -> bytes:
    """HMAC-SHA-256 (RFC 2104): 32 bytes, a key of any length."""
    if len(key) > 64:
        key = hashlib.sha256(key).digest()
    _xor_pad(_pad, key, len(key), 0x36)
    h = hashlib.sha256(_pad)
    h.update(data)
    inner = h.digest()
    _xor_pad(_pad, key, len(key), 0x5C)
    h = hashlib.sha256(_pad)
    h.update(inner)
    return h.digest()


def equal(a: "Buffer", b: "Buffer") -> bool:
    """Whether two byte strings are the same; the time depends on the lengths only."""
    return len(a) == len(b) and not differ(a, 0, b, 0, len(a))


def x25519(private: "Buffer", public: "Buffer") -> bytes:
    """The shared secret of RFC 7748 section 5: 32 bytes. CryptoError if it is all zero (section 6.1)."""
    if len(private) != 32 or len(public) != 32:
        raise LocalError("x25519: keys have 32 bytes")
    shared = scalar_mult(private, public)
    if equal(shared, bytes(32)):
        raise CryptoError
    return shared


def x25519_public(private: "Buffer") -> bytes:
    """The public key of a private key, which is any 32 random bytes."""
    return x25519(private, _BASE)
