"""What `zts-update` does: takes another agent into the slot that does not run, and has it boot. PROTOCOL.md, "Updates".

Only one piece of a file is ever in memory, and of the manifest, which is written down as it comes, only one line.
"""

import asyncio
import errno
import hashlib
import json
import os
from binascii import hexlify

from zts.errors import FormatError

from . import board

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

FILES_MAX = 96
FILE_MAX = 65536  # bytes; the largest has 12 KB
_LINE_MAX = 192  # bytes of a line of the client's
_PATH_MAX = 64
_PIECE = 512
SILENCE_S = 30  # of a client that has more to say
_WORDS = {errno.ETIMEDOUT: "cut", 28: "space"}  # ENOSPC, which MicroPython's errno lacks
_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789_"
_FOLDER = 0x4000

_running: "list[Any]" = []  # the one update at a time


async def serve(slots: "Any", reader: "Any", writer: "Any", leave: "Callable[[], None]") -> None:
    """Serves one stream. Calls `leave` as soon as the other slot is to boot."""
    update = _Update(slots, reader, writer, leave)
    try:
        if _running:
            raise FormatError("busy")
        _running.append(update)
        try:
            await update.run()
        finally:
            _running.pop()
    except FormatError as error:
        await update.say({"error": str(error)})
    except OSError as error:
        await update.say({"error": _WORDS.get(error.errno or 0, "files")})


