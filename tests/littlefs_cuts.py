"""On littlefs, the file system of boards: power that fails at every byte that the flash takes. Run under MicroPython by a host test.

The flash is memory: blocks are erased to 0xff, and what is programmed stands there byte by byte until the power fails.
"""

import asyncio
import errno
import gc
import hashlib
import json
import os
from binascii import hexlify
from pipes import Pipe, run

from zts_agent import board, update
from zts_firmware import slots

BLOCK = 512
BLOCKS = 40
STRIDE = 13  # bytes from one cut of an update to the next; a prime, so that all places within a page have their turn
FOLDER = "/flash/agent"
NEW = {"zts/wire.mpy": b"new" * 250, "zts_agent/main.mpy": b"two" * 30, "zts_agent/mqtt.mpy": b"three"}
OLD = {"zts/wire.mpy": b"old" * 250, "zts_agent/main.mpy": b"two" * 30, "zts_agent/gone.mpy": b"gone"}


class Flash:
    """`left`: bytes until the power fails, of which the erasing of a block takes one; negative: it does not fail."""

    def __init__(self, data, left=-1):
        self.data = bytearray(data)
        self.left = left
        self.used = 0
        self.is_there = True  # a file that the power cut left open is closed when it is collected, and must change nothing then

    def readblocks(self, block, buffer, offset=0):
        if self.is_there:
            at = block * BLOCK + offset
            buffer[:] = memoryview(self.data)[at : at + len(buffer)]

    def writeblocks(self, block, buffer, offset=0):
        if self.is_there:
            size = self._take(len(buffer))
            at = block * BLOCK + offset
            self.data[at : at + size] = memoryview(buffer)[:size]
            if size < len(buffer):
                raise OSError(errno.EIO)

    def _take(self, size):
        """How many bytes there is power for."""
        if self.left >= 0:
            size = min(size, self.left)
            self.left -= size
        self.used += size
        return size

    def ioctl(self, request, argument):
        if request == 4:
            return BLOCKS
        if request == 5:
            return BLOCK
        if request == 6 and self.is_there:
            if not self._take(1):
                raise OSError(errno.EIO)
            at = argument * BLOCK
            self.data[at : at + BLOCK] = _ERASED
        return 0


_ERASED = b"\xff" * BLOCK
_SIZES = {"readsize": 32, "progsize": 32, "lookahead": 32}


def _on(data, step, left=-1):
    """Runs `step` on a flash that holds `data`, with power for `left` bytes. What it then holds, and how many bytes it took."""
    flash = Flash(data, left)
    os.mount(os.VfsLfs2(flash, **_SIZES), "/flash")
    try:
        step()
    except OSError:
        if flash.left:
            raise
    finally:
        os.umount("/flash")
        flash.is_there = False
        gc.collect()
    return flash.data, flash.used


def _fill(slot, files):
    for path in files:
        parts = (slot + "/" + path).split("/")
        for depth in range(1, len(parts)):
            board.make_folder(FOLDER + "/" + "/".join(parts[:depth]))
        with open(FOLDER + "/" + slot + "/" + path, "wb") as file:
            file.write(files[path])
    with open(FOLDER + "/" + slot + "/manifest.json", "w") as file:
        file.write(json.dumps({"files": [_entry(path, files[path]) for path in sorted(files)]}))


def _entry(path, data):
    return [path, len(data), hexlify(hashlib.sha256(data).digest()).decode()]


def _start():
    found = slots.Slots(FOLDER, lambda: None, lambda: None)
    found.boot()
    return found


def _holds(slot, files):
    """Whether what the slot has is what its manifest says, and is one of the two agents."""
    for path in files:
        with open(FOLDER + "/" + slot + "/" + path, "rb") as file:
            if file.read() != files[path]:
                return False
    return True


def _board(other):
    """What a flash holds that has an old agent in slot a, which runs, and `other` in b."""

    def make():
        board.make_folder(FOLDER)
        _fill("a", OLD)
        if other:
            _fill("b", other)
        _start()

    flash = Flash(_ERASED * BLOCKS)
    os.VfsLfs2.mkfs(flash, **_SIZES)
    return _on(flash.data, make)[0]


def _cut_everywhere(data, step, after, stride=1):
    """Runs `step` with power for 0, `stride`, 2 * `stride` ... bytes, and each time `after`. How often that was."""
    total = _on(data, step)[1]
    cuts = range(0, total, stride)
    for left in cuts:
        _on(_on(data, step, left)[0], after)
    return len(cuts)


def _boots_until_good():
    for _ in range(slots.TRIES + 2):
        found = _start()
        assert found.slot in ("a", "b") and _holds(found.slot, OLD if found.slot == "a" else NEW)
    assert not found.on_trial


def _as_booted():
    """As the slots are in the agent that runs, without another boot."""
    found = slots.Slots(FOLDER, lambda: None, lambda: None)
    record, found._next = slots.in_force(found._read(0), found._read(1))
    found.slot, found.on_trial, found._seq = record.slot, record.trial, record.seq
    return found


def test_every_byte_of_every_record():
    data = _board(NEW)
    cuts = _cut_everywhere(data, lambda: _as_booted().switch(), _boots_until_good)
    data, _ = _on(data, lambda: _as_booted().switch())
    for _ in range(slots.TRIES):
        cuts += _cut_everywhere(data, _start, _boots_until_good)
        data, _ = _on(data, _start)
        cuts += _cut_everywhere(data, lambda: _as_booted().confirm(), _boots_until_good)
        cuts += _cut_everywhere(data, lambda: _as_booted().take_back(slots.CRASHED), _boots_until_good)
    cuts += _cut_everywhere(data, _start, _boots_until_good)  # the last try is over
    print("records on littlefs: power cut at", cuts, "bytes")
    assert cuts > 500


def _update():
    """A whole update to NEW, from the client's first byte, unless it runs already. Whether the board now boots it."""
    running = _start()
    left = []

    async def talk():
        up, down = Pipe(), Pipe()
        paths = sorted(NEW)
        up.write(json.dumps({"version": "2", "mpy": board.MPY, "files": len(paths), "check": False}).encode() + b"\n")
        for path in paths:
            up.write(json.dumps(_entry(path, NEW[path])).encode() + b"\n")
        task = asyncio.create_task(update.serve(running, up, down, lambda: left.append(1)))
        said = json.loads(await down.readline())
        for number in said.get("lacking", ()):
            up.write(NEW[paths[number]])
        up.close()
        await task

    if running.slot == "a":
        run(talk())
    return bool(left) or running.slot == "b"


def _recovers(outcomes):
    found = _start()
    outcomes[found.slot] = outcomes.get(found.slot, 0) + 1
    assert _holds(found.slot, OLD if found.slot == "a" else NEW)
    assert _update()
    running = _start()
    assert running.slot == "b" and _holds("b", NEW)
    running.confirm()
    assert _start().slot == "b"


def test_a_whole_update():
    """Cut anywhere, the board boots a whole agent, and the same update then brings it to the new one."""
    for other in (None, OLD):
        outcomes = {}
        cuts = _cut_everywhere(_board(other), _update, lambda outcomes=outcomes: _recovers(outcomes), STRIDE)
        print("an update on littlefs: power cut at", cuts, "bytes; then the slots boot", outcomes)
        assert outcomes.get("a", 0) > 10
