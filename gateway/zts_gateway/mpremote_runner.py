"""`zts run` and `zts cp`: the real mpremote, through a door that is there for it alone."""

import asyncio
import sys
from pathlib import Path

from zts import wire
from zts_gateway import connecting, door, enrolling, extras, listener
from zts_gateway.addressbook import Book
from zts_gateway.client import Meeting
from zts_gateway.ui import Exit, Failure, Progress

_GRACE_S = 3.0  # for mpremote to stop what runs on the board, after a Ctrl-C that it heard as we did


async def run(book: Book, device: str, service: str | None, script: Path) -> int:
    """Runs a script of this computer on a board, and gives mpremote's exit code. Raises Failure."""
    if not script.is_file():
        raise Failure(Exit.USAGE, f"{script} is no file; name a Python script of this computer")
    return await _mpremote(book, enrolling.parse_name(device), service, ["run", str(script.resolve())])


async def copy(book: Book, paths: list[str], service: str | None, recursive: bool) -> int:
    """Copies to the last of `paths` those before it; gives mpremote's exit code. Raises Failure."""
    split = [_split(path) for path in paths]
    sources, target = {name for name, _ in split[:-1]}, split[-1][0]
    if len(paths) < 2 or len(sources) != 1 or sources == {target} or None not in (*sources, target):
        raise Failure(Exit.USAGE, "name files of this computer and then @NAME:PATH, or files @NAME:PATH of one board and then a path here")
    name = enrolling.parse_name(target or next(iter(sources)) or "")
    return await _mpremote(book, name, service, ["cp", *["-r"] * recursive, *[path for _, path in split]])


def _split(path: str) -> tuple[str | None, str]:
    """(board or None, the path as mpremote wants it)."""
    name, colon, rest = path.partition(":")
    if path.startswith("@") and colon:
        return name, ":" + rest
    return None, path if path[:1] not in (":", "-") else f"./{path}"


async def _mpremote(book: Book, name: str, service: str | None, arguments: list[str]) -> int:
    extras.need("flash", "mpremote", "serial")
    card = book.device(name)
    sessions = listener.Sessions(book, card.name)
    opened = door.Door(sessions, card.name, rfc2217=True)
    try:
        with Progress() as progress:
            meeting = await sessions.first(progress.step)
        await opened.open(0)
        await opened.serve(_choose(meeting, service))
        command = (sys.executable, "-m", "mpremote", "connect", f"rfc2217://{opened.address}", *arguments)
        code = await _watch(await asyncio.create_subprocess_exec(*command))
        if code and opened.failure:
            raise opened.failure
        return code
    finally:
        await opened.close()
        await sessions.close()


def _choose(meeting: Meeting, service: str | None) -> str:
    """The named service, or the only interpreter there, or the only serial line. Raises Failure."""
    if service is not None:
        connecting.check_is_line(meeting, listener.choose(meeting, service), "--service")
        return service
    for kind in (wire.SERVICE_REPL, wire.SERVICE_SERIAL):
        names = [name for its_kind, name in meeting.services if its_kind == kind]
        if len(names) == 1:
            return names[0]
        if names:
            raise Failure(Exit.USAGE, f"@{meeting.name} has several, so name one with --service: {', '.join(names)}")
    raise Failure(
        Exit.DENIED, f"@{meeting.name} offers you no interpreter and no serial line; turn its repl service on in the board's configuration"
    )


async def _watch(process: asyncio.subprocess.Process) -> int:
    """Its exit code, as a shell gives it."""
    try:
        code = await process.wait()
    except asyncio.CancelledError:
        try:
            async with asyncio.timeout(_GRACE_S):
                await process.wait()
        except TimeoutError:
            process.terminate()
            await process.wait()
        raise
    return code if code >= 0 else 128 - code
