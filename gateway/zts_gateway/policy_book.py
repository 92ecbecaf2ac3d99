"""The owner's policy file and address book together: what a device's policy would be now."""

from collections.abc import Sequence

from zts import grant, identity
from zts.errors import FormatError
from zts_gateway import policy_file
from zts_gateway.addressbook import Book, Card, Issued
from zts_gateway.policy_file import Rule
from zts_gateway.ui import Exit, Failure

FILE_MAX = 1 << 20  # bytes; a thousand times what a device has room for


def read(book: Book) -> str | None:
    """The file's text, or None. Raises Failure."""
    path = book.policy_file
    try:
        if path.stat().st_mode & 0o022:
            raise Failure(Exit.USAGE, f"others may write {path}; look at what it says, run chmod 600 on it, then try again")
        with path.open("rb") as file:
            data = file.read(FILE_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Failure(Exit.USAGE, f"cannot read {path} ({error.strerror}); make it yours, or set ZTS_HOME to another folder") from None
    if len(data) > FILE_MAX:
        raise Failure(Exit.USAGE, f"{path} is larger than 1 MiB; a device has room for 6 KiB of rules")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Failure(Exit.USAGE, f"{path} is not UTF-8; save it as that, or begin anew with `zts policy edit`") from None


def load(book: Book) -> list[Rule]:
    """The rules; none where there is no file. Raises Failure."""
    text = read(book)
    try:
        return [] if text is None else policy_file.parse(text)
    except FormatError as error:
        raise Failure(Exit.USAGE, f"{book.policy_file}: {error}; `zts policy edit` opens it") from None


def compile_for(book: Book, device: Card) -> bytes:
    """The policy to push to a device of ours, with the next number. Raises Failure.

    The number must be noted in the device's card before the policy is sent: else two different ones could bear it.
    """
    return compile_as(load(book), book, device, book.grants(device.name))


def compile_as(rules: Sequence[Rule], book: Book, device: Card, grants: Sequence[Issued]) -> bytes:
    """The same of these rules and grants."""
    parties = {party.name: identity.fingerprint(party.public) for party in book.parties()}
    # A grant of an earlier generation is taken back by the generation.
    revoked = [one.id for one in grants if one.taken_back and grant.generation(one.id) == device.generation]
    try:
        seq = min(device.policy_seq + 1, 0xFFFFFFFF)  # who only looks needs no number of its own
        return policy_file.compile_rules(rules, device.name, parties, device.generation, seq, revoked)
    except FormatError as error:
        raise Failure(Exit.USAGE, str(error)) from None
