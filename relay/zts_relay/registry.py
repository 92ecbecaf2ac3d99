"""What the relay keeps: its two keys, the parties, the join codes. SQLite in the state directory, caches in memory.

Several processes may use one state directory at once (`zts-relay code` beside the running relay). Every change is one
transaction; a process learns of the others' changes by `refresh`.
"""

import fcntl
import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from zts import codes, crypto, identity, leg, wire
from zts.errors import FormatError

OWNER: Final = "owner"
DEVICE: Final = "device"

UNUSED_CODES: Final = 256  # of one owner at a time

_BUSY_S: Final = 5.0  # the other processes' transactions are short
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS parties (
    account BLOB PRIMARY KEY,
    public BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('owner', 'device')),
    made_by BLOB,
    created INTEGER NOT NULL,
    revoked INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS codes (
    id BLOB PRIMARY KEY,
    psk BLOB,
    role TEXT NOT NULL CHECK (role IN ('owner', 'device')),
    made_by BLOB,
    expires INTEGER NOT NULL,
    used_by BLOB
) STRICT;
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""


FILE: Final = "registry.sqlite"


class Party(NamedTuple):
    """A row of `parties`; times in seconds since 1970, `made_by` the account of the owner whose code it used."""

    account: bytes
    public: bytes
    name: str
    role: str
    made_by: bytes | None
    created: int
    revoked: int | None

    @property
    def fp(self) -> str:
        return identity.fingerprint_text(self.public)


class Code(NamedTuple):
    """A row of `codes`. Only what HKDF makes of the secret is stored; `psk` goes away some time after the code expired."""

    id: bytes
    psk: bytes | None
    role: str
    made_by: bytes | None
    expires: int
    used_by: bytes | None


class Enrolled(NamedTuple):
    """The answer to an enrolment: `code` of wire, the party if it is OK, and whether it is new."""

    code: int
    party: Party | None = None
    is_new: bool = False


