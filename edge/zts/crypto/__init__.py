"""The one cryptographic suite of ZTS: X25519, AES-256-GCM, SHA-256, HMAC, HKDF, a constant-time compare, random bytes.

Two backends offer the same names: `_host` (the `cryptography` package) and `_device` (MicroPython: cryptolib and viper).
Keys, digests and private keys are 32 bytes, nonces 12, tags 16. Wrong lengths of these raise LocalError, failed checks CryptoError.
"""

import hashlib
import sys

from zts.crypto._random import add_entropy as add_entropy
from zts.crypto._random import random_bytes as random_bytes
from zts.errors import LocalError

TYPE_CHECKING = False
if TYPE_CHECKING or sys.implementation.name != "micropython":
    from zts.crypto._host import CODE as CODE
    from zts.crypto._host import Aead as Aead
    from zts.crypto._host import equal as equal
    from zts.crypto._host import hmac_sha256 as hmac_sha256
    from zts.crypto._host import x25519 as x25519
    from zts.crypto._host import x25519_public as x25519_public
else:
    from zts.crypto._device import CODE as CODE
    from zts.crypto._device import Aead as Aead
    from zts.crypto._device import equal as equal
    from zts.crypto._device import hmac_sha256 as hmac_sha256
    from zts.crypto._device import x25519 as x25519
    from zts.crypto._device import x25519_public as x25519_public

if TYPE_CHECKING:
    Buffer = bytes | bytearray | memoryview


def sha256(data: "Buffer") -> bytes:
    """SHA-256 of `data`: 32 bytes."""
    return hashlib.sha256(data).digest()


def hkdf_extract(salt: "Buffer", ikm: "Buffer") -> bytes:
    """HKDF-Extract with SHA-256 (RFC 5869 section 2.2). An empty salt is the RFC's "not provided". 32 bytes."""
    return hmac_sha256(salt, ikm)


def hkdf_expand(prk: "Buffer", info: "Buffer", n: int) -> bytes:
    """HKDF-Expand with SHA-256 (RFC 5869 section 2.3): `n` bytes. LocalError beyond the RFC's 255 blocks of 32."""
    if not 0 <= n <= 8160:
        raise LocalError("hkdf_expand: at most 8160 bytes")
    info = bytes(info)
    block = b""
    out = b""
    i = 1
    while len(out) < n:
        block = hmac_sha256(prk, block + info + bytes((i,)))
        out += block
        i += 1
    return out[:n]


def hkdf(salt: "Buffer", ikm: "Buffer", info: "Buffer", n: int = 32) -> bytes:
    """HKDF-Extract, then HKDF-Expand to `n` bytes (RFC 5869 section 2)."""
    return hkdf_expand(hkdf_extract(salt, ikm), info, n)
