"""Files that hold keys: 0600 in folders of 0700, replaced whole, and refused when others may read them.

What cannot be read or written raises Failure(USAGE), with what to do about it.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zts.errors import FormatError
from zts_gateway.ui import Exit, Failure


def read(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is none."""
    try:
        if path.stat().st_mode & 0o077:
            raise Failure(Exit.USAGE, f"others may read {path}, which holds keys; run chmod 600 on it, then try again")
        with damaged(path):
            data = json.loads(path.read_bytes())
            if not isinstance(data, dict):
                raise FormatError("no object")
            return data
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Failure(Exit.USAGE, f"cannot read {path} ({error.strerror}); make it yours, or set ZTS_HOME to another folder") from None


@contextmanager
def damaged(path: Path) -> Iterator[None]:
    """What is wrong with a file's contents, as a sentence."""
    try:
        yield
    except (FormatError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Failure(Exit.USAGE, f"{path} is damaged; restore it from a backup, or delete it and start anew") from None


def write(path: Path, text: str) -> None:
    """Whole or not at all, 0600 from the first byte. The folder is made, and the one above it."""
    make_folder(path.parent)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        raise Failure(Exit.USAGE, f"cannot write {path} ({error.strerror}); set ZTS_HOME to a folder you may write to") from None


def make_folder(folder: Path) -> None:
    try:
        for made in (folder.parent, folder):
            made.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(Exit.USAGE, f"cannot make the folder {folder} ({error.strerror}); set ZTS_HOME to one you may write to") from None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time, and one thread. Not twice in one."""
    make_folder(folder)
    try:
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Failure(Exit.USAGE, f"cannot write in {folder} ({error.strerror}); set ZTS_HOME to a folder you may write to") from None
