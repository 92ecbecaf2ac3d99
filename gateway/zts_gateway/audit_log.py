"""A device's log of decisions, read through its service `zts-log`, in words; and what a lost device could reach."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from zts import identity, wire
from zts.errors import StreamReset
from zts_gateway import own_service
from zts_gateway.addressbook import Book
from zts_gateway.amounts import say_size
from zts_gateway.client import PATIENCE_MS, Meeting, open_stream
from zts_gateway.ui import failure_of

SERVICE = "zts-log"
_DENIED = "shows you no log: you do not own it, or its agent is older than this; update it with `zts update`"
_LINE_MAX = 1024
_NUMBERS = ("n", "up_ms", "code", "in", "out", "for_ms")
_OUTCOMES = {
    wire.OK: "ok",
    wire.DENIED: "denied",
    wire.TIME_UNKNOWN: "denied: time not known",
    wire.BUSY: "busy",
    wire.TARGET_REFUSED: "target refused",
    wire.TARGET_RESET: "reset",
    wire.TRUNCATED: "cut",
    wire.REVOKED: "revoked",
    wire.PROTO: "not understood",
    wire.IDLE: "idle",
    wire.DRAIN: "shut down",
    wire.QUOTA: "limit reached",
}


async def entries(meeting: Meeting, follow: bool) -> AsyncIterator[dict[str, Any]]:
    """What the device has kept, then with `follow` what comes. Raises Failure."""
    try:
        stream = await open_stream(meeting, SERVICE)
        await stream.send(json.dumps({"after": 0, "follow": follow}).encode() + b"\n")
        while True:
            async with asyncio.timeout(None if follow else PATIENCE_MS / 1000):
                line = await stream.readline()
            if not line:
                return
            yield _read(line, meeting.name)
    except StreamReset as reset:
        raise own_service.reset_failure(reset, meeting, _DENIED) from None
    except TimeoutError:
        raise failure_of(wire.TRUNCATED, f"@{meeting.name}") from None


def _read(line: bytes, name: str) -> dict[str, Any]:
    """An entry's known fields. It goes to a terminal, so its texts are what they must be, whoever holds the device now."""
    try:
        told = json.loads(line) if len(line) <= _LINE_MAX else {}
        entry: dict[str, Any] = {field: int(told[field]) for field in _NUMBERS}
        entry["at"] = None if told["at"] is None else _time(int(told["at"]))
        service = told["service"]
        entry["service"] = None if service is None else _checked(service)
        if not identity.is_fingerprint_text(told["who"]):
            raise ValueError("who")
        entry["who"] = told["who"]
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError, OSError):
        raise failure_of(wire.PROTO, f"@{name}") from None
    return entry


def _checked(service: Any) -> str:
    if not isinstance(service, str) or identity.check_name(service) != service:
        raise ValueError("service")
    return service


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def names_of(book: Book) -> dict[str, str]:
    """Fingerprint to @name of all whom this computer knows."""
    me = book.member()[0]
    return {party.fp: f"@{party.name}" for party in book.parties()} | {me.fp: f"@{me.name}"}


def line(entry: dict[str, Any], who: str | None) -> str:
    """For a person. A device that was not told the time says how long it had been up."""
    when = entry["at"] or f"{entry['up_ms'] / 1000:.1f} s after its start"
    outcome = _OUTCOMES.get(entry["code"], f"code {entry['code']}")
    what = entry["service"] or "a session"
    moved = f", {say_size(entry['in'])} in, {say_size(entry['out'])} out, {entry['for_ms'] / 1000:.1f} s" if entry["for_ms"] else ""
    return f"{when}  {who or entry['who']}  {what}  {outcome}{moved}"


def reach_of_a_lost_device(name: str, holders: Sequence[str]) -> Iterator[str]:
    """What whoever holds it now can do with what is on it."""
    yield "What it could reach besides: nothing. It holds its own key, which the relay refuses from now on; the secret it shared with you,"
    yield "which opens no other device; and your public key. No other device knows it, and it knows no other party's keys."
    yield "What is on it is lost: its Wi-Fi passwords, and what its services reached in its network. Change those."
    if holders:
        yield f"Who had grants for it ({', '.join('@' + holder for holder in holders)}) can throw them away: `zts remove @{name}` there."
