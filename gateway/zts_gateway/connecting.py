"""`zts connect`: the ways in which a program or a person here meets a service of a device."""

import asyncio
import os
from importlib import resources
from pathlib import Path

from zts import wire
from zts_gateway import console, door, listener, pty_door, stdio
from zts_gateway.addressbook import Book
from zts_gateway.cli_connect import Way
from zts_gateway.client import Meeting
from zts_gateway.ui import Exit, Failure, Progress, say


async def connect(book: Book, way: Way) -> None:
    """Until it ends; doors are for ever. Raises Failure."""
    card = book.device(way.name)
    sessions = listener.Sessions(book, card.name)
    try:
        if way.stdio:
            meeting = await sessions.first(_quiet)
            await stdio.run(meeting, listener.choose(meeting, way.service))
        elif way.pty:
            await _serve_pty(sessions, way, way.pty)
        elif way.port is None and way.unix is None and way.rfc2217 is None:
            await _connect_plainly(sessions, way)
        else:
            await _serve_door(sessions, way)
    finally:
        await sessions.close()


async def _connect_plainly(sessions: listener.Sessions, way: Way) -> None:
    """What is meant by no option depends on the service."""
    with Progress() as progress:
        meeting = await sessions.first(progress.step)
    service = listener.choose(meeting, way.service)
    if listener.kind_of(meeting, service) not in listener.LINES:
        await _serve_door(sessions, way, meeting)
    elif os.isatty(0):
        await console.run(meeting, service)
    else:
        await stdio.run(meeting, service)


async def _serve_door(sessions: listener.Sessions, way: Way, meeting: Meeting | None = None) -> None:
    opened = door.Door(sessions, way.name, rfc2217=way.rfc2217 is not None)
    try:
        await (opened.open_unix(way.unix) if way.unix else opened.open(way.port or way.rfc2217 or 0))
        if meeting is None:
            with Progress() as progress:
                meeting = await sessions.first(progress.step)
        service = listener.choose(meeting, way.service)
        if way.rfc2217 is not None:
            check_is_line(meeting, service, "--rfc2217")
        await opened.serve(service)
        print(opened.address, flush=True)
        say(f"connections to {opened.address} reach @{way.name}:{service}; Ctrl-C ends it")
        if way.rfc2217 is not None:
            say_commands(opened.address, listener.kind_of(meeting, service))
        await asyncio.Event().wait()
    finally:
        await opened.close()


async def _serve_pty(sessions: listener.Sessions, way: Way, path: Path) -> None:
    opened = pty_door.PtyDoor(sessions, way.name, path)
    try:
        opened.open()
        with Progress() as progress:
            meeting = await sessions.first(progress.step)
        service = listener.choose(meeting, way.service)
        check_is_line(meeting, service, "--pty")
        print(opened.address, flush=True)
        say(f"whoever opens {opened.address} reaches @{way.name}:{service}; Ctrl-C ends it")
        await opened.serve(service)
    finally:
        opened.close()


def check_is_line(meeting: Meeting, service: str, option: str) -> None:
    """Raises Failure."""
    if listener.kind_of(meeting, service) not in listener.LINES:
        raise Failure(
            Exit.USAGE, f"@{meeting.name}:{service} is no serial line, which {option} is for; leave it out, or choose another service"
        )


def say_commands(address: str, kind: int) -> None:
    """What to type to use a door of RFC 2217."""
    say(f"  mpremote connect rfc2217://{address}")
    if kind == wire.SERVICE_SERIAL:
        settings = resources.files("zts_gateway") / "esptool.cfg"
        say(f"  ESPTOOL_CFGFILE={settings} esptool --port rfc2217://{address} flash-id")


def _quiet(_: str) -> None:
    pass
