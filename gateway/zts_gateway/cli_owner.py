"""`zts revoke`, `zts log`, `zts retire`: what an owner takes back from others, and what it asks its devices."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from zts import grant, wire
from zts_gateway import addressbook, audit_log, broker, listener, pushing
from zts_gateway.addressbook import Book, Card, Issued, timestamp
from zts_gateway.asking import confirm
from zts_gateway.enrolling import parse_name
from zts_gateway.granting import own
from zts_gateway.push_round import push_one
from zts_gateway.running import run
from zts_gateway.ui import Exit, Failure, Progress, failure_of, say

_Add = Callable[..., argparse.ArgumentParser]


def add_commands(add: _Add) -> None:
    take = add(
        "revoke",
        _revoke,
        "take back what a party was granted on a device, or all that anybody was",
        "What is open ends within two seconds of the device's hearing of it.",
    )
    take.add_argument("party", nargs="?", metavar="@PARTY")
    take.add_argument("device", metavar="@DEVICE")
    take.add_argument(
        "--all", action="store_true", help="every grant there is, in place of @PARTY's; also of those this computer knows not"
    )
    log = add("log", _log, "show what a device decided lately: who wanted what, and what came of it")
    log.add_argument("device", metavar="@DEVICE")
    log.add_argument("--follow", action="store_true", help="go on with what comes, until Ctrl-C")
    log.add_argument("--json", action="store_true", help="a line of JSON each, for programs")
    retire = add(
        "retire", _retire, "give a device up: lost, stolen or sold", "The relay and its broker let it in no more, and its card goes."
    )
    retire.add_argument("device", metavar="@DEVICE")
    retire.add_argument("--yes", action="store_true", help="do not ask")


def _book() -> Book:
    return Book(addressbook.home())


# --- revoke ----------------------------------------------------------------------------------------------------------------------


def _revoke(arguments: argparse.Namespace) -> None:
    book, name = _book(), parse_name(arguments.device)
    card = own(book, name)
    if arguments.all == (arguments.party is not None):
        raise Failure(
            Exit.USAGE, f"name whose grants to take back, as in `zts revoke @bob @{name}`, or every one: `zts revoke --all @{name}`"
        )
    if arguments.all:
        generation = card.generation + 1
        if generation >= 1 << 16:
            raise Failure(
                Exit.USAGE, f"@{name} has had all its generations of grants; enrol it anew: `zts retire @{name}`, then `zts enroll`"
            )
        book.change_card(name, generation=generation, policy_due=True)
        what = "every grant"
    else:
        what = _take_back(book, name, parse_name(arguments.party))
    card = pushing.mark_due(book, name)
    with Progress() as progress:
        progress.step(f"telling @{name} …")
        try:
            run(push_one(book, card))
        except Failure as failure:
            raise Failure(
                failure.code,
                f"{what} on @{name} was taken back here, but the device has not heard of it yet: {failure}; the next command does it",
            ) from None
    say(f"{what} on @{name} was taken back; what was open by it ends now")


def _take_back(book: Book, name: str, party: str) -> str:
    now = timestamp()
    known = book.find_party(party)
    found: list[Issued] = []
    was_due = own(book, name).policy_due
    book.change_card(name, policy_due=True)  # before: whatever ends us now, the device hears of it
    late = False  # taken back before, and the device has not heard of it

    def change(card: Card, grants: list[Issued]) -> list[Issued]:
        nonlocal late
        after = []
        for one in grants:
            # By the key as well: the name may mean another party since.
            theirs = one.holder == party or (known is not None and one.fp == known.fp)
            late = late or (theirs and one.taken_back is not None and was_due)
            if theirs and not one.taken_back and grant.generation(one.id) == card.generation:
                one = replace(one, taken_back=now)
                found.append(one)
            after.append(one)
        return after

    book.change_grants(name, change)
    if not found and not late:
        raise Failure(
            Exit.USAGE,
            f"this computer knows of no grant that @{party} has on @{name}, see `zts grants @{name}`; if another computer made one, "
            f"`zts revoke --all @{name}` takes back every grant there is",
        )
    return f"what @{party} was granted"


# --- log -------------------------------------------------------------------------------------------------------------------------


def _log(arguments: argparse.Namespace) -> None:
    book, name = _book(), parse_name(arguments.device)
    card = own(book, name)
    names = audit_log.names_of(book)

    def show(entry: dict[str, Any]) -> None:
        who = names.get(entry["who"])
        print(json.dumps({**entry, "name": who}) if arguments.json else audit_log.line(entry, who), flush=True)

    run(_read_log(book, card, arguments.follow, show))


async def _read_log(book: Book, card: Card, follow: bool, show: Callable[[dict[str, Any]], None]) -> None:
    me, account = book.member()
    meeting = await listener.meet_and_note(book, me, account, card, 0, lambda _: None)
    try:
        async for entry in audit_log.entries(meeting, follow):
            show(entry)
    finally:
        await meeting.close()


# --- retire ----------------------------------------------------------------------------------------------------------------------


def _retire(arguments: argparse.Namespace) -> None:
    book, name = _book(), parse_name(arguments.device)
    card = own(book, name)
    say(f"@{name} ({card.fp}) will be let in by the relay no more, and this computer will forget it")
    if not confirm(f"Retire @{name}? This cannot be undone.", arguments.yes):
        say(f"@{name} was kept")
        return
    me, account = book.member()
    with Progress() as progress:
        progress.step("telling the relay …")
        answer = run(broker.ask_relay(me, account, wire.KIND_RETIRE, {wire.TLV_PUBLIC: card.public}))
    code = answer[wire.TLV_CODE][0]
    if code == wire.DENIED:
        raise Failure(
            Exit.DENIED,
            f"the relay does not take @{name} for a device of yours, so it was kept; its operator can run `zts-relay revoke {card.fp}`",
        )
    if code != wire.OK:
        raise failure_of(code, f"@{me.name}")
    holders = sorted({one.holder for one in book.grants(name) if not one.taken_back})
    book.remove_card(name)
    say(f"@{name} is retired: relay and broker let it in no more, and its card and grants are gone here")
    for sentence in audit_log.reach_of_a_lost_device(name, holders):
        say(sentence)
    sys.stdout.flush()
