"""A hash ratchet over os.urandom, because a board's os.urandom is weak or guessable at boot (ESP32 without radio, RP2040).

Every step hashes the old state, a step number and 32 fresh bytes of os.urandom into the new state, so that
- good os.urandom alone makes the output unpredictable, whatever seed is known;
- a secret seed given by add_entropy() alone does too, even if os.urandom is stuck;
- with both stuck, outputs still differ between calls (the ratchet moves) and between boots (a boot counter given by add_entropy());
- a state read out later does not tell earlier outputs (the ratchet hashes forward after every output).
"""

import hashlib
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    Buffer = bytes | bytearray | memoryview

# What the first byte of a hash's input separates.
_MIX = b"\x01"
_OUT = b"\x02"
_NEXT = b"\x03"

_state = bytes(32)
_step = 0


def _ratchet(label: bytes, data: "Buffer") -> None:
    global _state, _step
    _step += 1
    _state = hashlib.sha256(label + _state + _step.to_bytes(8, "big") + bytes(data)).digest()


def add_entropy(seed: "Buffer") -> None:
    """Mix any bytes into the pool: a host's seed, a boot counter, noise. Never lowers what the pool holds."""
    _ratchet(_MIX, hashlib.sha256(seed).digest() + os.urandom(32))


def random_bytes(n: int) -> bytes:
    """`n` unpredictable bytes. Asks os.urandom for 32 fresh ones at every call."""
    _ratchet(_MIX, os.urandom(32))
    out = b""
    i = 0
    while len(out) < n:
        out += hashlib.sha256(_OUT + _state + i.to_bytes(4, "big")).digest()
        i += 1
    _ratchet(_NEXT, b"")
    return out[:n]
