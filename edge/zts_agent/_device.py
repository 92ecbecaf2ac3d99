"""What the agent asks of its machine, on MicroPython: the unix port and chips."""

import asyncio
import errno
import gc
import hashlib
import os
import socket
import struct
import sys
import time

import machine
import tls

from zts import crypto, wire
from zts.errors import CryptoError
from zts.link import BOARD_READ
from zts.session import Offer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CHIP = hasattr(machine, "WDT")  # and all else of a chip; not on the unix port

BOARD = True
SESSIONS = wire.BOARD_SESSIONS
STREAMS = wire.BOARD_STREAMS
OFFER = Offer(wire.BOARD_MAX_RECORD, wire.BOARD_WINDOW)
READ = BOARD_READ
MPY = sys.implementation._mpy & 0xFFFF  # version1, then arch6 sub-version2; further bits are a chip's extensions
RUNTIME = f"{sys.implementation[0]} {'.'.join([str(part) for part in sys.implementation[1][:3]])} on {sys.implementation[2]}"

_IPPROTO_TCP = 6
_TCP_NODELAY = 1
_CERTIFICATE_REFUSED = -0x2700  # MBEDTLS_ERR_X509_CERT_VERIFY_FAILED

_TLS_RETRY_S = 0.01
_EISCONN = (106, 127)  # Linux and rp2, ESP-IDF; the module errno lacks it

_now = 0
_ticks = time.ticks_ms()


def clock() -> int:
    """Milliseconds since the start; never falls. To be called more often than ticks wrap: 6 days on a chip."""
    global _now, _ticks
    ticks = time.ticks_ms()
    _now += time.ticks_diff(ticks, _ticks)
    _ticks = ticks
    return _now


def _readable(sock: "Any") -> "Any":
    yield asyncio.core._io_queue.queue_read(sock)


async def within(seconds: float, work: "Any") -> "Any":
    """What `work` gives. Raises OSError when the time is up: MicroPython's asyncio.TimeoutError is none."""
    try:
        return await asyncio.wait_for(work, seconds)
    except asyncio.TimeoutError:
        raise OSError(errno.ETIMEDOUT, "no answer in time")


def _writable(sock: "Any") -> "Any":
    yield asyncio.core._io_queue.queue_write(sock)


async def _connect(family: int, kind: int, protocol: int, address: "Any") -> "Any":
    # Not asyncio.open_connection: it takes a refused connection for a good one, and leaks the socket when cancelled.
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        try:
            sock.setsockopt(_IPPROTO_TCP, _TCP_NODELAY, 1)
        except OSError:
            pass  # a port without it; then Nagle delays
        try:
            sock.connect(address)
        except OSError as error:
            if error.errno != errno.EINPROGRESS:
                raise
            await _writable(sock)
            try:
                sock.connect(address)  # asks how the first one went; there is no getsockopt
            except OSError as outcome:
                if outcome.errno not in _EISCONN:
                    raise
        return sock
    except BaseException:
        sock.close()
        raise


async def _connect_any(host: str, port: int) -> "Any":
    failure = OSError(errno.EHOSTUNREACH)
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM):
        try:
            return await _connect(family, kind, protocol, address)
        except OSError as error:
            failure = error
    raise failure


async def dial(host: str, port: int) -> "tuple[Any, Any]":
    """A TCP connection, without Nagle's delay where the port can. Raises OSError."""
    stream = asyncio.StreamReader(await _connect_any(host, port))
    return stream, stream


async def dial_tls(host: str, port: int, pin: bytes) -> "tuple[Any, Any]":
    """A TLS connection to the holder of the certificate whose DER form has the SHA-256 `pin`, and to nobody else.

    Raises CryptoError for another certificate, before a byte of ours is sent. Raises OSError.
    """
    seen = asyncio.Event()
    verdicts = []

    def verify(certificate: bytes, depth: int) -> int:
        if depth == 0:
            verdicts.append(crypto.equal(hashlib.sha256(certificate).digest(), pin))
            seen.set()
        return 0 if depth or all(verdicts) else _CERTIFICATE_REFUSED

    gc.collect()  # on an rp2 TLS needs 17 KB of the heap in one piece
    sock = await _connect_any(host, port)
    try:
        # CERT_REQUIRED would want a CA and a clock; under CERT_NONE nobody asks the callback.
        context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
        context.verify_mode = tls.CERT_OPTIONAL
        context.verify_callback = verify
        stream = _TlsStream(sock, context.wrap_socket(sock, do_handshake_on_connect=False))
        # Reading drives the handshake without sending anything of ours; the first write waits until its end.
        probe = asyncio.create_task(_read_until(stream, seen))
        try:
            await seen.wait()
        finally:
            probe.cancel()
            try:
                await probe
            except (OSError, asyncio.CancelledError):
                pass
        if verdicts != [True]:
            raise CryptoError("the broker's certificate is not the pinned one") if verdicts else OSError(errno.ECONNRESET)
        return stream, stream
    except BaseException:
        sock.close()
        raise