class Registry:
    """`clock` gives seconds since 1970. Raises FormatError when the state directory cannot be used."""

    def __init__(self, state_dir: Path, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            if state_dir.stat().st_mode & 0o022:
                raise FormatError(f"others may write to {state_dir}: chmod go-w it")
            self.secret: Final = _key_file(state_dir / "relay.secret")
            self._private: Final = _key_file(state_dir / "relay.key")
            database = state_dir / FILE
            os.close(os.open(database, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))  # SQLite gives its side files the same mode
        except OSError as error:
            raise FormatError(f"cannot use the state directory {state_dir}: {error.strerror}") from error
        self.public: Final = crypto.x25519_public(self._private)
        # Challenges, accounts and codes differ from those of the last run even if the system's random source is stuck.
        crypto.add_entropy(self.secret + str(clock()).encode())
        self._db: Final = sqlite3.connect(database, timeout=_BUSY_S, isolation_level=None)
        turn = os.open(state_dir, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(turn, fcntl.LOCK_EX)  # SQLite's own patience does not cover the change to WAL
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            self._db.close()
            raise FormatError(f"{database} is no registry of zts-relay: {error}") from error
        finally:
            os.close(turn)
        self._parties: dict[bytes, Party] = {}  # by account
        self._by_fp: dict[str, Party] = {}
        self._version = self._data_version()
        self._load()

    def close(self) -> None:
        self._db.close()

    @property
    def key_pair(self) -> tuple[bytes, bytes]:
        """The relay's X25519 key: private, public."""
        return self._private, self.public

    @property
    def is_new(self) -> bool:
        """Whether nobody has enrolled and nobody was ever asked to."""
        return not self._db.execute("SELECT EXISTS (SELECT 1 FROM parties) OR EXISTS (SELECT 1 FROM codes)").fetchone()[0]

    def refresh(self) -> list[Party]:
        """Learn what other processes changed; returns the parties revoked since."""
        version = self._data_version()
        if version == self._version:
            return []
        before = self._parties
        self._load()
        self._version = version  # now: a change that could not be read is looked for again
        return [p for p in self._parties.values() if p.revoked and not (p.account in before and before[p.account].revoked)]

    # --- parties -----------------------------------------------------------------------------------------------------

    def parties(self) -> list[Party]:
        """All, revoked ones too, in the order they enrolled."""
        return list(self._parties.values())

    def party(self, account: bytes) -> Party | None:
        return self._parties.get(account)

    def by_key(self, public: bytes) -> Party | None:
        return self._by_fp.get(identity.fingerprint_text(public))

    def is_active(self, account: bytes) -> bool:
        party = self._parties.get(account)
        return party is not None and party.revoked is None

    def leg_key(self, account: bytes) -> bytes:
        """K_party."""
        return leg.party_key(self.secret, account)

    def password(self, account: bytes) -> bytes:
        """The 16 bytes whose base32 form is the party's MQTT password."""
        return crypto.hmac_sha256(self.secret, b"mqtt" + account)[: wire.PASSWORD_BYTES]

    def password_text(self, account: bytes) -> bytes:
        return identity.base32(self.password(account)).encode()

    def may_log_in(self, username: str, password: bytes) -> bool:
        """Whether an active party logs in to the broker: its fingerprint and its password's base32 form."""
        party = self._by_fp.get(username)
        return party is not None and party.revoked is None and crypto.equal(password, self.password_text(party.account))

    def logins(self) -> Iterator[tuple[str, bytes]]:
        """User name and password of every active party, for a broker that is not ours."""
        return ((party.fp, self.password_text(party.account)) for party in self._parties.values() if party.revoked is None)

    def find(self, who: str) -> list[Party]:
        """The parties a fingerprint or `@name` means."""
        if not who.startswith("@"):
            identity.parse_fingerprint(who)
            return [self._by_fp[who]] if who in self._by_fp else []
        name = identity.check_name(who)
        return [party for party in self.parties() if party.name == name]

    def revoke(self, account: bytes) -> None:
        with self._transaction():
            self._db.execute("UPDATE parties SET revoked = ? WHERE account = ? AND revoked IS NULL", (self._now(), account))
        self._load()

    # --- codes -------------------------------------------------------------------------------------------------------

    def make_code(self, role: str, made_by: bytes | None = None) -> bytes | None:
        """The secret of a new join code, or None when its owner has too many unused ones."""
        secret = crypto.random_bytes(wire.SECRET_BYTES)
        now = self._now()
        with self._transaction():
            # Some time after it expired a code is no longer known, and who brings it hears nothing. What a used one
            # was used for stays, for the owner who looks it up later.
            self._db.execute("DELETE FROM codes WHERE used_by IS NULL AND expires < ?", (now - wire.CODE_TTL_S,))
            self._db.execute("UPDATE codes SET psk = NULL WHERE expires < ?", (now - wire.CODE_TTL_S,))
            unused = self._db.execute("SELECT count(*) FROM codes WHERE made_by = ? AND used_by IS NULL", (made_by,)).fetchone()[0]
            if unused >= UNUSED_CODES:
                return None
            row = (codes.code_id(secret), codes.code_psk(secret), role, made_by, now + wire.CODE_TTL_S)
            self._db.execute("INSERT INTO codes (id, psk, role, made_by, expires) VALUES (?, ?, ?, ?, ?)", row)
        return secret

    def code(self, code_id: bytes) -> Code | None:
        row = self._db.execute("SELECT id, psk, role, made_by, expires, used_by FROM codes WHERE id = ?", (code_id,)).fetchone()
        return Code(*row) if row else None

    def enrol(self, code_id: bytes, public: bytes, name: str) -> Enrolled:
        """Use a code, once. The same key with the same code gets the same account again: its first answer was lost.

        A key that is enrolled already keeps its account with a new code of its role.
        """
        now = self._now()
        with self._transaction():
            code = self.code(code_id)
            row = self._db.execute("SELECT * FROM parties WHERE public = ?", (public,)).fetchone()
            party = Party(*row) if row else None
            if code is None:
                return Enrolled(wire.DENIED)
            if party and party.revoked is not None:
                return Enrolled(wire.REVOKED)
            if code.used_by is not None:
                is_retry = party is not None and party.account == code.used_by
                return Enrolled(wire.OK, party) if is_retry else Enrolled(wire.DENIED)
            maker = self._db.execute("SELECT revoked FROM parties WHERE account = ?", (code.made_by,)).fetchone()
            if code.expires <= now or (maker and maker[0] is not None) or (party and party.role != code.role):
                return Enrolled(wire.DENIED)
            is_new = party is None
            if party is None:
                party = Party(crypto.random_bytes(wire.ACCOUNT_BYTES), public, name, code.role, code.made_by, now, None)
                self._db.execute("INSERT INTO parties VALUES (?, ?, ?, ?, ?, ?, ?)", party)
            self._db.execute("UPDATE codes SET used_by = ? WHERE id = ?", (party.account, code_id))
        self._remember(party)
        return Enrolled(wire.OK, party, is_new)

    # --- settings ----------------------------------------------------------------------------------------------------

    def remember_address(self, host: str, port: int) -> None:
        """Where parties reach the relay: what its join codes say."""
        with self._transaction():
            row = ("address", identity.join_address(host, port))
            self._db.execute("INSERT INTO settings VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", row)

    def address(self) -> tuple[str, int] | None:
        row = self._db.execute("SELECT value FROM settings WHERE name = 'address'").fetchone()
        return identity.split_address(row[0]) if row else None

    # --- inside ------------------------------------------------------------------------------------------------------

    def _now(self) -> int:
        return int(self._clock())

    def _data_version(self) -> int:
        version: int = self._db.execute("PRAGMA data_version").fetchone()[0]
        return version

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _load(self) -> None:
        parties = [Party(*row) for row in self._db.execute("SELECT * FROM parties ORDER BY rowid")]
        self._parties, self._by_fp = {}, {}
        for party in parties:
            self._remember(party)

    def _remember(self, party: Party) -> None:
        self._parties[party.account] = party
        self._by_fp[party.fp] = party


def _key_file(path: Path) -> bytes:
    """32 secret bytes, made at the first start. Of two processes that make them at once one wins, and both use its key."""
    if not path.exists():
        fresh = path.with_name(f".{path.name}.{os.getpid()}.{hashlib.sha256(os.urandom(16)).hexdigest()[:8]}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(crypto.random_bytes(wire.KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(fresh, path)
        finally:
            fresh.unlink()
    if path.stat().st_mode & 0o077:
        raise FormatError(f"others may read {path}: chmod 600 it, and if somebody may have read it, delete it and enrol everybody anew")
    key = path.read_bytes()
    if len(key) != wire.KEY_BYTES:
        raise FormatError(f"{path} has {len(key)} bytes, not {wire.KEY_BYTES}: restore it from a backup")
    return key
