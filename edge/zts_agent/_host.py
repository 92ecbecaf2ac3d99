"""What the agent asks of its machine, on CPython."""

import asyncio
import errno
import hashlib
import hmac
import os
import resource
import socket
import ssl
import struct
import sys
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

from zts import wire
from zts.errors import CryptoError
from zts.link import HOST_READ
from zts.session import Offer

T = TypeVar("T")

BOARD = False
SESSIONS = wire.HOST_SESSIONS
STREAMS = wire.HOST_STREAMS
OFFER = Offer(wire.RECORD_MAX_LEN, wire.HOST_WINDOW)
READ = HOST_READ
MPY: int | None = None
RUNTIME = f"{sys.implementation.name} {'.'.join(map(str, sys.implementation.version[:3]))} on {sys.platform}"

# Unacknowledged bytes end a connection a little after the session gave it up, so that closing it never waits for long.
_USER_TIMEOUT_MS = wire.DEAD_MS + 5_000

_started = time.monotonic_ns()


def clock() -> int:
    """Milliseconds since the start; never falls."""
    return (time.monotonic_ns() - _started) // 1_000_000


async def within(seconds: float, work: Awaitable[T]) -> T:
    """What `work` gives. Raises OSError when the time is up.

    asyncio.wait_for of Python 3.11 loses a cancellation that comes as `work` ends, and with it a Ctrl-C.
    """
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise OSError(errno.ETIMEDOUT, "no answer in time") from None


async def dial(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A TCP connection, without Nagle's delay (asyncio sees to that). Raises OSError."""
    reader, writer = await asyncio.open_connection(host, port, limit=HOST_READ)
    _limit_silence(writer)
    return reader, writer


async def dial_tls(host: str, port: int, pin: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A TLS connection to the holder of the certificate whose DER form has the SHA-256 `pin`, and to nobody else.

    Raises CryptoError for another certificate, before a byte of ours is sent. Raises OSError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the pin decides, not a CA
    reader, writer = await asyncio.open_connection(host, port, ssl=context, ssl_shutdown_timeout=1)
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    if certificate is None or not hmac.compare_digest(hashlib.sha256(certificate).digest(), pin):
        writer.transport.abort()
        raise CryptoError("the broker's certificate is not the pinned one")
    _limit_silence(writer)
    return reader, writer


def _limit_silence(writer: asyncio.StreamWriter) -> None:
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)


def finish_writing(writer: asyncio.StreamWriter) -> bool:
    """Shuts the writing side; False where sockets cannot."""
    writer.write_eof()
    return True


def break_off(writer: asyncio.StreamWriter) -> None:
    """Ends a connection at once and with an RST, so that the other side does not take it for an orderly end."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:  # a TLS connection that has ended gives none
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def make_folder(folder: str) -> None:
    """Makes the folder, for its owner only, unless it is there."""
    Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)


def boot() -> tuple[str, int]:
    """This start of the machine, and for how many seconds it has been up; "" where there is no telling."""
    if sys.platform != "linux":
        return "", 0
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip(), int(time.clock_gettime(time.CLOCK_BOOTTIME))


def replace_file(path: str, data: bytes) -> None:
    """Writes a file, mode 0600, so that a crash leaves the old one or the new one, whole."""
    temporary = f"{path}.new"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def unload(modules: tuple[str, ...]) -> None:
    """A host has the memory."""


def tidy_memory() -> None:
    """CPython's does not fragment so."""


def memory() -> tuple[int | None, int]:
    """(free, used) bytes: free is None where there is no fixed heap."""
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if sys.platform == "linux" else 0
    return None, pages * resource.getpagesize()


async def reading() -> tuple[str, str, float]:
    """(what, unit, value) of something real that changes: how long one turn of the event loop took."""
    before = time.perf_counter_ns()
    await asyncio.sleep(0)
    return "one turn of the event loop", "µs", round((time.perf_counter_ns() - before) / 1000, 1)
