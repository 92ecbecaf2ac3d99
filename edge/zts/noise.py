"""Noise_IKpsk2_25519_AESGCM_SHA256, sans-IO, with the names of the Noise specification (revision 34).

    <- s
    ...
    -> e, es, s, ss
    <- e, ee, se, psk

A message that fails changes nothing: both directions work on a copy of the symmetric state and commit last.
"""

from . import crypto, wire
from .errors import CryptoError, LocalError

PROTOCOL_NAME = b"Noise_IKpsk2_25519_AESGCM_SHA256"  # exactly 32 bytes, so it is the first h as it stands (section 5.2)
M1_OVERHEAD = 2 * wire.KEY_BYTES + 2 * wire.TAG_BYTES
M2_OVERHEAD = wire.KEY_BYTES + wire.TAG_BYTES


def nonce(n: int) -> bytes:
    """Section 12.4: 32 zero bits, then the counter in 64 bits big-endian."""
    return b"\0\0\0\0" + n.to_bytes(8, "big")


def rekey(k: bytes) -> bytes:
    """Section 4.2: ENCRYPT(k, 2^64-1, zerolen, zeros), first 32 bytes."""
    return crypto.Aead(k).seal(b"\0\0\0\0" + b"\xff" * 8, bytes(wire.KEY_BYTES), b"")[: wire.KEY_BYTES]


class SymmetricState:
    """ck, h and, since keys here encrypt at most twice, the CipherState's k and n (sections 5.1 and 5.2)."""

    def __init__(self) -> None:
        self.ck = self.h = PROTOCOL_NAME
        self.k = b""
        self.n = 0

    def copy(self) -> "SymmetricState":
        other = SymmetricState()
        other.ck, other.h, other.k, other.n = self.ck, self.h, self.k, self.n
        return other

    def mix_key(self, input_key_material: bytes) -> None:
        out = crypto.hkdf(self.ck, input_key_material, b"", 64)
        self.ck, self.k, self.n = out[:32], out[32:], 0

    def mix_hash(self, data: bytes) -> None:
        self.h = crypto.sha256(self.h + data)

    def mix_key_and_hash(self, input_key_material: bytes) -> None:
        out = crypto.hkdf(self.ck, input_key_material, b"", 96)
        self.ck = out[:32]
        self.mix_hash(out[32:64])
        self.k, self.n = out[64:], 0

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        ciphertext = crypto.Aead(self.k).seal(nonce(self.n), plaintext, self.h)
        self.n += 1
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        plaintext = crypto.Aead(self.k).open_(nonce(self.n), ciphertext, self.h)
        self.n += 1
        self.mix_hash(ciphertext)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        out = crypto.hkdf(self.ck, b"", b"", 64)
        return out[:32], out[32:]


