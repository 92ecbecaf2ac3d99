"""A random source that is stuck at a constant: what a thousand boots draw from it."""

from pathlib import Path

import pytest

from zts import codes, control, crypto, noise, wire
from zts.crypto import _random
from zts_agent import board
from zts_agent.keystore import Keystore

BOOTS = 1_000


class _Stuck:
    @staticmethod
    def urandom(n: int) -> bytes:
        return b"\x5a" * n


def _boot(monkeypatch: pytest.MonkeyPatch, store: Keystore) -> tuple[bytes, bytes, bytes]:
    """Memory is lost, the state is kept: (epoch, ephemeral, a leg's nonce)."""
    monkeypatch.setattr(_random, "_state", bytes(32))
    monkeypatch.setattr(_random, "_step", 0)
    store.open()
    responder = control.Responder(store.key_pair(), 0)
    handshake = noise.HandshakeState(False, b"", store.key_pair(), psk=bytes(32))
    return responder.epoch, handshake._ephemeral(), crypto.random_bytes(16)


def test_a_thousand_boots_with_a_stuck_random_source_draw_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_random, "os", _Stuck)
    # Without waiting for the disk.
    monkeypatch.setattr(board, "replace_file", lambda path, data: Path(path).write_bytes(data))
    store = Keystore(str(tmp_path / "state"))
    code = codes.JoinCode(bytes(32), bytes(16), "127.0.0.1", 1)
    store.adopt(codes.format_enrol_line(codes.EnrolLine(code, b"p" * 32, crypto.x25519_public(b"o" * 32), "sensor")))
    drawn = [value for _ in range(BOOTS) for value in _boot(monkeypatch, store)]
    assert len(set(drawn)) == 3 * BOOTS
    assert store.state["boots"] == BOOTS


def test_two_devices_with_one_stuck_random_source_draw_different_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What tells them apart is the pairing secret, which the owner's host drew."""
    monkeypatch.setattr(_random, "os", _Stuck)
    drawn: list[bytes] = []
    for at in range(2):
        store = Keystore(str(tmp_path / str(at)))
        code = codes.JoinCode(bytes(32), bytes(16), "127.0.0.1", 1)
        pairing = bytes([at]) * 32
        store.adopt(codes.format_enrol_line(codes.EnrolLine(code, pairing, crypto.x25519_public(b"o" * 32), "sensor")))
        drawn += [*_boot(monkeypatch, store), *store.key_pair()]
    assert len(set(drawn)) == len(drawn)


def test_known_random_numbers_do_not_tell_an_ephemeral(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is hedged with the static key: two parties that draw the same random bytes have different ephemerals."""
    monkeypatch.setattr(crypto, "random_bytes", lambda n: bytes(n))
    pairs = [(key, crypto.x25519_public(key)) for key in (b"a" * 32, b"b" * 32)]
    ephemerals = [noise.HandshakeState(False, b"", pair, psk=bytes(wire.KEY_BYTES))._ephemeral() for pair in pairs]
    assert ephemerals[0] != ephemerals[1] and bytes(32) not in ephemerals
