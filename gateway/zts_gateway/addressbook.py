"""What a laptop keeps: its identity and one card a device, each a JSON file of its own, 0600, in one folder, 0700.

Two `zts` processes at once are normal: every file is replaced whole, and a change of a card reads it again under a lock.
"""

import fcntl
import json
import os
from binascii import hexlify, unhexlify
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from platformdirs import user_config_path

from zts import identity, wire
from zts.errors import FormatError
from zts_gateway.ui import Exit, Failure


@dataclass(frozen=True)
class Identity:
    """This laptop: its key pair and, once it has joined, its account at a relay."""

    name: str
    private: bytes
    public: bytes
    account: identity.Account | None = None

    @property
    def pair(self) -> tuple[bytes, bytes]:
        return self.private, self.public

    @property
    def fp(self) -> str:
        return identity.fingerprint_text(self.public)


@dataclass(frozen=True)
class Pending:
    """An enrolment under way: the secret of the device's join code, and when it expires (seconds since 1970)."""

    secret: bytes
    until: int


@dataclass(frozen=True)
class Card:
    """A device. `public` is b"" until it has enrolled; `verified` once it answered with the pairing secret.

    `services` are (kind, name) as it last named them, `last_seen` RFC 3339 or None.
    """

    name: str
    public: bytes
    pairing: bytes
    verified: bool = False
    services: tuple[tuple[int, str], ...] = ()
    last_seen: str | None = None
    pending: Pending | None = None

    @property
    def fp(self) -> str:
        return identity.fingerprint_text(self.public)


def home() -> Path:
    """ZTS_HOME, else the platform's folder for configuration."""
    moved = os.environ.get("ZTS_HOME")
    return Path(moved) if moved else user_config_path("zts", appauthor=False)


