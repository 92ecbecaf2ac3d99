"""`zts connect`: the ways in which a program or a person here meets a service of a device."""

import argparse
import asyncio
import os
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from zts import wire
from zts_gateway import console, door, enrolling, listener, pty_door, stdio
from zts_gateway.addressbook import Book
from zts_gateway.client import Meeting
from zts_gateway.ui import Exit, Failure, Progress, say

HELP = """\
Without a service: the only one there. Without an option: at a terminal, a console on a serial line or an interpreter; -L for all else.

Who may use it: with --stdio and at a console, whoever started zts. With --unix and --pty, programs that run as you (and root). With -L
and --rfc2217, programs that run as you, but no pages in your browser: a service of kind "http" gets only requests whose Host is
127.0.0.1:PORT or localhost:PORT and that come from no other site, any other service nothing that begins as HTTP does.

Settings and lines of a serial port travel with --rfc2217, its speed and stop bits with --pty. All else carries its bytes."""


class Way(NamedTuple):
    """How to connect, and to what. At most one of the last five."""

    name: str
    service: str | None
    stdio: bool
    port: int | None
    unix: Path | None
    rfc2217: int | None  # the port
    pty: Path | None


def add_arguments(connect: argparse.ArgumentParser) -> None:
    connect.add_argument("target", metavar="@NAME[:SERVICE]")
    how = connect.add_mutually_exclusive_group()
    how.add_argument("--stdio", action="store_true", help="on stdin and stdout, as ssh -o ProxyCommand wants it")
    how.add_argument("-L", dest="port", nargs="?", type=_port, const=0, metavar="PORT", help="listen on 127.0.0.1 (default: a free port)")
    how.add_argument("--unix", type=Path, metavar="PATH", help="listen on a socket in the file system that only you may use")
    how.add_argument(
        "--rfc2217", nargs="?", type=_port, const=0, metavar="PORT", help="listen as -L does, for mpremote, esptool and pyserial"
    )
    how.add_argument("--pty", type=Path, metavar="PATH", help="make a device file, for minicom and other programs for serial ports")


def parse_way(arguments: argparse.Namespace) -> Way:
    """Raises Failure."""
    name, colon, service = arguments.target.partition(":")
    wanted = enrolling.parse_name(service) if colon else None
    how = (arguments.stdio, arguments.port, arguments.unix, arguments.rfc2217, arguments.pty)
    return Way(enrolling.parse_name(name), wanted, *how)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is no port between 0 and 65535")
    return int(text)


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
