"""What fuzz targets share: reading structure out of arbitrary bytes, a seeded mutator, folders that go away, fixed keys."""

import atexit
import functools
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from zts import crypto

_INTERESTING = (0, 1, 2, 0x0F, 0x10, 0x11, 0x7F, 0x80, 0x81, 0xFE, 0xFF)


class Feed:
    """Takes values from the front of some bytes; when they are used up, it gives zeros and nothing."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __len__(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        """At most `count` bytes."""
        taken = self._data[self._at : self._at + count]
        self._at += len(taken)
        return taken

    def number(self, size: int = 1) -> int:
        return int.from_bytes(self.take(size), "big")

    def rest(self) -> bytes:
        return self.take(len(self))


def pieces(data: bytes, sizes: bytes) -> Iterator[bytes]:
    """`data` cut into pieces of 1 to 64 bytes, as long as `sizes` say; what then remains as one."""
    at = 0
    for size in sizes:
        if at < len(data):
            yield data[at : at + 1 + size % 64]
            at += 1 + size % 64
    if at < len(data):
        yield data[at:]


def xor(data: bytes, at: int, mask: bytes) -> bytes:
    """`data` with the bits of `mask` flipped from the byte `at` on; the length stays."""
    changed = bytearray(data)
    for number, bits in enumerate(mask[: max(0, len(data) - at)]):
        changed[at + number] ^= bits
    return bytes(changed)


def key_pair(seed: bytes) -> tuple[bytes, bytes]:
    """(private, public), always the same for one seed."""
    private = crypto.sha256(seed)
    return private, crypto.x25519_public(private)


@functools.cache
def folder(name: str) -> Path:
    """A folder of this process, gone when it ends."""
    path = Path(tempfile.mkdtemp(prefix=f"zts-fuzz-{name}-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def mutate(rng: random.Random, seeds: list[bytes]) -> bytes:
    """A seed, or two of them joined, with some bytes changed, put in, taken out or repeated; now and then noise."""
    if rng.random() < 0.05:
        return rng.randbytes(rng.randrange(64))
    data = bytearray(rng.choice(seeds))
    if rng.random() < 0.15:
        other = rng.choice(seeds)
        data[rng.randrange(len(data) + 1) :] = other[rng.randrange(len(other) + 1) :]
    for _ in range(rng.choice((0, 1, 1, 2, 4, 8))):
        at = rng.randrange(len(data) + 1)
        span = rng.choice((1, 1, 2, 4, 16))
        match rng.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(data):
                data[at] = rng.choice(_INTERESTING)
            case 2:
                data[at:at] = rng.randbytes(span)
            case 3:
                del data[at : at + span]
            case 4:
                data[at:at] = data[at : at + span] * rng.randrange(1, 4)
            case 5:
                data[at : at + span] = bytes((rng.choice(_INTERESTING),)) * span
    return bytes(data)
