"""Backend for CPython: OpenSSL through the `cryptography` package, and hmac of the standard library."""

import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from zts.errors import CryptoError, LocalError

Buffer = bytes | bytearray | memoryview

CODE = ("openssl", "openssl", "openssl")  # what runs AES, GHASH, X25519


def hmac_sha256(key: Buffer, data: Buffer) -> bytes:
    """HMAC-SHA-256 (RFC 2104): 32 bytes, a key of any length."""
    return hmac.digest(bytes(key), data, "sha256")


def equal(a: Buffer, b: Buffer) -> bool:
    """Whether two byte strings are the same; the time depends on the lengths only."""
    return hmac.compare_digest(a, b)


def x25519(private: Buffer, public: Buffer) -> bytes:
    """The shared secret of RFC 7748 section 5: 32 bytes. CryptoError if it is all zero (section 6.1)."""
    if len(private) != 32 or len(public) != 32:
        raise LocalError("x25519: keys have 32 bytes")
    try:
        return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(bytes(public)))
    except ValueError:
        raise CryptoError from None


def x25519_public(private: Buffer) -> bytes:
    """The public key of a private key, which is any 32 random bytes."""
    if len(private) != 32:
        raise LocalError("x25519: keys have 32 bytes")
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


class Aead:
    """AES-256-GCM (NIST SP 800-38D) with 12-byte nonces and 16-byte tags. The caller never uses a nonce twice."""

    __slots__ = ("_gcm",)

    def __init__(self, key: Buffer) -> None:
        if len(key) != 32:
            raise LocalError("Aead: the key has 32 bytes")
        self._gcm = AESGCM(key)

    def seal(self, nonce: Buffer, plaintext: Buffer, ad: Buffer) -> bytes:
        """Ciphertext and tag: 16 bytes more than `plaintext`. `ad` is authenticated, not enclosed."""
        if len(nonce) != 12:
            raise LocalError("Aead: the nonce has 12 bytes")
        return self._gcm.encrypt(nonce, plaintext, ad)

    def open_(self, nonce: Buffer, data: Buffer, ad: Buffer) -> bytes:
        """The plaintext of ciphertext and tag. CryptoError, and nothing else, unless all of it is authentic."""
        if len(nonce) != 12:
            raise LocalError("Aead: the nonce has 12 bytes")
        try:
            return self._gcm.decrypt(nonce, data, ad)
        except InvalidTag:
            raise CryptoError from None
