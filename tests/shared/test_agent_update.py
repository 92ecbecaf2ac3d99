"""zts-update against clients that lie, vanish, send too much and too little, and one that does as it should."""

import asyncio
import hashlib
import json
import os
from binascii import hexlify
from pipes import Pipe, run

from check import raises
from zts_agent import board, update
from zts_firmware import slots

FILES = {
    "zts/crypto/_gcm.mpy": b"three" * 300,
    "zts/wire.mpy": b"one" * 1000,
    "zts_agent/main.mpy": b"two",
}
board.tidy_memory()  # as the agent does it once all is loaded
OLD = {"zts_agent/main.mpy": b"old", "zts/gone.mpy": b"gone"}


def _sha(data):
    return hexlify(hashlib.sha256(data).digest()).decode()


def _entries(files):
    return [[path, len(files[path]), _sha(files[path])] for path in sorted(files)]


def _head(what, **changes):
    head = {"version": "9.9.9", "mpy": board.MPY, "files": len(what), "check": False}
    head.update(changes)
    return head


def _text(head, entries):
    return b"".join([json.dumps(line).encode() + b"\n" for line in [head] + entries])


class Device:
    """A board's folder that runs slot a, whole, with slot b as `other` says (None: never used); and its service."""

    def __init__(self, other=None):
        self.folder = "/tmp/zts-update-" + hexlify(os.urandom(6)).decode()
        os.mkdir(self.folder)
        self.left = 0
        self._fill("a", OLD)
        if other is not None:
            self._fill("b", other)
        self.slots = slots.Slots(self.folder, lambda: None, lambda: None)
        assert self.slots.boot() == "a"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        update._prune(self.folder, "", [])
        os.rmdir(self.folder)

    def _fill(self, slot, files):
        board.make_folder(self.folder + "/" + slot)
        for path in files:
            parts = (slot + "/" + path).split("/")
            for depth in range(1, len(parts)):
                board.make_folder(self.folder + "/" + "/".join(parts[:depth]))
            with open(self.folder + "/" + slot + "/" + path, "wb") as file:
                file.write(files[path])
        with open(self.folder + "/" + slot + "/manifest.json", "w") as file:
            file.write('{"version": "1.0", "mpy": 0, "files": [\n' + ",\n".join([json.dumps(e) for e in _entries(files)]) + "\n]}\n")

    def tree(self, slot):
        """{path: bytes} of all files of a slot."""
        found = {}
        _walk(self.folder + "/" + slot, "", found)
        return found

    def boots(self):
        """What would boot now."""
        return slots.Slots(self.folder, lambda: None, lambda: None).boot()

    def leave(self):
        self.left += 1

    async def talk(self, script):
        """Runs the service against `script(to device, from device)`; gives what it says at last."""
        up, down = Pipe(), Pipe()
        task = asyncio.create_task(update.serve(self.slots, up, down, self.leave))
        try:
            last = await script(up, down)
            await task
        finally:
            task.cancel()
        down.close()
        while True:
            line = await down.readline()
            if not line:
                return last
            last = json.loads(line)

    def say(self, text):
        """Sends `text` and the end."""

        async def script(up, down):
            for at in range(0, len(text), 500):
                up.write(text[at : at + 500])
            up.close()

        return run(self.talk(script))


def _walk(folder, prefix, found):
    for name in os.listdir(folder):
        path = folder + "/" + name
        if os.stat(path)[0] & 0x4000:
            _walk(path, prefix + name + "/", found)
        else:
            with open(path, "rb") as file:
                found[prefix + name] = file.read()


def _upload(device, files, stop=None, check=False):
    """A whole update; `stop`: the client goes away after so many bytes of files. What the device said at last."""

    async def script(up, down):
        up.write(_text(_head(files, check=check), _entries(files)))
        said = json.loads(await down.readline())
        if not said.get("lacking"):
            return said
        paths = sorted(files)
        data = b"".join([files[paths[number]] for number in said["lacking"]])
        data = data if stop is None else data[:stop]
        for at in range(0, len(data), 700):
            up.write(data[at : at + 700])
            await asyncio.sleep(0)
        up.close()
        return said

    return run(device.talk(script))