class HandshakeState:
    """One side of one handshake.

    `s` is our (private, public) key pair, so that a board need not compute its public key again; `rs` the responder's
    public key (initiator) or None (responder: it arrives in message 1).
    `psk` may be set until message 2. `e` injects an ephemeral private key, for vectors; else it is made here, hedged with
    `s` (after RFC 8937), so that a random source an attacker knows does not give it away.
    """

    def __init__(
        self,
        initiator: bool,
        prologue: bytes,
        s: "tuple[bytes, bytes]",
        rs: bytes | None = None,
        psk: bytes | None = None,
        e: bytes | None = None,
    ) -> None:
        self.initiator = initiator
        self.s, self._s_public = s
        self.rs = rs
        self.re = b""
        self.psk = psk
        self._e = e
        self._step = 0
        self._symmetric = SymmetricState()
        self._symmetric.mix_hash(prologue)
        responder_key = rs if initiator else self._s_public
        if responder_key is None:
            raise LocalError("the initiator needs the responder's public key")
        self._symmetric.mix_hash(responder_key)

    @property
    def h(self) -> bytes:
        """The handshake hash; binds everything both sides said (section 11.2)."""
        return self._symmetric.h

    def _turn(self, step: int) -> SymmetricState:
        if self._step != step:
            raise LocalError("handshake message out of turn")
        return self._symmetric.copy()

    def _commit(self, symmetric: SymmetricState) -> None:
        self._symmetric = symmetric
        self._step += 1

    def _ephemeral(self) -> bytes:
        if self._e is None:
            self._e = crypto.hmac_sha256(self.s, b"ZTS/1 e" + crypto.random_bytes(32))
        return self._e

    def write_message(self, payload: bytes) -> bytes:
        """Message 1 as initiator (payload + 96 bytes), message 2 as responder (payload + 48 bytes)."""
        if self.initiator:
            return self._write_1(payload)
        return self._write_2(payload)

    def read_message(self, message: bytes) -> bytes:
        """The payload. Raises CryptoError and changes nothing when the message is not authentic, whatever its length."""
        if len(message) < (M2_OVERHEAD if self.initiator else M1_OVERHEAD):
            raise CryptoError("handshake message too short")
        if self.initiator:
            return self._read_2(message)
        return self._read_1(message)

    def split(self) -> tuple[bytes, bytes]:
        """(k1, k2) after message 2."""
        return self._turn(2).split()

    def _write_1(self, payload: bytes) -> bytes:
        symmetric = self._turn(0)
        if self.rs is None:
            raise LocalError("the initiator needs the responder's public key")
        e = self._ephemeral()
        e_public = crypto.x25519_public(e)
        symmetric.mix_hash(e_public)
        symmetric.mix_key(e_public)  # psk handshakes mix e into the key as well (section 9.2)
        symmetric.mix_key(crypto.x25519(e, self.rs))
        enc_s = symmetric.encrypt_and_hash(self._s_public)
        symmetric.mix_key(crypto.x25519(self.s, self.rs))
        enc_payload = symmetric.encrypt_and_hash(payload)
        self._commit(symmetric)
        return e_public + enc_s + enc_payload

    def _read_1(self, message: bytes) -> bytes:
        symmetric = self._turn(0)
        re, enc_s, enc_payload = message[:32], message[32:80], message[80:]
        symmetric.mix_hash(re)
        symmetric.mix_key(re)
        symmetric.mix_key(crypto.x25519(self.s, re))
        rs = symmetric.decrypt_and_hash(enc_s)
        symmetric.mix_key(crypto.x25519(self.s, rs))
        payload = symmetric.decrypt_and_hash(enc_payload)
        self.re, self.rs = re, rs
        self._commit(symmetric)
        return payload

    def _write_2(self, payload: bytes) -> bytes:
        symmetric = self._turn(1)
        if self.psk is None or self.rs is None:
            raise LocalError("message 2 needs the psk")
        e = self._ephemeral()
        e_public = crypto.x25519_public(e)
        symmetric.mix_hash(e_public)
        symmetric.mix_key(e_public)
        symmetric.mix_key(crypto.x25519(e, self.re))
        symmetric.mix_key(crypto.x25519(e, self.rs))
        symmetric.mix_key_and_hash(self.psk)
        enc_payload = symmetric.encrypt_and_hash(payload)
        self._commit(symmetric)
        return e_public + enc_payload

    def _read_2(self, message: bytes) -> bytes:
        symmetric = self._turn(1)
        if self.psk is None or self._e is None:
            raise LocalError("message 2 needs the psk")
        re, enc_payload = message[:32], message[32:]
        symmetric.mix_hash(re)
        symmetric.mix_key(re)
        symmetric.mix_key(crypto.x25519(self._e, re))
        symmetric.mix_key(crypto.x25519(self.s, re))
        symmetric.mix_key_and_hash(self.psk)
        payload = symmetric.decrypt_and_hash(enc_payload)
        self.re = re
        self._commit(symmetric)
        return payload
