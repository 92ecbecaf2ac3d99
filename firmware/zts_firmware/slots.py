"""Which of a board's two slots boots, and how an update that does not work is taken back.

The agent lies twice in the folder: in the slots `a` and `b`. This file lies beside them and imports nothing of zts, since it must
work whatever the slots hold. A slot is whole while its manifest.json is: an update removes that first and writes it last.

What boots stands in a record of 16 bytes: seq4 slot1 state1 tries1 why1 | the first 8 bytes of their SHA-256. There are two files
for it, `switch.0` and `switch.1`. The record with the higher seq is in force and the other file is written next, so that a write
that is cut leaves the one in force as it is: nothing is asked of the file system but to leave other files alone.
"""

import hashlib
import json
import struct
from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

RECORD_BYTES = 16
TRIES = 3  # boots of a slot on trial. A crash takes it back at once, so these are for hangs, and for a mains that fails meanwhile
LOGIN_S = 60  # with a network, until a slot on trial must have been logged in at the broker

# Why the slot that boots is not the one that was to.
NONE = 0
CRASHED = 1
HUNG = 2
NO_LOGIN = 3
DAMAGED = 4  # it was not whole

_FORMAT = ">I1s1sBB"
_CHECK_BYTES = 8
_GOOD = b"g"
_TRIAL = b"t"
_SLOTS = "ab"

# slot: "a" or "b"; tries: how many more boots it has, of no meaning unless trial.
Record = namedtuple("Record", ("seq", "slot", "trial", "tries", "why"))


def other(slot: str) -> str:
    return "b" if slot == "a" else "a"


def encode(record: Record) -> bytes:
    state = _TRIAL if record.trial else _GOOD
    body = struct.pack(_FORMAT, record.seq, record.slot.encode(), state, record.tries, record.why)
    return body + hashlib.sha256(body).digest()[:_CHECK_BYTES]


def decode(data: bytes) -> "Record | None":
    """None for what is no whole record."""
    body = data[:-_CHECK_BYTES]
    if len(data) != RECORD_BYTES or hashlib.sha256(body).digest()[:_CHECK_BYTES] != data[-_CHECK_BYTES:]:
        return None
    seq, slot, state, tries, why = struct.unpack(_FORMAT, body)
    return Record(seq, slot.decode(), state == _TRIAL, tries, why)


def in_force(first: bytes, second: bytes) -> "tuple[Record | None, int]":
    """(the record in force, which of the two files is written next), from what the files hold."""
    one, two = decode(first), decode(second)
    if one is None or (two is not None and two.seq > one.seq):
        return two, 0
    return one, 1


def choose(record: "Record | None", whole: str) -> "Record | None":
    """With which record to boot: `record` itself, or one that must be written before, with the same seq. `whole` names the whole
    slots: "", "a", "b" or "ab". None: there is nothing to boot.
    """
    if not whole:
        return None
    if record is None:
        return Record(0, whole[0], False, 0, NONE)
    way_back = other(record.slot)
    if record.slot not in whole:
        return Record(record.seq, way_back, False, 0, DAMAGED)
    if not record.trial:
        return record
    if way_back not in whole:
        return Record(record.seq, record.slot, False, 0, record.why)
    if record.tries > 0:
        return Record(record.seq, record.slot, True, record.tries - 1, record.why)
    return Record(record.seq, way_back, False, 0, HUNG)


class Slots:
    """The slots in `folder`, as `boot` found them: `slot` runs, and `on_trial` says whether it still has to prove itself.

    `feed` of the watchdog is to be called every few seconds, `restart` starts the machine anew.
    """

    def __init__(self, folder: str, feed: "Callable[[], None]", restart: "Callable[[], None]") -> None:
        self.feed = feed
        self.restart = restart
        self.folder = folder
        self.slot = ""
        self.on_trial = False
        self.why = NONE
        self._seq = 0
        self._next = 0  # the file to write
        self._waited = 0

    def boot(self) -> str:
        """The slot to boot, "" for none. A slot on trial then has one try less."""
        record, self._next = in_force(self._read(0), self._read(1))
        chosen = choose(record, "".join([slot for slot in _SLOTS if self._is_whole(slot)]))
        if chosen is None:
            return ""
        if record is not None:
            self._seq = record.seq
        if chosen is not record:
            try:
                self._write(chosen.slot, chosen.trial, chosen.tries, chosen.why)
            except OSError:
                if chosen.trial:  # a try that is not counted could be taken for ever
                    chosen = Record(0, other(chosen.slot), False, 0, HUNG)
        self.slot, self.on_trial, self.why = chosen.slot, chosen.trial, chosen.why
        return self.slot

    def confirm(self) -> None:
        """The slot on trial works. Raises OSError."""
        if self.on_trial:
            self._write(self.slot, False, 0, NONE)
            self.on_trial, self.why = False, NONE

    def switch(self) -> None:
        """From the next boot on the other slot is on trial; it must be whole. Raises OSError."""
        self._write(other(self.slot), True, TRIES, NONE)

    def take_back(self, why: int) -> bool:
        """Whether the slot was on trial: then the other one boots from now on."""
        if not self.on_trial:
            return False
        try:
            self._write(other(self.slot), False, 0, why)
        except OSError:
            pass  # its tries come to an end
        return True

    def judge(self, has_network: bool) -> None:
        """To be called every second: takes a slot back that is not confirmed in time."""
        if has_network:
            self._waited += 1
        if self._waited >= LOGIN_S and self.take_back(NO_LOGIN):
            self.restart()

    def _is_whole(self, slot: str) -> bool:
        try:
            with open(self.folder + "/" + slot + "/manifest.json") as file:
                return isinstance(json.load(file), dict)
        except (OSError, ValueError, RuntimeError, MemoryError):  # a part of JSON is none; nested too deeply
            return False

    def _path(self, number: int) -> str:
        return self.folder + "/switch." + str(number)

    def _read(self, number: int) -> bytes:
        try:
            with open(self._path(number), "rb") as file:
                return file.read(RECORD_BYTES + 1)
        except OSError:
            return b""

    def _write(self, slot: str, trial: bool, tries: int, why: int) -> None:
        with open(self._path(self._next), "wb") as file:
            file.write(encode(Record(self._seq + 1, slot, trial, tries, why)))
        self._seq += 1
        self._next = 1 - self._next
