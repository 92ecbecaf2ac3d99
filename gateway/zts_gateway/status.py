"""`zts status`: what a device's agent says of itself through its service `zts-status`, and how long a round trip takes."""

import statistics
import time
from typing import Any, Final

from zts import wire
from zts.errors import StreamReset
from zts_gateway import listener, own_service
from zts_gateway.addressbook import Book, Card
from zts_gateway.client import Meeting, open_stream
from zts_gateway.ui import failure_of

SERVICE: Final = "zts-status"
TRIES: Final = 5
_DENIED: Final = "tells you no status: you do not own it, or its agent is older than this; update it"
_NUMBER: Final = (int, float)
_FIELDS: Final[dict[str, Any]] = {
    "version": str,
    "runtime": str,
    "mpy": (int, type(None)),
    "uptime_ms": int,
    "heap_free": (int, type(None)),
    "heap_used": int,
    "boots": int,
    "sessions": int,
    "aes": str,
    "ghash": str,
    "x25519": str,
    "aead_kbps": _NUMBER,
    "x25519_ms": _NUMBER,
    "refused": dict,
    "slot": (dict, type(None)),
}
_SLOT: Final[dict[str, Any]] = {"boots": str, "trial": bool, "why": int}
# `why` of a slot that boots because another one was given up.
TAKEN_BACK: Final = {
    1: "it raised an exception",
    2: "it hung, or lost its power three times before it was online",
    3: "it had a network for 60 s and did not come to its broker",
    4: "its files were not whole",
}


async def meet_and_ask(book: Book, card: Card) -> dict[str, Any]:
    """As `ask`, in a session of its own. Raises Failure."""
    me, account = book.member()
    meeting = await listener.meet_and_note(book, me, account, card, 0, lambda _: None)
    try:
        return await ask(meeting)
    finally:
        await meeting.close()


async def ask(meeting: Meeting) -> dict[str, Any]:
    """Its answer's fields, and `round_trip_ms`: from OPEN to its ACK, of TRIES streams. Raises Failure."""
    try:
        trips = []
        for _ in range(TRIES):
            before = time.perf_counter_ns()
            stream = await open_stream(meeting, SERVICE)
            trips.append((time.perf_counter_ns() - before) / 1e6)
            # The agent measures nothing before the end of our side, so it is free for the next one.
            stream.reset(wire.TARGET_RESET)
    except StreamReset as reset:
        raise own_service.reset_failure(reset, meeting, _DENIED) from None
    trip = {"median": statistics.median(trips), "min": min(trips), "max": max(trips)}
    return {"round_trip_ms": {kind: round(ms, 2) for kind, ms in trip.items()}, **await tell(meeting)}


async def tell(meeting: Meeting) -> dict[str, Any]:
    """Its answer's fields. Raises Failure."""
    return _read(await own_service.ask(meeting, SERVICE, b"", _DENIED), meeting.name)


def _read(told: dict[str, Any], name: str) -> dict[str, Any]:
    """The known fields. What a device says goes to a terminal, so texts are printable, whoever holds the device now."""
    try:
        fields = {field: told[field] for field in _FIELDS}
        texts = [value for value in fields.values() if isinstance(value, str)] + list(fields["refused"])
        good = all(isinstance(fields[field], kind) for field, kind in _FIELDS.items())
        if not good or not all(text.isascii() and text.isprintable() for text in texts):
            raise ValueError("fields")
        slot = fields["slot"]
        if slot is not None:
            slot = fields["slot"] = {field: slot[field] for field in _SLOT}
            if not all(isinstance(slot[field], kind) for field, kind in _SLOT.items()) or slot["boots"] not in ("a", "b"):
                raise ValueError("slot")
        fields["refused"] = {reason: int(count) for reason, count in fields["refused"].items()}
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError):
        raise failure_of(wire.PROTO, f"@{name}") from None
    return fields


def lines(name: str, said: dict[str, Any]) -> list[str]:
    """For a person."""
    trip = said["round_trip_ms"]
    memory = f"{said['heap_used'] // 1024} KiB used"
    if said["heap_free"] is not None:
        memory += f", {said['heap_free'] // 1024} KiB free"
    refused = ", ".join(f"{reason} {count}" for reason, count in sorted(said["refused"].items()))
    rows = {
        "device": f"@{name}, {said['runtime']}, agent {said['version']}",
        "slot": _slot(said["slot"]),
        "round trip": f"{trip['median']} ms ({trip['min']} to {trip['max']}), from OPEN to its ACK, {TRIES} times",
        "up": f"{_duration(said['uptime_ms'] // 1000)}, started {said['boots']} times, sessions now: {said['sessions']}",
        "memory": memory,
        "crypto": f"AES {said['aes']}, GHASH {said['ghash']}, X25519 {said['x25519']}",
        "speed": f"AES-GCM {said['aead_kbps']} KB/s at 1 KiB, X25519 {said['x25519_ms']} ms",
        "refused": refused or "nothing",
    }
    return [f"{row:<11} {text}" for row, text in rows.items() if text]


def _slot(said: dict[str, Any] | None) -> str:
    if said is None:
        return ""
    text = f"{said['boots']}, on trial" if said["trial"] else said["boots"]
    return f"{text}; an update was taken back: {TAKEN_BACK.get(said['why'], 'for a reason unknown here')}" if said["why"] else str(text)


def _duration(seconds: int) -> str:
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds % 60} s"
