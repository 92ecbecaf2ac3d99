"""IKpsk2 byte for byte against an independent implementation, in both roles."""

import pytest
from noise.connection import Keypair, NoiseConnection

from zts import crypto, noise

NAME = b"Noise_IKpsk2_25519_AESGCM_SHA256"


def private(seed: int) -> bytes:
    return crypto.sha256(bytes([seed]))


def oracle(initiator: bool, s: bytes, e: bytes, rs: bytes | None, psk: bytes, prologue: bytes) -> NoiseConnection:
    connection = NoiseConnection.from_name(NAME)
    if initiator:
        connection.set_as_initiator()
    else:
        connection.set_as_responder()
    connection.set_psks(psk)
    connection.set_prologue(prologue)
    connection.set_keypair_from_private_bytes(Keypair.STATIC, s)
    if rs is not None:
        connection.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, rs)
    connection.set_keypair_from_private_bytes(Keypair.EPHEMERAL, e)
    connection.start_handshake()
    return connection


@pytest.mark.filterwarnings("ignore:One of ephemeral keypairs is already set")
@pytest.mark.parametrize("case", range(20))
def test_agrees_with_the_oracle_in_both_roles(case: int) -> None:
    s_i, s_r, e_i, e_r, psk = (private(case * 5 + i) for i in range(5))
    prologue = bytes(range(case * 3))
    payloads = [bytes([case]) * (case * 20), b"answer" * case]
    rs = crypto.x25519_public(s_r)
    pair_i = (s_i, crypto.x25519_public(s_i))
    pair_r = (s_r, rs)
    ours_i = noise.HandshakeState(True, prologue, pair_i, rs, psk, e_i)
    ours_r = noise.HandshakeState(False, prologue, pair_r, None, psk, e_r)
    theirs_i = oracle(True, s_i, e_i, rs, psk, prologue)
    theirs_r = oracle(False, s_r, e_r, None, psk, prologue)

    m1 = ours_i.write_message(payloads[0])
    assert m1 == bytes(theirs_i.write_message(payloads[0]))
    assert ours_r.read_message(m1) == bytes(theirs_r.read_message(m1)) == payloads[0]
    m2 = ours_r.write_message(payloads[1])
    assert m2 == bytes(theirs_r.write_message(payloads[1]))
    assert ours_i.read_message(m2) == bytes(theirs_i.read_message(m2)) == payloads[1]

    assert ours_i.h == ours_r.h == theirs_i.get_handshake_hash() == theirs_r.get_handshake_hash()
    k1, k2 = ours_i.split()
    assert ours_r.split() == (k1, k2)
    for n in range(3):
        message = bytes([n]) * n
        assert bytes(theirs_i.encrypt(message)) == crypto.Aead(k1).seal(noise.nonce(n), message, b"")
        assert bytes(theirs_r.encrypt(message)) == crypto.Aead(k2).seal(noise.nonce(n), message, b"")
    cipher = theirs_i.noise_protocol.cipher_state_encrypt
    cipher.rekey()
    assert bytes(theirs_i.encrypt(b"after")) == crypto.Aead(noise.rekey(k1)).seal(noise.nonce(cipher.n - 1), b"after", b"")