async def _read_until(stream: "_TlsStream", seen: asyncio.Event) -> None:
    try:
        await stream.read(1)
    finally:
        seen.set()


class _TlsStream:
    """Reads and writes through TLS and waits for the socket below it.

    asyncio's own would have the TLS object polled. It has no descriptor, and with such a one the unix port's poll takes a
    millisecond at least, and reads through a null pointer when its set grows.
    """

    def __init__(self, sock: "Any", secured: "Any") -> None:
        self.s = secured
        self._sock = sock
        self._unsent = b""

    async def read(self, n: int) -> bytes:
        """1 to `n` bytes, b"" at the end."""
        while True:
            data = self.s.read(n)
            if data is not None:
                return data  # type: ignore[no-any-return]
            await _readable(self._sock)

    async def readexactly(self, n: int) -> bytes:
        """Raises EOFError when the end comes before."""
        data = b""
        while len(data) < n:
            part = await self.read(n - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def write(self, data: bytes) -> None:
        self._unsent += data

    async def drain(self) -> None:
        while self._unsent:
            sent = self.s.write(self._unsent)
            if sent is None:
                # The handshake goes on, or the socket is full; TLS does not say which.
                await asyncio.sleep(_TLS_RETRY_S)
            else:
                self._unsent = self._unsent[sent:]


def finish_writing(writer: "Any") -> bool:
    """Shuts the writing side; False where sockets cannot."""
    return False


def break_off(writer: "Any") -> None:
    """Ends a connection at once, with an RST where the port can, so that it is not taken for an orderly end."""
    try:
        writer.s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except (OSError, AttributeError):
        pass
    writer.s.close()


def make_folder(folder: str) -> None:
    """Makes the folder unless it is there."""
    try:
        os.mkdir(folder)
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise


def boot() -> "tuple[str, int]":
    """A chip cannot tell one start from another."""
    return "", 0


def replace_file(path: str, data: bytes) -> None:
    """Writes a file so that a crash leaves the old one or the new one, whole (littlefs syncs at close)."""
    with open(path + ".new", "wb") as file:
        file.write(data)
    os.rename(path + ".new", path)


def unload(modules: "tuple[str, ...]") -> None:
    """Drops modules that will hardly be needed again. Nothing that stays may hold on to them."""
    for name in modules:
        package, _, leaf = name.rpartition(".")
        if sys.modules.pop(name, None) is not None:
            delattr(sys.modules[package], leaf)
    gc.collect()


def tidy_memory() -> None:
    """To be called once all modules are loaded. Left alone, MicroPython collects only when the heap is full, and then what lives
    longer lies scattered all over it.
    """
    gc.collect()
    gc.threshold(gc.mem_free() // 4)


def memory() -> "tuple[int | None, int]":
    """(free, used) bytes of the heap."""
    gc.collect()
    return gc.mem_free(), gc.mem_alloc()


async def reading() -> "tuple[str, str, float]":
    """(what, unit, value) of something real that changes: the chip's temperature, else how long one turn of the event loop took."""
    if sys.platform == "esp32":
        import esp32

        if hasattr(esp32, "mcu_temperature"):
            return "chip temperature", "°C", esp32.mcu_temperature()
    elif sys.platform == "rp2":
        # RP2040 data sheet, 4.9.5: 0.706 V at 27 °C, -1.721 mV a degree.
        volts = machine.ADC(machine.ADC.CORE_TEMP).read_u16() * 3.3 / 65535
        return "chip temperature", "°C", round(27 - (volts - 0.706) / 0.001721, 1)
    before = time.ticks_us()
    await asyncio.sleep(0)
    return "one turn of the event loop", "µs", time.ticks_diff(time.ticks_us(), before)
