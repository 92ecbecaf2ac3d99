"""`zts backup` and `zts restore`."""

import argparse
from collections.abc import Callable
from pathlib import Path

from zts.errors import FormatError
from zts_gateway import addressbook
from zts_gateway.addressbook import Book
from zts_gateway.asking import read_secret
from zts_gateway.ui import Exit, Failure, say

_OPTION = "--passphrase-file"


def add_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    save = add("backup", _backup, "write identity, devices, parties, grants and rules to one file", "It is sealed with a passphrase.")
    restore = add("restore", _restore, "take everything from a backup", "Overwrites nothing: set ZTS_HOME to a folder without an identity.")
    for parser in (save, restore):
        parser.add_argument("file", type=Path, metavar="FILE")
        parser.add_argument(_OPTION, metavar="FILE", help="read the passphrase from a file, or from stdin (-), instead of asking for it")


def _ask(file: str | None, prompt: str) -> str:
    return read_secret(file, prompt, _OPTION, "the passphrase").rstrip("\r\n")


def _backup(arguments: argparse.Namespace) -> None:
    from zts_gateway import backup

    book, path = Book(addressbook.home()), arguments.file
    contents = backup.collect(book)
    if path.exists():  # before a passphrase is thought up
        raise Failure(Exit.USAGE, f"{path} is there already, and a backup overwrites nothing; give another name")
    passphrase = _ask(arguments.passphrase_file, "passphrase (it is not shown): ")
    if len(passphrase) < backup.PASSPHRASE_MIN:
        raise Failure(
            Exit.USAGE, f"a passphrase has at least {backup.PASSPHRASE_MIN} characters; four or five words that you drew by lot are good"
        )
    if arguments.passphrase_file is None and _ask(None, "the same again: ") != passphrase:
        raise Failure(Exit.USAGE, "the two are not the same; nothing was written, so try again")
    backup.write(path, backup.seal(contents, passphrase))
    say(f"wrote {path}; whoever has it and the passphrase is you, and without the passphrase nobody can read it, you neither")


def _restore(arguments: argparse.Namespace) -> None:
    from zts_gateway import backup

    book, path = Book(addressbook.home()), arguments.file
    data = backup.read(path)
    try:
        backup.check(data)
        there = book.find_identity()
        if there:
            raise Failure(Exit.USAGE, f"this computer is @{there.name} already, and nothing is overwritten; set ZTS_HOME to another folder")
        contents = backup.open_(data, _ask(arguments.passphrase_file, "passphrase (it is not shown): "))
    except FormatError as error:
        raise Failure(Exit.USAGE, f"{path}: {error}") from None
    except backup.WrongPassphrase:
        raise Failure(Exit.AUTHENTICATION, f"this is not the passphrase of {path}; try again") from None
    backup.spread(book, contents)
    me = book.find_identity()
    assert me
    say(f"this computer is now @{me.name} ({me.fp}), with {len(book.cards())} devices and {len(book.parties())} parties")
