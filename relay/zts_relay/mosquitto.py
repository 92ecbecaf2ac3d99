"""Login, access and configuration files for a mosquitto 2.0 that takes the embedded broker's place.

What mosquitto's files cannot say, and the embedded broker does better: a party may read hellos by wildcard, retain a
message in an inbox or a longer text as its hello, and hold a socket open without ever sending CONNECT; nothing limits
the rate of one connection, and a revoked party's hello stays until somebody clears it.
"""

import base64
import hashlib
import os
import pwd
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from zts import wire
from zts_relay import topics
from zts_relay.state_files import write_private

PASSWORDS: Final = "mosquitto.passwd"
ACL: Final = "mosquitto.acl"
CONFIG: Final = "mosquitto.conf"

# PBKDF2 slows the guessing of weak passwords down. Ours are 128 random bits, and mosquitto hashes on its only thread.
_ITERATIONS: Final = 1
_SALT_BYTES: Final = 12  # what mosquitto_passwd uses
_PACKET_BYTES: Final = 2048  # as the embedded broker


def password_file(logins: Iterable[tuple[str, bytes]]) -> str:
    """One line for each (fingerprint, password): `name:$7$iterations$salt$hash`, PBKDF2 with HMAC-SHA-512."""
    return "".join(f"{_check(name)}:{_hash(password)}\n" for name, password in logins)


def acl_file() -> str:
    """The rules of `topics` as far as mosquitto's patterns can express them; %u is the user name."""
    rules = (
        ("read", topics.inbox("%u", "+")),
        ("write", topics.inbox("+", "%u")),
        ("read", topics.hello("+")),
        ("write", topics.hello("%u")),
    )
    return "".join(f"pattern {access} {topic}\n" for access, topic in rules)


def config(directory: Path, host: str, port: int, certificate: tuple[Path, Path] | None) -> str:
    """A mosquitto.conf over the files in `directory`; `certificate` (certificate, key) turns TLS on."""
    lines = [
        "# Made by zts-relay, and made anew at its start: run a copy of it if you change anything.",
        "# After a party joined or was revoked, send mosquitto a SIGHUP: it reads the passwords again.",
        "# Only their owner can read the files. A mosquitto started by root becomes that owner here;",
        "# started by anybody else it stays who it is, and must be that owner.",
        *_user_line(),
        f"listener {port} {host}",
    ]
    if certificate:
        lines += [f"certfile {certificate[0]}", f"keyfile {certificate[1]}", "tls_version tlsv1.2"]
    lines += [
        "allow_anonymous false",
        f"password_file {directory / PASSWORDS}",
        f"acl_file {directory / ACL}",
        "set_tcp_nodelay true",
        f"max_packet_size {_PACKET_BYTES}",
        f"message_size_limit {wire.M1_BYTES}",
        "max_queued_messages 100",
        "persistence false",
        "persistent_client_expiration 1h",
        "sys_interval 0",
        "log_dest stderr",
        "log_type error",
    ]
    return "\n".join(lines) + "\n"


def write(directory: Path, logins: Iterable[tuple[str, bytes]], host: str, port: int, certificate: tuple[Path, Path] | None = None) -> Path:
    """Write the three files (each atomically, mode 0600; the directory 0700) and return the path of the configuration."""
    directory = directory.resolve()
    write_passwords(directory, logins)
    write_private(directory / ACL, acl_file().encode())
    write_private(directory / CONFIG, config(directory, host, port, certificate).encode())
    return directory / CONFIG


def write_passwords(directory: Path, logins: Iterable[tuple[str, bytes]]) -> None:
    """Write the passwords alone, as after an enrolment or a revocation."""
    write_private(directory / PASSWORDS, password_file(logins).encode())


def _user_line() -> list[str]:
    """None for a user without a name, as in some containers: mosquitto cannot be told to become it."""
    try:
        return [f"user {pwd.getpwuid(os.getuid()).pw_name}"]
    except KeyError:
        return []


def _hash(password: bytes) -> str:
    salt = os.urandom(_SALT_BYTES)
    digest = hashlib.pbkdf2_hmac("sha512", password, salt, _ITERATIONS)
    return f"$7${_ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def _check(name: str) -> str:
    if not topics.is_fingerprint(name):
        raise ValueError(f"not a fingerprint: {name!r}")
    return name