def _hostile():
    """What a client might send in a manifest's place. One at a time: a heap does not hold them all."""
    entries = _entries(FILES)
    good = entries[0]
    heads = [
        None,
        1,
        "x",
        [],
        {},
        {"files": 1},
        _head(FILES, version=""),
        _head(FILES, version="9" * 33),
        _head(FILES, version='1", "x": "'),
        _head(FILES, version="1\n"),
        _head(FILES, version=1),
        _head(FILES, version=["1"]),
        _head(FILES, version=None),
        _head(FILES, files=0),
        _head(FILES, files=-1),
        _head(FILES, files=update.FILES_MAX + 1),
        _head(FILES, files=1.5),
        _head(FILES, files="3"),
        _head(FILES, files=None),
        _head(FILES, files=len(FILES) + 1),
        _head(FILES, check=0),
        _head(FILES, check=None),
    ]
    for head in heads:
        yield _text(head, entries)
    for path in (
        "",
        "/",
        "main.py",
        "zts",
        "zts/",
        "zts/.mpy",
        "zts/wire.py",
        "zts/../wire.mpy",
        "zts/..mpy",
        "../zts/wire.mpy",
        "zts/..",
        "/zts/wire.mpy",
        "zts//wire.mpy",
        "zts/wire.mpy/",
        "zts/./wire.mpy",
        "zts/a/b/wire.mpy",
        "ztsx/wire.mpy",
        "lib/wire.mpy",
        "zts\\wire.mpy",
        "zts/wi re.mpy",
        "zts/wire\0.mpy",
        "zts/wire\n.mpy",
        "zts/Wire.mpy",
        "zts/wir\u00e9.mpy",
        "zts/" + "w" * 64 + ".mpy",
        None,
        5,
        ["zts", "wire.mpy"],
    ):
        yield _text(_head(entries), [[path, good[1], good[2]]] + entries[1:])
    for size in (0, -1, update.FILE_MAX + 1, 10**30, 1.5, "1", None, [1]):
        yield _text(_head(entries), [[good[0], size, good[2]]] + entries[1:])
    for digest in ("", good[2][:-1], good[2] + "0", "g" * 64, good[2].upper(), "\u0660" * 64, None, 5, [good[2]], ["0"] * 64):
        yield _text(_head(entries), [[good[0], good[1], digest]] + entries[1:])
    for entry in (None, 5, "abc", [], [good], good + [1], {"a": 1, "b": 2, "c": 3}, {good[0]: 1, "b": 2, good[2]: 3}):
        yield _text(_head(entries), [entry] + entries[1:])
    yield from (
        _text(_head(entries), [good] + entries),  # twice
        _text(_head(entries), [entries[1], entries[0], entries[2]]),  # out of order
        _text(_head(entries[:2]), entries[:2]),  # nothing that could start
        b"",
        b"\n",
        b"{",
        b"[" * 150 + b"\n",
        b"x" * 5000 + b"\n",
        b"{" + b" " * 6000,
        b"\xff\xfe\n",
        _text(_head(entries), [])[:-1],
    )


def test_hostile_manifests_change_nothing():
    with Device(OLD) as device:
        before = device.tree("a"), device.tree("b")
        for text in _hostile():
            assert device.say(text) == {"error": "manifest"}, text
            assert (device.tree("a"), device.tree("b")) == before
            assert device.left == 0
        assert device.boots() == "a"


def test_files_for_another_interpreter_are_refused():
    with Device(OLD) as device:
        before = device.tree("b")
        for mpy in (1, 2823, 6, 65536 + 2822, "2822", [2822], True):
            assert device.say(_text(_head(FILES, mpy=mpy), _entries(FILES))) == {"error": "mpy"}
        assert device.tree("b") == before


def test_an_update_goes_into_the_other_slot_and_switches():
    for other in (None, {}, OLD, FILES):
        with Device(other) as device:
            assert _upload(device, FILES) == {"boots": "b"}
            assert device.left == 1
            found = device.tree("b")
            manifest = json.loads(found.pop("manifest.json"))
            assert found == FILES  # and nothing that was there before
            assert manifest == {"version": "9.9.9", "mpy": board.MPY, "files": _entries(FILES)}
            assert device.tree("a")["zts_agent/main.mpy"] == b"old"
            assert "manifest.new" not in os.listdir(device.folder)
            assert device.boots() == "b"


def test_only_what_is_lacking_is_sent():
    said = []
    with Device({"zts/wire.mpy": FILES["zts/wire.mpy"], "zts_agent/main.mpy": b"twO"}) as device:

        async def script(up, down):
            up.write(_text(_head(FILES, check=True), _entries(FILES)))
            said.append(json.loads(await down.readline()))

        run(device.talk(script))
        assert said == [{"same": False, "slot": "b", "lacking": [0, 2]}]
        assert "manifest.json" in device.tree("b")  # it only asked
        assert "manifest.new" not in os.listdir(device.folder)


