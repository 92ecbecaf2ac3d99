"""What `zts-status` tells its owner: the machine, and how fast this device's cryptography is, measured when asked."""

import asyncio

from zts import __version__, crypto

from . import board

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MEASURE_MS = 20  # of each; the clock's step is 1 ms
_PROBE_BYTES = 1024


def _ms_each(work: "Callable[[int], object]") -> float:
    """How long one call of `work` takes, as the mean of as many as begin within MEASURE_MS."""
    count = 0
    start = now = board.clock()
    while now - start < MEASURE_MS:
        work(count)
        count += 1
        now = board.clock()
    return (now - start) / count


async def measure() -> "dict[str, Any]":
    """Takes 2 * MEASURE_MS, or as long as one X25519 needs; the keys serve for nothing else."""
    key = crypto.random_bytes(32)
    aead, data = crypto.Aead(key), bytes(_PROBE_BYTES)
    aead_ms = _ms_each(lambda count: aead.seal(count.to_bytes(12, "big"), data, b""))
    await asyncio.sleep(0)
    x25519_ms = _ms_each(lambda count: crypto.x25519_public(key))
    free, used = board.memory()
    return {
        "version": __version__,
        "runtime": board.RUNTIME,
        "mpy": board.MPY,
        "uptime_ms": board.clock(),
        "heap_free": free,
        "heap_used": used,
        "aes": crypto.CODE[0],
        "ghash": crypto.CODE[1],
        "x25519": crypto.CODE[2],
        "aead_kbps": round(_PROBE_BYTES / aead_ms),  # bytes a ms are KB a second
        "x25519_ms": round(x25519_ms, 3),
    }
