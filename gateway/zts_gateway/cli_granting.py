"""`zts card`, `zts add`, `zts grant`, `zts grants`: who is let in, and how they learn of it."""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

from zts import identity
from zts.errors import FormatError
from zts.grant import Terms
from zts_gateway import addressbook, amounts, granting, handing, introduction
from zts_gateway.addressbook import Book, Card, Issued
from zts_gateway.asking import confirm, read_secret
from zts_gateway.enrolling import parse_name
from zts_gateway.running import run
from zts_gateway.ui import Exit, Failure, Progress, print_table, say

_Add = Callable[..., argparse.ArgumentParser]
_GRANT = """\
Prints one line for the holder, who gives it to `zts add`. It is a secret, but of no use to anybody else.

With services, the grant stands on its own: the device lets the holder in with nobody else there. Services are named with commas
between, or * is every one. Without services the holder becomes a member: the grant gives what the rules of `zts policy` give the holder.

A day, as 2026-12-31, is meant to its end. Sizes are such as 500K, 10M or 2G, durations such as 90s, 30m, 12h, 7d or 2w."""


def add_commands(add: _Add) -> None:
    add("card", _card, "print the line by which others know this computer", "It is no secret: send it to who shall let you in.")
    learn = add("add", _add, "add a party by its card, or a device by a grant", "Shows what the line says, and asks.")
    learn.add_argument("line", nargs="?", metavar="CARD", help="what `zts card` printed there; without it, the line is asked for")
    learn.add_argument("--wait", action="store_true", help="wait for a grant that a party you know hands over with `zts grant --send`")
    learn.add_argument("--line-file", metavar="FILE", help="read the line from a file, or from stdin (-)")
    learn.add_argument("--as", dest="name", type=_name, metavar="@NAME", help="what to call it here")
    learn.add_argument("--yes", action="store_true", help="do not ask")
    give = add("grant", _grant, "let a party use services of a device", _GRANT)
    give.add_argument("holder", type=_name, metavar="@PARTY")
    give.add_argument("target", metavar="@DEVICE[:SERVICE[,SERVICE]]")
    end = give.add_mutually_exclusive_group()
    end.add_argument("--for", dest="duration", type=_argument(amounts.parse_duration), metavar="TIME", help="how long")
    end.add_argument("--until", type=_argument(amounts.parse_until), metavar="TIME", help="until when, such as 2026-12-31T09:00")
    give.add_argument("--ro", action="store_true", help="of serial services what comes from the device, and nothing else")
    give.add_argument(
        "--max-bytes", type=_argument(amounts.parse_size), default=0, metavar="SIZE", help="of one session, both ways together"
    )
    give.add_argument("--streams", type=_argument(_streams), default=0, metavar="N", help="connections at once")
    give.add_argument("--idle", type=_argument(_idle), default=0, metavar="TIME", help="end a connection on which nothing passes so long")
    give.add_argument("--send", action="store_true", help="hand it over end to end to who runs `zts add --wait`, and print no line")
    listing = add("grants", _grants, "list the grants that were made for a device")
    listing.add_argument("device", type=_name, metavar="@DEVICE")
    listing.add_argument("--json", action="store_true", help="for programs")