def test_the_same_agent_is_not_sent_again():
    with Device() as device:
        _upload(device, FILES)
        device.slots.boot()
        assert device.slots.slot == "b"
        device.slots.confirm()
        assert _upload(device, FILES) == {"same": True, "slot": "a", "lacking": []}
        assert _upload(device, FILES, check=True) == {"same": True, "slot": "a", "lacking": []}
        with open(device.folder + "/b/zts/wire.mpy", "wb") as file:
            file.write(b"damaged")
        assert _upload(device, FILES, check=True) == {"same": False, "slot": "a", "lacking": [0, 1, 2]}


def test_a_client_may_vanish_at_any_byte():
    size = sum([len(data) for data in FILES.values()])
    for stop in list(range(0, size, 97)) + [size - 1]:
        with Device(OLD) as device:
            assert _upload(device, FILES, stop) == {"error": "cut"}
            assert device.boots() == "a" and device.left == 0
            assert "manifest.json" not in device.tree("b")  # half a slot is not whole
            assert _upload(device, FILES) == {"boots": "b"}
            assert device.boots() == "b"


def test_a_file_with_another_hash_is_refused():
    with Device(OLD) as device:

        async def script(up, down):
            up.write(_text(_head(FILES), _entries(FILES)))
            await down.readline()
            up.write(b"threE" * 300)

        assert run(device.talk(script)) == {"error": "hash"}
        found = device.tree("b")
        assert "manifest.json" not in found and "zts/crypto/_gcm.mpy" not in found
        assert device.boots() == "a" and device.left == 0


def test_too_little_room_is_noticed_before_files_come():
    real = update._room
    with Device(OLD) as device:
        try:
            update._room = lambda folder: (4096, 2)
            assert _upload(device, FILES) == {"error": "space"}
            update._room = lambda folder: (4096, 3)
            assert _upload(device, FILES) == {"boots": "b"}
        finally:
            update._room = real


def test_a_slot_on_trial_is_not_built_on():
    """The other one is its way back."""
    with Device() as device:
        _upload(device, FILES)
        device.slots.boot()
        assert device.slots.on_trial
        before = device.tree("a")
        assert _upload(device, OLD) == {"error": "trial"}
        assert device.tree("a") == before


def test_one_at_a_time():
    with Device(OLD) as device:

        async def first(up, down):
            up.write(_text(_head(FILES), _entries(FILES)))
            await down.readline()

            async def second(up, down):
                assert json.loads(await down.readline()) == {"error": "busy"}

            await device.talk(second)
            up.close()

        assert run(device.talk(first)) == {"error": "cut"}
        assert _upload(device, FILES) == {"boots": "b"}


def test_a_silent_client_is_not_waited_for():
    patience, update.SILENCE_S = update.SILENCE_S, 0.05
    try:
        with Device(OLD) as device:

            async def silent(up, down):
                pass

            async def silent_later(up, down):
                up.write(_text(_head(FILES), _entries(FILES)))
                await down.readline()
                up.write(b"thr")

            assert run(device.talk(silent)) == {"error": "cut"}
            assert run(device.talk(silent_later)) == {"error": "cut"}
            assert _upload(device, FILES) == {"boots": "b"}
    finally:
        update.SILENCE_S = patience


def test_a_client_that_goes_away_ends_nothing_else():
    """Its stream is reset: the task is cancelled, wherever it waits."""
    with Device(OLD) as device:

        async def script(up, down):
            up.write(_text(_head(FILES), _entries(FILES)))
            await down.readline()
            up.write(b"thr")
            await asyncio.sleep(0.01)
            raise OSError

        raises(OSError, run, device.talk(script))
        assert _upload(device, FILES) == {"boots": "b"}


def test_memory_is_the_same_for_a_large_update():
    """Only where memory is a heap that can be asked."""
    used = []
    real = update._room

    def watched(folder):
        used[-1] = max(used[-1], board.memory()[1])
        return real(folder)

    async def talk(up, names):
        up.write(_text(_head(names), []))
        for name in names:
            while up._chunks:
                await asyncio.sleep(0)
            up.write(json.dumps([name, 9000, "0" * 64]).encode() + b"\n")
        up.close()

    names = [f"zts/crypto/file{number:02}.mpy" for number in range(update.FILES_MAX - 1)] + ["zts_agent/main.mpy"]
    update._room = watched
    try:
        for count in (1, 1, update.FILES_MAX):
            with Device(OLD) as device:
                used.append(0)
                assert run(device.talk(lambda up, down, count=count: talk(up, names[-count:]))) == {"error": "cut"}
    finally:
        update._room = real
    if board.BOARD:
        more = used[-1] - used[-2]
        print(f"an update of {len(names)} files takes {more} bytes of heap more than one of 1")
        assert more < 8000  # numbers, and the paths of what stays
