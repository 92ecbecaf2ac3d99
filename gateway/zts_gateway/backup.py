"""Everything that makes an owner, in one file under a passphrase: identity, cards, parties, grants, rules.

    file = magic 8 | version 1 | salt 16 | nonce 12 | AES-256-GCM(key, nonce, ad = all before, contents) | SHA-256(all before)
    key  = scrypt(passphrase as UTF-8 in NFC, salt, n = 2^17, r = 8, p = 1), 32 bytes

The contents are a JSON object: "files", names in the book's folder to their text. The checksum tells a damaged file from a wrong
passphrase; against whoever can compute it too, there is the tag.
"""

import json
import os
import re
import unicodedata
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from zts import crypto
from zts.errors import FormatError
from zts_gateway import policy_book, private_files
from zts_gateway.addressbook import Book
from zts_gateway.ui import Exit, Failure

PASSPHRASE_MIN = 8  # characters
_MAGIC = b"ZTSbackp"
_VERSION = b"\1"
_SALT, _NONCE, _SUM = 16, 12, 32
_HEAD = len(_MAGIC) + len(_VERSION) + _SALT + _NONCE
# 128 MiB and about half a second for each try at a passphrase; OWASP's advice for scrypt.
_COST = 1 << 17
_FILE_MAX = 64 << 20
_KEPT = re.compile(r"identity\.json|policy\.toml|(devices|parties|grants)/[a-z0-9]([a-z0-9_-]{0,30}[a-z0-9])?\.json")


class WrongPassphrase(Exception):
    """Or a file that was changed by somebody who took care of its checksum."""


# --- the file --------------------------------------------------------------------------------------------------------------------


def seal(contents: bytes, passphrase: str, cost: int = _COST) -> bytes:
    head = _MAGIC + _VERSION + crypto.random_bytes(_SALT + _NONCE)
    sealed = head + _cipher(head, passphrase, cost).encrypt(head[-_NONCE:], contents, head)
    return sealed + crypto.sha256(sealed)


def check(data: bytes) -> None:
    """Raises FormatError for what no passphrase could open."""
    if not data.startswith(_MAGIC):
        raise FormatError("this is no backup of zts")
    if data[len(_MAGIC) : len(_MAGIC) + 1] not in (b"", _VERSION):
        raise FormatError("this backup is of a later version; update zts")
    if len(data) < _HEAD + _SUM or crypto.sha256(data[:-_SUM]) != data[-_SUM:]:
        raise FormatError("this backup is damaged, and cannot be read any more; take another copy of it")


def open_(data: bytes, passphrase: str, cost: int = _COST) -> bytes:
    """Raises FormatError as `check` does, and WrongPassphrase."""
    check(data)
    head = data[:_HEAD]
    try:
        return _cipher(head, passphrase, cost).decrypt(head[-_NONCE:], data[_HEAD:-_SUM], head)
    except InvalidTag:
        raise WrongPassphrase from None


def _cipher(head: bytes, passphrase: str, cost: int) -> AESGCM:
    salt = head[-_NONCE - _SALT : -_NONCE]
    # One text, whatever the keyboard and the system made of it.
    text = unicodedata.normalize("NFC", passphrase).encode()
    return AESGCM(Scrypt(salt=salt, length=32, n=cost, r=8, p=1).derive(text))


# --- the book --------------------------------------------------------------------------------------------------------------------


def collect(book: Book) -> bytes:
    """The contents of a backup. Raises Failure where there is no identity, and for files that cannot be read."""
    if book.find_identity() is None:
        raise Failure(Exit.USAGE, f"there is no identity in {book.folder} to back up; `zts join` makes one")
    with book.locked():
        _read_all(book)
        files = {name: path.read_text(encoding="utf-8") for path in sorted(book.folder.rglob("*")) if (name := _kept(book, path))}
    return json.dumps({"files": files}).encode()


def _kept(book: Book, path: Path) -> str | None:
    name = path.relative_to(book.folder).as_posix()
    return name if _KEPT.fullmatch(name) and path.is_file() else None


def _read_all(book: Book) -> None:
    """Raises Failure for a file that is damaged."""
    book.find_identity()
    book.parties()
    policy_book.read(book)
    for card in book.cards():
        book.grants(card.name)


def spread(book: Book, contents: bytes) -> list[str]:
    """Writes the files of a backup, all or none, and returns their names. Raises Failure where there is an address book already."""
    files = _parse(contents)
    with book.locked():
        there = [path for path in sorted(book.folder.rglob("*")) if _kept(book, path)]
        if there:
            raise Failure(
                Exit.USAGE,
                f"{there[0]} is there already, and nothing is overwritten; restore to another folder with ZTS_HOME, or move that one away",
            )
        written: list[Path] = []
        try:
            # The identity comes last: with it the book is whole.
            for name in sorted(files, key=lambda name: name == "identity.json"):
                written.append(book.folder / name)
                private_files.write(written[-1], files[name])
            _read_all(book)
        except BaseException:
            for path in written:
                path.unlink(missing_ok=True)
            raise
    return sorted(files)


def _parse(contents: bytes) -> dict[str, str]:
    """Raises Failure: what was sealed whole can only be of a later version."""
    try:
        files = json.loads(contents)["files"]
        if not isinstance(files, dict) or "identity.json" not in files:
            raise ValueError
        for name, text in files.items():
            if not _KEPT.fullmatch(name) or not isinstance(text, str):
                raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Failure(Exit.USAGE, "this backup has contents that this version does not know; update zts") from None
    return files


def read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_MAX + 1)
    except OSError as error:
        raise Failure(Exit.USAGE, f"cannot read {path} ({error.strerror}); give the file that `zts backup` wrote") from None
    if len(data) > _FILE_MAX:
        raise Failure(Exit.USAGE, f"{path} is too large for a backup of zts; give the file that `zts backup` wrote")
    return data


def write(path: Path, data: bytes) -> None:
    """A new file, 0600, whole or not at all."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise Failure(Exit.USAGE, f"{path} is there already, and a backup overwrites nothing; give another name") from None
    except OSError as error:
        raise Failure(Exit.USAGE, f"cannot write {path} ({error.strerror}); give a place that you may write to") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise Failure(Exit.USAGE, f"cannot write {path} ({error.strerror}); give a place with more room") from None
        raise