def _argument(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """For argparse: with its sentence."""

    def parsed(text: str) -> Any:
        try:
            return parse(text)
        except FormatError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parsed


_name = _argument(identity.check_name)


def _streams(text: str) -> int:
    return amounts.parse_count(text, granting.STREAMS_MAX)


def _idle(text: str) -> int:
    return amounts.parse_duration(text, granting.IDLE_MAX)


def _book() -> Book:
    return Book(addressbook.home())


def _card(_: argparse.Namespace) -> None:
    me, account = _book().member()
    card = introduction.PublicCard(me.name, me.public, identity.fingerprint_text(account.relay_key))
    print(introduction.format_card(card), flush=True)
    say(f"@{me.name}'s fingerprint is {me.fp}; who adds this card compares it, with you, over another way")


# --- zts add -----------------------------------------------------------------------------------------------------------------


def _add(arguments: argparse.Namespace) -> None:
    line = arguments.line
    if arguments.wait:
        if line is not None or arguments.line_file:
            raise Failure(Exit.USAGE, "with --wait there is no line to give: what comes is asked about")
        _add_delivered(arguments)
        return
    if line is not None:
        if arguments.line_file:
            raise Failure(Exit.USAGE, "give the card, or --line-file, and not both")
        if line.strip().startswith(introduction.GRANT):
            raise Failure(
                Exit.USAGE,
                "a grant is a secret, and others on this computer can read command lines: run `zts add` alone and paste it there, or give "
                "it with --line-file FILE",
            )
    else:
        line = read_secret(arguments.line_file, "card or grant (it is not shown): ", "--line-file", "the line")
    try:
        if line.strip().startswith(introduction.GRANT):
            _add_device(introduction.parse_grant(line), arguments)
        else:
            _add_party(introduction.parse_card(line), arguments)
    except FormatError as error:
        whole = f"the whole line that `zts card` ({introduction.CARD}…) or `zts grant` ({introduction.GRANT}…) printed"
        raise Failure(Exit.USAGE, f"{error}; `zts add` takes {whole}") from None


def _add_delivered(arguments: argparse.Namespace) -> None:
    book = _book()
    me, account = book.member()
    parties = book.parties()
    if not parties:
        raise Failure(Exit.USAGE, "nobody is known here who could hand a grant over; add the owner's card first: `zts add CARD`")
    with Progress() as progress:
        progress.step("waiting for a grant (Ctrl-C ends it) …")
        party, line = run(handing.receive(me, account, parties))
    say(f"@{party.name} ({party.fp}) hands a grant over")
    _add_device(line, arguments, party.fp)


def _add_party(card: introduction.PublicCard, arguments: argparse.Namespace) -> None:
    book, name = _book(), arguments.name or card.name
    party = granting.meet_party(book, card, name)
    if party is None:
        say(f"@{name} is known here already, by this key")
        return
    say(f"@{name} has the fingerprint {party.fp}" + (f", and calls itself @{card.name}" if card.name != name else ""))
    if not confirm(f"Is this what @{name} sees with `zts whoami`? Add @{name}?", arguments.yes):
        say(f"@{name} was not added")
        return
    granting.keep_party(book, card, name)
    say(f"added @{name}; `zts grant @{name} @device:service` lets @{name} use a service of yours")


def _add_device(line: introduction.GrantLine, arguments: argparse.Namespace, owner: str = "") -> None:
    book, name, now = _book(), arguments.name or line.name, int(time.time())
    card = granting.meet_device(book, line, name, now, owner)
    assert card.grant
    has = book.find_card(name)
    say(f"@{name} is the device {card.fp}" + (f", which its owner calls @{line.name}" if line.name != name else ""))
    say(f"you may use there: {granting.say(card.grant.terms, 'you', now)}")
    if not confirm(f"Put this in the place of the grant for @{name} that you have?" if has else f"Add @{name}?", arguments.yes):
        say(f"@{name} was {'left as it was' if has else 'not added'}")
        return
    granting.keep_device(book, line, name, now, owner)
    say(f"added @{name}; `zts connect @{name}` reaches it")


# --- zts grant, zts grants -----------------------------------------------------------------------------------------------------


def _grant(arguments: argparse.Namespace) -> None:
    book, now = _book(), int(time.time())
    name, colon, services = arguments.target.partition(":")
    name = parse_name(name)
    try:
        wanted = granting.parse_services(services) if colon else None
    except FormatError as error:
        raise Failure(Exit.USAGE, f"{error}; name services as in @{name}:http,console, or * for every one") from None
    until = arguments.until or (now + arguments.duration if arguments.duration else 0)
    if until > amounts.TIME_MAX:
        raise Failure(Exit.USAGE, "a grant ends before 2106, or never; without --for and --until it has no end")
    if 0 < until <= now:
        raise Failure(Exit.USAGE, f"a grant {amounts.say_until(until, now)}, would be of no use; give a time that is still to come")
    party = book.party(arguments.holder)
    terms = Terms(
        identity.fingerprint(party.public), not colon, wanted, until, arguments.streams, arguments.max_bytes, arguments.idle, arguments.ro
    )
    _, line = granting.issue(book, party, name, terms)
    card = book.device(name)
    if arguments.send:
        with Progress() as progress:
            run(handing.send(*book.member(), party, introduction.parse_grant(line), progress.step))
    else:
        print(line, flush=True)
    say(f"@{party.name} may use on @{name}: {granting.say(terms, f'@{party.name}', now)}")
    offered = [service for _, service in card.services]
    for service in wanted or ():
        if service not in offered:
            say(f"note: @{name} has named no service {service} so far; it has {', '.join(offered) or 'named none'}")
    say(f"@{party.name} has it" if arguments.send else f"give @{party.name} the line above, for `zts add`")


def _grants(arguments: argparse.Namespace) -> None:
    book, now = _book(), int(time.time())
    card = granting.own(book, arguments.device)
    grants = book.grants(card.name)
    if arguments.json:
        print(json.dumps([_row(card, issued, now) for issued in grants]), flush=True)
    elif grants:
        _table(book, card, grants, now)
    else:
        say(f"no grants for @{card.name} yet; `zts grant @party @{card.name}:service` makes one")


def _row(card: Card, issued: Issued, now: int) -> dict[str, Any]:
    return {
        "id": issued.id.hex(),
        "holder": issued.holder,
        "fp": issued.fp,
        **granting.row(issued.terms),
        "made": issued.made,
        "taken_back": issued.taken_back,
        "state": granting.state(card, issued, now),
    }


def _table(book: Book, card: Card, grants: list[Issued], now: int) -> None:
    parties = {party.name: party for party in book.parties()}
    rows = [
        [
            issued.id.hex(),
            granting.say_holder(issued, parties),
            granting.state(card, issued, now),
            granting.say(issued.terms, f"@{issued.holder}", now),
        ]
        for issued in grants
    ]
    print_table(["grant", "holder", "state", "what"], rows)