def timestamp() -> str:
    """Now, RFC 3339, UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Book:
    """The folder. Raises Failure(USAGE) for files that are damaged or open to others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.identity_file = folder / "identity.json"
        self.cards_folder = folder / "devices"

    # --- the identity ----------------------------------------------------------------------------------------------------

    def find_identity(self) -> Identity | None:
        """The identity, whole or still without an account; None before the first `zts join`."""
        data = _read(self.identity_file)
        if data is None:
            return None
        with _damaged(self.identity_file):
            relay = data.get("relay")
            account = None if relay is None else _account(relay)
            return Identity(identity.check_name(data["name"]), _key(data["private"]), _key(data["public"]), account)

    def save_identity(self, me: Identity) -> None:
        data: dict[str, Any] = {"name": me.name, "private": _hex(me.private), "public": _hex(me.public)}
        if me.account:
            a = me.account
            data["relay"] = {
                "key": _hex(a.relay_key),
                "host": a.host,
                "port": a.port,
                "account": _hex(a.account),
                "party_key": _hex(a.party_key),
                "password": a.password,
                "pin": _hex(a.pin),
                "broker": a.broker,
            }
        self._write(self.identity_file, data)

    def member(self) -> tuple[Identity, identity.Account]:
        """The identity and its account. Raises Failure when this laptop has not joined."""
        me = self.find_identity()
        if me is None or me.account is None:
            raise Failure(
                Exit.USAGE, "this computer has no identity yet; run `zts join --name @you` with a join code from `zts-relay code`"
            )
        return me, me.account

    # --- the cards ---------------------------------------------------------------------------------------------------------

    def card_file(self, name: str) -> Path:
        return self.cards_folder / f"{name}.json"

    def find_card(self, name: str) -> Card | None:
        path = self.card_file(name)
        data = _read(path)
        if data is None:
            return None
        with _damaged(path):
            pending = data.get("enrolling")
            return Card(
                name,
                _key(data["public"]) if data["public"] else b"",
                _key(data["pairing"]),
                data["verified"] is True,
                tuple((int(kind), str(service)) for kind, service in data["services"]),
                data["last_seen"],
                None if pending is None else Pending(_bytes(pending["secret"], wire.SECRET_BYTES), int(pending["until"])),
            )

    def card(self, name: str) -> Card:
        """A device, enrolled or not. Raises Failure when there is no card."""
        card = self.find_card(name)
        if card is None:
            known = ", ".join(f"@{c.name}" for c in self.cards())
            have = f"the ones here are {known}" if known else "there are none here yet"
            raise Failure(Exit.USAGE, f"no device @{name}: {have}; `zts enroll @{name}` adds it")
        return card

    def device(self, name: str) -> Card:
        """A device that has enrolled. Raises Failure otherwise."""
        card = self.card(name)
        if not card.public:
            raise Failure(Exit.USAGE, f"@{name} has not enrolled yet; run `zts enroll @{name}` again to go on with it")
        return card

    def cards(self) -> list[Card]:
        names = sorted(path.stem for path in self.cards_folder.glob("*.json"))
        return [card for name in names if (card := self.find_card(name))]

    def save_card(self, card: Card) -> None:
        data: dict[str, Any] = {
            "name": card.name,
            "public": _hex(card.public),
            "pairing": _hex(card.pairing),
            "verified": card.verified,
            "services": card.services,
            "last_seen": card.last_seen,
        }
        if card.pending:
            data["enrolling"] = {"secret": _hex(card.pending.secret), "until": card.pending.until}
        self._write(self.card_file(card.name), data)

    def change_card(self, name: str, **changes: Any) -> Card:
        """Changes some fields of a card as it is now on disk. Raises Failure when it has been removed meanwhile."""
        with self._locked():
            card = replace(self.device(name), **changes)
            self.save_card(card)
        return card

    def remove_card(self, name: str) -> None:
        with self._locked():
            self.card_file(name).unlink(missing_ok=True)

    # --- files -------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._make(self.folder)
        try:
            descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)
        except OSError as error:
            raise Failure(
                Exit.USAGE, f"cannot write in {self.folder} ({error.strerror}); set ZTS_HOME to a folder you may write to"
            ) from None

    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Failure(Exit.USAGE, f"cannot make the folder {folder} ({error.strerror}); set ZTS_HOME to one you may write to") from None

    def _write(self, path: Path, data: dict[str, Any]) -> None:
        """Whole or not at all, 0600 from the first byte."""
        self._make(self.folder)
        self._make(path.parent)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            fresh.unlink(missing_ok=True)
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(descriptor, "w") as file:
                    json.dump(data, file, indent=1)
                    file.flush()
                    os.fsync(file.fileno())
                fresh.replace(path)
            finally:
                fresh.unlink(missing_ok=True)
        except OSError as error:
            raise Failure(Exit.USAGE, f"cannot write {path} ({error.strerror}); set ZTS_HOME to a folder you may write to") from None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        if path.stat().st_mode & 0o077:
            raise Failure(Exit.USAGE, f"others may read {path}, which holds keys; run chmod 600 on it, then try again")
        with _damaged(path):
            data = json.loads(path.read_bytes())
            if not isinstance(data, dict):
                raise FormatError("no object")
            return data
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Failure(Exit.USAGE, f"cannot read {path} ({error.strerror}); make it yours, or set ZTS_HOME to another folder") from None


@contextmanager
def _damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (FormatError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Failure(Exit.USAGE, f"{path} is damaged; restore it from a backup, or delete it and start anew") from None


def _hex(data: bytes) -> str:
    return hexlify(data).decode()


def _bytes(text: str, size: int) -> bytes:
    data = unhexlify(text)
    if len(data) != size:
        raise FormatError("wrong length")
    return data


def _key(text: str) -> bytes:
    return _bytes(text, wire.KEY_BYTES)


def _account(data: dict[str, Any]) -> identity.Account:
    pin, port = data["pin"], data["port"]
    tls = identity.parse_broker(data["broker"], data["host"])[0]
    if not isinstance(pin, str) or tls != (pin != ""):
        raise FormatError("a broker's pin and its mqtts:// go together")
    if not isinstance(port, int) or not 0 < port <= 65535:
        raise FormatError("no port")
    return identity.Account(
        _key(data["key"]),
        str(data["host"]),
        port,
        _bytes(data["account"], wire.ACCOUNT_BYTES),
        _key(data["party_key"]),
        str(data["password"]),
        _key(pin) if pin else b"",
        data["broker"],
    )
