"""`zts-relay check`: whether this machine is fit for a relay with these options. It changes nothing.

It is a command of its own, never part of a running relay: unlike that, it looks names up and connects.
"""

import contextlib
import errno
import hashlib
import ipaddress
import os
import pwd
import resource
import socket
import sqlite3
import ssl
import stat
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509

from zts import wire
from zts_relay import certificate
from zts_relay.config import Address, BrokerUrl, Config
from zts_relay.registry import FILE as REGISTRY_FILE
from zts_relay.splice import PIPE_BYTES, PIPES

OK: Final = "ok"
NOTE: Final = "note"  # it works, and could be better
FAILED: Final = "FAILED"
_WAIT_S: Final = 5.0
_FEW_DESCRIPTORS: Final = 1024
_PIPE_PAGES: Final = Path("/proc/sys/fs/pipe-user-pages-soft")
_PRIVATE: Final = ("relay.secret", "relay.key", REGISTRY_FILE, certificate.KEY)


class Finding(NamedTuple):
    what: str
    state: str
    said: str


def run(config: Config) -> Iterator[Finding]:
    """One finding for each thing looked at."""
    state = check_state(config.state)
    yield state
    if (config.state / REGISTRY_FILE).exists() and state.state == OK:
        yield _check_clock(config.state)
    pin = _pin(config.state)
    yield _check_port("legs", "--listen", config.leg, _answers_leg)
    if config.broker:
        yield _check_broker(config.broker, pin)
    else:
        yield _check_port("mqtt", "--mqtt", config.mqtt, lambda address: _shows(address, pin))
    yield _check_port("metrics", "--metrics", config.metrics, _answers_metrics)
    yield check_public(config)
    yield check_descriptors(resource.getrlimit(resource.RLIMIT_NOFILE))
    yield check_pipes(_PIPE_PAGES.read_text(), os.geteuid() == 0)


# --- the state directory -------------------------------------------------------------------------------------------------


def check_state(folder: Path) -> Finding:
    what = "state"
    try:
        found = folder.stat()
    except FileNotFoundError:
        parent = next(parent for parent in folder.absolute().parents if parent.exists())
        if os.access(parent, os.W_OK):
            return Finding(what, OK, f"{folder} will be made at the first start")
        return Finding(what, FAILED, f"{folder} cannot be made: make it, for the user the relay runs as")
    except OSError as error:
        return Finding(what, FAILED, f"{folder}: {error.strerror}; run this as the user the relay runs as")
    if not stat.S_ISDIR(found.st_mode):
        return Finding(what, FAILED, f"{folder} is no directory")
    if found.st_uid != os.geteuid():
        return Finding(what, FAILED, f"{folder} belongs to {_user(found.st_uid)}: run this, and the relay, as that user")
    if found.st_mode & 0o022:
        return Finding(what, FAILED, f"others may write to {folder}: chmod go-w it")
    for name in _PRIVATE:
        with contextlib.suppress(FileNotFoundError):
            if (folder / name).stat().st_mode & 0o077:
                return Finding(what, FAILED, f"others may read {folder / name}: chmod 600 it")
    if (folder / REGISTRY_FILE).exists():
        try:
            (sound,) = _query(folder, "PRAGMA quick_check")[0]
        except sqlite3.Error as error:
            sound = error
        if sound != "ok":
            return Finding(what, FAILED, f"{folder / REGISTRY_FILE} is damaged ({sound}): restore it from a backup")
    return Finding(what, OK, f"{folder}, its owner's alone")


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _query(folder: Path, query: str) -> list[tuple[object, ...]]:
    database = (folder / REGISTRY_FILE).absolute()
    # Without a write-ahead log nobody has it open, and only as immutable SQLite makes none.
    how = "mode=ro" if Path(f"{database}-wal").exists() else "immutable=1"
    with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?{how}", uri=True, timeout=_WAIT_S)) as registry:
        return registry.execute(query).fetchall()


# --- the clock -----------------------------------------------------------------------------------------------------------


def _check_clock(folder: Path) -> Finding:
    """Join codes expire by the clock."""
    query = f"SELECT max(t) FROM (SELECT max(created) t FROM parties UNION SELECT max(revoked) FROM parties \
        UNION SELECT max(expires) - {wire.CODE_TTL_S} FROM codes)"
    (last,) = _query(folder, query)[0]
    file = folder / certificate.CERTIFICATE
    try:
        shown = x509.load_pem_x509_certificate(file.read_bytes()) if file.exists() else None
    except ValueError:
        return Finding("clock", FAILED, f"{file} is no certificate: restore it from a backup")
    return check_clock(time.time(), Path(__file__).stat().st_mtime, last if isinstance(last, int) else 0, shown)


