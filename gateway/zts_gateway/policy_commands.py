"""What `zts policy` does: the rules for all devices of an owner, written, looked at and tried out on this computer."""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from zts import identity
from zts.errors import FormatError
from zts.policy import Policy
from zts_gateway import addressbook, amounts, asking, granting, policy_book, policy_file, policy_view, private_files, push_round, pushing
from zts_gateway.addressbook import Book, Card
from zts_gateway.enrolling import parse_name
from zts_gateway.policy_file import Rule
from zts_gateway.policy_view import View
from zts_gateway.running import run
from zts_gateway.ui import Exit, Failure, Progress, say

_EDITORS = ("sensible-editor", "nano", "vi")


def _book() -> Book:
    return Book(addressbook.home())


def _own(book: Book) -> list[Card]:
    return [card for card in book.cards() if card.public and not card.grant]


def _view(book: Book, rules: list[Rule], card: Card) -> View:
    grants = book.grants(card.name)
    me = book.member()[0]
    return View(identity.fingerprint(me.public), card, Policy(policy_book.compile_as(rules, book, card, grants)), rules, grants)


def push(arguments: argparse.Namespace) -> None:
    book = _book()
    cards, lasting = [], []
    for card in _chosen(book, arguments.devices):
        try:
            cards.append(pushing.mark_due(book, card.name))
        except Failure as failure:
            lasting.append(failure)
    with Progress() as progress:
        late, refused = run(
            push_round.push_all(book, cards, arguments.wait, progress.step, lambda card: say(f"@{card.name} has taken the rules"))
        )
    lasting += refused
    for further in lasting[1:]:
        say(str(further))
    if late:
        offline = f"{push_round.names(late)} did not take the rules yet, but will with the next command; `zts policy push --wait` waits"
        if not lasting:
            raise Failure(Exit.OFFLINE, offline)
        say(offline)
    if lasting:
        raise lasting[0]


# --- show, check, test -----------------------------------------------------------------------------------------------------------


def show(arguments: argparse.Namespace) -> None:
    book = _book()
    text = policy_book.read(book)
    if text is None:
        say("there are no rules yet, so all that others may do is what grants with services say; `zts policy edit` begins some")
        return
    if arguments.devices is None:
        print(text, end="" if text.endswith("\n") else "\n", flush=True)
        return
    rules, now = policy_book.load(book), int(time.time())
    for card in _chosen(book, arguments.devices):
        print(f"@{card.name}")
        for rule in policy_file.of_device(rules, card.name):
            limits = granting.say_limits(rule.limits, now)
            what = "every service" if rule.services is None else ", ".join(rule.services) or "nothing"
            print(f"  {rule.where}: {', '.join(rule.who)}: {'; '.join([what, *limits])}")
    sys.stdout.flush()


def _chosen(book: Book, pattern: str) -> list[Card]:
    try:
        wanted = policy_file.check_pattern(pattern if pattern.startswith("@") else f"@{pattern}")
    except FormatError as error:
        raise Failure(Exit.USAGE, str(error)) from None
    cards = _own(book)
    chosen = [card for card in cards if policy_file.matches(wanted, card.name)]
    if not chosen:
        known = ", ".join(f"@{card.name}" for card in cards) or "none"
        raise Failure(Exit.USAGE, f"@{wanted} is none of your devices; they are {known}")
    return chosen


def check(_: argparse.Namespace) -> None:
    book, now = _book(), int(time.time())
    rules, cards = policy_book.load(book), _own(book)
    parties = {party.name: party for party in book.parties()}
    for card in cards:
        view = _view(book, rules, card)
        print(f"@{card.name}")
        for line in policy_view.explain(view, parties, now):
            print(f"  {line}")
    sys.stdout.flush()
    if not cards:
        say("no devices of yours yet; `zts enroll @name` adds one")
    _warn(book, rules, now)


def _warn(book: Book, rules: list[Rule], now: int) -> None:
    cards = _own(book)
    parties = {party.name: party for party in book.parties()}
    grants = {card.name: book.grants(card.name) for card in cards}
    for warning in policy_view.warnings(rules, cards, parties, grants, now):
        say(f"warning: {warning}")