class _Update:
    """FormatError means here: refused, its text the reason's word."""

    def __init__(self, slots: "Any", reader: "Any", writer: "Any", leave: "Callable[[], None]") -> None:
        self._slots = slots
        self._reader = reader
        self._writer = writer
        self._leave = leave
        self._new = slots.folder + "/manifest.new"
        self._target = "b" if slots.slot == "a" else "a"
        self._folder = slots.folder + "/" + self._target

    async def say(self, what: "dict[str, Any]") -> None:
        self._writer.write((json.dumps(what) + "\n").encode())
        await self._writer.drain()

    async def run(self) -> None:
        check = await self._take_manifest()
        running = self._slots.folder + "/" + self._slots.slot
        same = False
        try:
            same = _digest(self._new) == _digest(running + "/manifest.json") and not await self._lacking(running)
        except OSError:
            pass  # no manifest
        lacking = [] if same else await self._lacking(self._folder)
        if not check and not same:
            if self._slots.on_trial:
                raise FormatError("trial")
            _remove(self._folder + "/manifest.json")  # from here on the slot is not whole
            self._clear(lacking)
        await self.say({"same": same, "slot": self._target, "lacking": lacking})
        if check or same:
            os.remove(self._new)
            return
        for number, (path, size, digest) in enumerate(self._entries()):
            if number in lacking:
                await self._take_file(path, size, digest)
        os.rename(self._new, self._folder + "/manifest.json")
        self._slots.switch()
        self._leave()
        await self.say({"boots": self._target})

    async def _line(self) -> "Any":
        line = await board.within(SILENCE_S, self._reader.readline())
        if len(line) > _LINE_MAX or not line.endswith(b"\n"):
            raise FormatError("manifest")
        try:
            return json.loads(line)
        except (ValueError, RuntimeError):
            raise FormatError("manifest")

    async def _take_manifest(self) -> bool:
        """Writes it down in its own form, so that an equal one is the same file. Whether the client only wants to know."""
        head = await self._line()
        try:
            version, mpy, files, check = head["version"], head["mpy"], head["files"], head["check"]
            good = 0 < len(version) <= 32 and not version.strip("." + _CHARACTERS) and isinstance(check, bool)
            good = good and isinstance(files, int) and 0 < files <= FILES_MAX
        except (TypeError, KeyError, AttributeError):
            good = False
        if not good:
            raise FormatError("manifest")
        if mpy != board.MPY:
            raise FormatError("mpy")
        last, starts = "", False
        with open(self._new, "w") as file:
            file.write(f'{{"version": "{version}", "mpy": {json.dumps(mpy)}, "files": [')
            for number in range(files):
                entry = await self._line()
                if not _is_entry(entry) or entry[0] <= last:
                    raise FormatError("manifest")
                last = entry[0]
                starts = starts or last == "zts_agent/main.mpy"
                file.write((",\n" if number else "\n") + json.dumps(entry))
            file.write("\n]}\n")
        if not starts:
            raise FormatError("manifest")
        return check  # type: ignore[no-any-return]

    def _entries(self) -> "Iterator[tuple[str, int, str]]":
        """(path, size, SHA-256 as hexadecimal) of each file of the manifest."""
        with open(self._new) as file:
            for line in file:
                if line.startswith("["):
                    yield json.loads(line.rstrip(",\n"))

    async def _lacking(self, folder: str) -> "list[int]":
        """The numbers of the files that are not in `folder` as the manifest wants them."""
        lacking = []
        for number, (path, size, digest) in enumerate(self._entries()):
            try:
                fits = os.stat(folder + "/" + path)[6] == size and _digest(folder + "/" + path) == digest
            except OSError:
                fits = False
            if not fits:
                lacking.append(number)
            await asyncio.sleep(0)
        return lacking

    def _clear(self, lacking: "list[int]") -> None:
        """Removes what does not stay, and sees whether there is room for the rest. Raises FormatError, OSError."""
        board.make_folder(self._folder)
        stay = [path for number, (path, _, _) in enumerate(self._entries()) if number not in lacking]
        _prune(self._folder, "", stay)
        block, free = _room(self._folder)
        if sum([size // block + 1 for number, (_, size, _) in enumerate(self._entries()) if number in lacking]) > free:
            raise FormatError("space")

    async def _take_file(self, path: str, size: int, digest: str) -> None:
        at = path.find("/")
        while at > 0:
            board.make_folder(self._folder + "/" + path[:at])
            at = path.find("/", at + 1)
        path = self._folder + "/" + path
        seen = hashlib.sha256()
        with open(path, "wb") as file:
            while size:
                data = await board.within(SILENCE_S, self._reader.read(min(size, _PIECE)))
                if not data:
                    raise FormatError("cut")
                file.write(data)
                seen.update(data)
                size -= len(data)
        if hexlify(seen.digest()).decode() != digest:
            os.remove(path)
            raise FormatError("hash")


def _is_entry(entry: "Any") -> bool:
    """[path, size, SHA-256 as hexadecimal], of a file that has its place in a slot."""
    try:
        path, size, digest = entry
        parts = path.split("/")
        good = 2 <= len(parts) <= 3 and len(path) <= _PATH_MAX and parts[0] in ("zts", "zts_agent") and path.endswith(".mpy")
        parts[-1] = parts[-1][:-4]
        good = good and all(part and not part.strip(_CHARACTERS) for part in parts)
        return good and isinstance(size, int) and 0 < size <= FILE_MAX and len(digest) == 64 and not digest.strip("0123456789abcdef")
    except (TypeError, ValueError, AttributeError):
        return False


def _digest(path: str) -> str:
    """Of a file's bytes, as hexadecimal. Raises OSError."""
    seen, piece = hashlib.sha256(), bytearray(_PIECE)
    with open(path, "rb") as file:
        while True:
            size = file.readinto(piece)
            if not size:
                return hexlify(seen.digest()).decode()
            seen.update(memoryview(piece)[:size])


def _room(folder: str) -> "tuple[int, int]":
    """(bytes of a block, free blocks) of the file system."""
    about = os.statvfs(folder)
    return about[1], about[4]


def _remove(path: str) -> None:
    try:
        os.remove(path)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def _prune(folder: str, prefix: str, stay: "list[str]") -> None:
    """Removes all files below `folder` whose paths are not in `stay`, and folders without a file."""
    for name in os.listdir(folder):
        path = folder + "/" + name
        if os.stat(path)[0] & _FOLDER:
            _prune(path, prefix + name + "/", stay)
            if not os.listdir(path):
                os.rmdir(path)
        elif prefix + name not in stay:
            os.remove(path)