def check_clock(now: float, installed: float, last: int, shown: x509.Certificate | None) -> Finding:
    """All in seconds since 1970. `last`: the last thing the registry remembers."""
    said = _when(now)
    if now < max(installed, last):
        what = "this program was installed" if installed >= last else "the registry last changed"
        return Finding("clock", FAILED, f"it is {said} here, but {what} later, {_when(max(installed, last))}: set the clock")
    if shown and not shown.not_valid_before_utc.timestamp() <= now < shown.not_valid_after_utc.timestamp():
        return Finding("clock", FAILED, f"it is {said}, and the broker's certificate is not valid then: set the clock")
    return Finding("clock", OK, said)


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


# --- ports ---------------------------------------------------------------------------------------------------------------


def _check_port(what: str, option: str, address: Address, is_ours: Callable[[Address], bool]) -> Finding:
    """Free, or already served by a relay of this state."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            # Without listening, for a moment, so that nobody is refused who comes meanwhile.
            probe.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return Finding(what, FAILED, f"{address}: {error.strerror}; choose another with {option}")
        else:
            return Finding(what, OK, f"{address} is free" if address.port else f"{address.host}, any free port")
    try:
        if is_ours(address):
            return Finding(what, OK, f"{address} is served by a relay already")
    except OSError:  # and TimeoutError, ssl.SSLError
        pass
    return Finding(what, FAILED, f"{address} is in use by another program: stop that, or choose another with {option}")


def _dial(address: Address) -> socket.socket:
    host = address.host
    if ipaddress.ip_address(host).is_unspecified:
        host = "::1" if ":" in host else "127.0.0.1"
    return socket.create_connection((host, address.port), _WAIT_S)


def _answers_leg(address: Address) -> bool:
    with _dial(address) as sock:
        sock.sendall(wire.MAGIC_LEG)
        return len(sock.recv(wire.CHALLENGE_BYTES + 1)) == wire.CHALLENGE_BYTES


def _answers_metrics(address: Address) -> bool:
    with _dial(address) as sock, sock.makefile("rb") as answer:
        sock.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        return b"\nzts_relay_legs{" in answer.read(1 << 20)


def _shows(address: Address, pin: bytes) -> bool:
    with _dial(address) as sock:
        return _certificate_hash(sock) == pin


def _certificate_hash(sock: socket.socket) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # whose it is, is what we ask
    with context.wrap_socket(sock) as secured:
        return hashlib.sha256(secured.getpeercert(binary_form=True) or b"").digest()


def _pin(folder: Path) -> bytes:
    """b"" where there is none, or none that we may read."""
    try:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert((folder / certificate.CERTIFICATE).read_text("ascii"))).digest()
    except (OSError, ValueError):
        return b""


def _check_broker(broker: BrokerUrl, pin: bytes) -> Finding:
    try:
        with socket.create_connection((broker.host, broker.port), _WAIT_S) as sock:
            if broker.tls and _certificate_hash(sock) != pin:
                return Finding("broker", FAILED, f"{broker.url} shows another certificate than the state's: parties will refuse it")
    except OSError as error:
        return Finding("broker", FAILED, f"{broker.url} is not reached ({error.strerror or error}): start it with the files in the state")
    return Finding("broker", OK, f"{broker.url} answers")


# --- the machine ---------------------------------------------------------------------------------------------------------


def check_public(config: Config) -> Finding:
    host = config.public_host
    try:
        found = {ipaddress.ip_address(str(entry[4][0])) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        return Finding("public", FAILED, f"nobody knows {host} ({why}), which join codes will say: give --public a name that resolves")
    said = f"join codes will say {host}, which is {', '.join(sorted(map(str, found)))} here"
    if all(address.is_loopback for address in found) and not ipaddress.ip_address(config.leg.host).is_loopback:
        return Finding("public", NOTE, f"{said}: elsewhere it must mean this machine, or give --public another name")
    return Finding("public", OK, said)


def check_descriptors(limits: tuple[int, int]) -> Finding:
    soft, hard = limits
    pairs = hard * 9 // 10 // 2  # it accepts until nine tenths are in use, and a pair has two
    said = f"soft {soft}, hard {hard}, and the relay takes the hard: at most {pairs} pairs, one less for every two MQTT connections"
    if hard < _FEW_DESCRIPTORS:
        return Finding("descriptors", FAILED, f"{said}; raise it, with LimitNOFILE= in the unit")
    return Finding("descriptors", OK, said)


def check_pipes(pages: str, is_root: bool) -> Finding:
    """`pages`: of /proc/sys/fs/pipe-user-pages-soft."""
    limit = int(pages)
    count = limit * os.sysconf("SC_PAGE_SIZE") // PIPE_BYTES
    if is_root or not limit or count >= PIPES:
        return Finding("pipes", OK, f"room for all {PIPES} pipes of {PIPE_BYTES // 1024} KiB that fast transfers borrow")
    wanted = PIPES * PIPE_BYTES // os.sysconf("SC_PAGE_SIZE")
    return Finding(
        "pipes",
        NOTE,
        f"room for {count} of {PIPES} pipes of {PIPE_BYTES // 1024} KiB: more transfers at once are copied, which costs more; "
        f"sysctl fs.pipe-user-pages-soft={wanted} gives room",
    )