def test(arguments: argparse.Namespace) -> None:
    book = _book()
    name, colon, service = arguments.target.partition(":")
    try:
        now = amounts.parse_time(arguments.at) if arguments.at else int(time.time())
        service = granting.check_service(service)
    except FormatError as error:
        raise Failure(Exit.USAGE, f"{error}" if colon else f"which service? Write @{name.removeprefix('@')}:http") from None
    card, who = granting.own(book, parse_name(name)), parse_name(arguments.party)
    if who == book.member()[0].name:
        print(f"yes: @{who} is the owner", flush=True)
        return
    view, party = _view(book, policy_book.load(book), card), book.party(who)
    if service not in [known for _, known in card.services]:
        say(f"note: @{card.name} has named no service {service} so far")
    yes, why = policy_view.judge(view, party, service, now)
    print(f"{'yes' if yes else 'no'}: {why}", flush=True)
    if not yes:
        raise Failure(Exit.DENIED, f"@{who} may not use @{card.name}:{service}: {why}")


# --- edit ------------------------------------------------------------------------------------------------------------------------


def edit(_: argparse.Namespace) -> None:
    book = _book()
    book.member()
    before = policy_book.read(book)
    draft = book.folder / "policy.draft.toml"
    if draft.exists():
        later = before is not None and book.policy_file.stat().st_mtime > draft.stat().st_mtime
        after = ", although the rules were changed after it was begun" if later else ""
        say(f"going on with {draft}, which was not finished{after}; to begin anew, delete it first")
    else:
        private_files.write(draft, policy_file.TEMPLATE if before is None else before)
    editor = _editor()
    while True:
        text = _edited(editor, draft)
        try:
            if text is not None:
                rules = _checked(book, text)
                break
            problem = f"{draft} is larger than 1 MiB, or not UTF-8"
        except FormatError as error:
            problem = str(error)
        if not sys.stdin.isatty():
            raise Failure(Exit.USAGE, f"{problem}; nothing is changed, and `zts policy edit` goes on with {draft}")
        say(problem)
        if not asking.ask("Go on editing? [Y/n] ", default=True):
            raise Failure(Exit.USAGE, f"nothing is changed; `zts policy edit` goes on with {draft}")
    if text == (policy_file.TEMPLATE if before is None else before):
        draft.unlink(missing_ok=True)
        say("nothing is changed")
        return
    with book.locked():
        if policy_book.read(book) != before:
            raise Failure(Exit.USAGE, f"{book.policy_file} was changed meanwhile; compare it with {draft}, then `zts policy edit` again")
        private_files.write(book.policy_file, text)
    draft.unlink(missing_ok=True)
    _warn(book, rules, int(time.time()))
    say("the rules are changed here; `zts policy push @device` brings them to a device")


def _editor() -> list[str]:
    named = (os.environ.get("VISUAL") or os.environ.get("EDITOR") or "").strip()
    if named:
        try:
            return shlex.split(named)
        except ValueError:
            raise Failure(Exit.USAGE, f"EDITOR is no command: {named}; set it to the editor you like") from None
    found = next((path for name in _EDITORS if (path := shutil.which(name))), None)
    if not found:
        raise Failure(Exit.USAGE, "there is no editor here; set EDITOR to the one you like")
    return [found]


def _edited(editor: list[str], draft: Path) -> str | None:
    """The draft's text when the editor has ended; None when it cannot be read as text."""
    try:
        code = subprocess.run([*editor, str(draft)], check=False).returncode
    except OSError as error:
        raise Failure(Exit.USAGE, f"cannot run {editor[0]} ({error.strerror}); set EDITOR to the editor you like") from None
    if code:
        raise Failure(Exit.USAGE, f"{editor[0]} ended with {code}; nothing is changed, and `zts policy edit` goes on with {draft}")
    try:
        data = draft.read_bytes()
        return data.decode() if len(data) <= policy_book.FILE_MAX else None
    except UnicodeDecodeError:
        return None
    except OSError as error:
        raise Failure(Exit.USAGE, f"cannot read {draft} ({error.strerror}); nothing is changed") from None


def _checked(book: Book, text: str) -> list[Rule]:
    """The rules, whose parties are all known. Raises FormatError."""
    rules = policy_file.parse(text)
    known = {party.name for party in book.parties()}
    for rule in rules:
        for name in rule.parties:
            if name not in known:
                raise FormatError(f"{rule.where}: nobody is known here as @{name}; add the card first (`zts add`), or take the name out")
    for card in _own(book):
        try:
            policy_book.compile_as(rules, book, card, book.grants(card.name))
        except Failure as failure:
            raise FormatError(str(failure)) from None
    return rules
