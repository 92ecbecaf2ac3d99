"""The switch records: whatever of a write is on the flash, whatever was damaged, a whole slot boots, and the one it should be."""

import os
import struct

from zts_firmware import slots
from zts_firmware.slots import Record

GOOD_A = Record(7, "a", False, 0, slots.NONE)
WHOLE = ("", "a", "b", "ab")
_ROOT = "/tmp"


class Board:
    """A folder with slots, as a board has it; starts anew at will."""

    def __init__(self, *whole):
        self.folder = f"{_ROOT}/zts-slots-{id(self)}-{struct.unpack('>I', os.urandom(4))[0]}"
        os.mkdir(self.folder)
        self.restarts = 0
        for slot in whole:
            self.fill(slot)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for slot in "ab":
            self.empty(slot)
        for name in os.listdir(self.folder):
            os.remove(self.folder + "/" + name)
        os.rmdir(self.folder)

    def fill(self, slot, text='{"version": "1", "files": []}\n'):
        if slot not in os.listdir(self.folder):
            os.mkdir(f"{self.folder}/{slot}")
        with open(f"{self.folder}/{slot}/manifest.json", "w") as file:
            file.write(text)

    def empty(self, slot):
        if slot in os.listdir(self.folder):
            os.remove(f"{self.folder}/{slot}/manifest.json")
            os.rmdir(f"{self.folder}/{slot}")

    def records(self):
        return [self._read(number) for number in (0, 1)]

    def _read(self, number):
        try:
            with open(f"{self.folder}/switch.{number}", "rb") as file:
                return file.read()
        except OSError:
            return b""

    def write(self, number, data):
        with open(f"{self.folder}/switch.{number}", "wb") as file:
            file.write(data)

    def start(self):
        """(slot, on trial, why), and the slots as the agent has them."""
        found = slots.Slots(self.folder, lambda: None, self._restart)
        found.boot()
        return (found.slot, found.on_trial, found.why), found

    def _restart(self):
        self.restarts += 1


def test_a_record_reads_back():
    for record in (GOOD_A, Record(0xFFFFFFFF, "b", True, 3, slots.HUNG), Record(0, "a", True, 255, 255)):
        data = slots.encode(record)
        assert len(data) == slots.RECORD_BYTES and slots.decode(data) == record


def test_a_part_of_a_record_is_none():
    data = slots.encode(GOOD_A)
    for size in range(len(data)):
        assert slots.decode(data[:size]) is None
        assert slots.decode(data[:size] + bytes(len(data) - size)) is None
        assert slots.decode(data[:size] + b"\xff" * (len(data) - size)) is None
    assert slots.decode(data + b"\0") is None


def test_no_flipped_bit_is_overlooked():
    data = slots.encode(GOOD_A)
    for at in range(len(data)):
        for bit in range(8):
            assert slots.decode(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]) is None


def test_the_later_record_is_in_force_and_the_other_file_is_next():
    old, new = slots.encode(GOOD_A), slots.encode(Record(8, "b", True, 3, slots.NONE))
    for first, second, seq, following in (
        (old, new, 8, 0),
        (new, old, 8, 1),
        (old, b"", 7, 1),
        (b"", old, 7, 0),
        (old, new[:-1], 7, 1),
        (new[:9], old, 7, 0),
    ):
        record, file = slots.in_force(first, second)
        assert (record.seq, file) == (seq, following)
    assert slots.in_force(b"", b"")[0] is None


def test_the_table_of_choices():
    a, b = "a", "b"
    none, hung, damaged = slots.NONE, slots.HUNG, slots.DAMAGED
    # (record: slot, trial, tries), whole: (slot, trial, tries, why), or None where there is nothing to boot.
    table = {
        (None, ""): None,
        (None, "a"): (a, False, 0, none),
        (None, "b"): (b, False, 0, none),
        (None, "ab"): (a, False, 0, none),
    }
    for slot, way_back in ((a, b), (b, a)):
        for tries in range(slots.TRIES + 1):
            table[((slot, True, tries), "ab")] = (slot, True, tries - 1, none) if tries else (way_back, False, 0, hung)
            table[((slot, True, tries), slot)] = (slot, False, 0, none)  # without a way back there is nothing to try
        for record in [(slot, False, 0)] + [(slot, True, tries) for tries in range(slots.TRIES + 1)]:
            table[(record, "")] = None
            table[(record, way_back)] = (way_back, False, 0, damaged)
        table[((slot, False, 0), slot)] = table[((slot, False, 0), "ab")] = (slot, False, 0, none)
    assert len(table) == len(WHOLE) * (1 + 2 * (slots.TRIES + 2))
    for (record, whole), expected in table.items():
        said = slots.choose(record and Record(5, record[0], record[1], record[2], none), whole)
        assert (said and said[1:]) == expected, (record, whole, said)
        assert said is None or record is None or said.seq == 5


def test_an_update_goes_its_way():
    with Board("a") as board:
        said, running = board.start()
        assert said == ("a", False, slots.NONE)
        board.fill("b")
        running.switch()
        assert (running.slot, running.on_trial) == ("a", False)  # it still runs
        said, running = board.start()
        assert said == ("b", True, slots.NONE)
        running.confirm()
        assert not running.on_trial
        records = board.records()
        running.confirm()
        assert board.records() == records  # not once at every login
        for _ in range(5):
            assert board.start()[0] == ("b", False, slots.NONE)
        assert board.records() == records  # nor at every boot
        board.start()[1].switch()
        assert board.start()[0] == ("a", True, slots.NONE)


def test_a_slot_that_never_proves_itself_has_three_tries():
    with Board("a", "b") as board:
        board.start()[1].switch()
        for _ in range(slots.TRIES):
            assert board.start()[0] == ("b", True, slots.NONE)
        for _ in range(2):
            assert board.start()[0] == ("a", False, slots.HUNG)


def test_a_slot_is_taken_back_at_once_and_the_reason_kept():
    for why in (slots.CRASHED, slots.NO_LOGIN):
        with Board("a", "b") as board:
            board.start()[1].switch()
            assert board.start()[1].take_back(why)
            for _ in range(2):
                said, running = board.start()
                assert said == ("a", False, why)
                assert not running.take_back(slots.CRASHED)  # a good slot has no way back
            running.switch()
            running = board.start()[1]
            running.confirm()
            assert board.start()[0] == ("b", False, slots.NONE)


def test_time_without_a_network_is_not_counted():
    with Board("a", "b") as board:
        running = board.start()[1]
        for _ in range(3 * slots.LOGIN_S):
            running.judge(True)
        running.switch()
        running = board.start()[1]
        for _ in range(10 * slots.LOGIN_S):
            running.judge(False)
        for _ in range(slots.LOGIN_S - 1):
            running.judge(True)
            running.judge(False)
        assert board.restarts == 0 and running.on_trial
        running.judge(True)
        assert board.restarts == 1
        assert board.start()[0] == ("a", False, slots.NO_LOGIN)


def test_a_confirmed_slot_is_not_judged():
    with Board("a", "b") as board:
        board.start()[1].switch()
        running = board.start()[1]
        running.confirm()
        for _ in range(2 * slots.LOGIN_S):
            running.judge(True)
        assert board.restarts == 0 and board.start()[0] == ("b", False, slots.NONE)


def test_half_a_manifest_is_no_whole_slot():
    text = '{"version": "1", "mpy": 2822, "files": [\n["zts/wire.mpy", 1, "00"],\n["zts_agent/main.mpy", 2, "11"]\n]}\n'
    with Board("a") as board:
        for size in range(len(text) - 1):
            board.fill("b", text[:size])
            assert board.start()[1]._is_whole("b") is False, text[:size]
        board.fill("b", text)
        assert board.start()[1]._is_whole("b")
        for other in ("[]", "1", "null", "\0" * 100, "[" * 10000):
            board.fill("b", other)
            assert not board.start()[1]._is_whole("b")


def _moves():
    """Every write that there is: (what the board was before, the step that writes)."""
    yield ("a", "b"), (), lambda board: board.start()[1].switch()
    yield ("a", "b"), ("switch",), lambda board: board.start()
    for tried in range(1, slots.TRIES + 1):
        before = ("switch",) + ("start",) * (tried - 1)
        yield ("a", "b"), before, lambda board: board.start()[1].confirm()
        yield ("a", "b"), before, lambda board: board.start()[1].take_back(slots.CRASHED)
    yield ("a", "b"), ("switch",) + ("start",) * slots.TRIES, lambda board: board.start()
    yield ("b",), (), lambda board: board.start()


def test_a_write_may_be_cut_at_every_byte():
    cuts = 0
    for whole, before, step in _moves():
        with Board(*whole) as board:
            for what in before:
                if what == "switch":
                    board.start()[1].switch()
                else:
                    board.start()
            old = board.records()
            step(board)
            new = board.records()
            for number in (0, 1):
                if new[number] == old[number]:
                    continue
                for size in range(slots.RECORD_BYTES):
                    for rest in (b"", old[number][size:]):
                        # Of two writes in one step the first is done.
                        for other in (old[1 - number], new[1 - number]):
                            cut = new[number][:size] + rest
                            board.write(number, cut)
                            board.write(1 - number, other)
                            _boots_until_good(board, whole)
                            cuts += 1
    assert cuts > 500


def test_every_byte_of_both_files_may_be_damaged():
    for confirmed in (True, False):
        with Board("a", "b") as board:
            board.start()[1].switch()
            running = board.start()[1]
            if confirmed:
                running.confirm()
            records = board.records()
            for number in (0, 1):
                for at in range(slots.RECORD_BYTES):
                    for flip in (1, 0x80, 0xFF):
                        data = records[number]
                        board.write(number, data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :])
                        board.write(1 - number, records[1 - number])
                        _boots_until_good(board, ("a", "b"))
            for first in (b"", b"\xff" * 16, bytes(16), b"x" * 1000):
                for second in (b"", b"\xff" * 16, bytes(16), b"x" * 1000):
                    board.write(0, first)
                    board.write(1, second)
                    assert board.start()[0] == ("a", False, slots.NONE)


def _boots_until_good(board, whole):
    """What boots is whole at every start, and within its tries ends in a slot that is good."""
    for _ in range(slots.TRIES + 2):
        (slot, on_trial, _), _ = board.start()
        assert slot in whole
    assert not on_trial


def test_a_try_that_cannot_be_counted_is_not_taken():
    def refuse(*_):
        raise OSError(28)

    with Board("a", "b") as board:
        board.start()[1].switch()
        for _ in range(3):
            running = slots.Slots(board.folder, refuse, refuse)
            running._write = refuse
            assert running.boot() == "a" and not running.on_trial
        assert board.start()[0] == ("b", True, slots.NONE)
        running = board.start()[1]
        running._write = refuse
        assert running.take_back(slots.CRASHED)  # its tries come to an end
        board.start()
        assert board.start()[0] == ("a", False, slots.HUNG)


def test_a_board_without_a_whole_slot_says_so():
    with Board() as board:
        assert board.start()[0] == ("", False, slots.NONE)
        assert board.records() == [b"", b""]


def test_a_fallback_is_written_down():
    """Else the empty slot would boot untried once an update had filled it."""
    with Board("b") as board:
        assert board.start()[0] == ("b", False, slots.NONE)
        board.fill("a")
        assert board.start()[0] == ("b", False, slots.NONE)
    with Board("a", "b") as board:
        board.start()[1].switch()
        board.start()[1].confirm()
        board.empty("b")
        assert board.start()[0] == ("a", False, slots.DAMAGED)
        board.fill("b")
        assert board.start()[0] == ("a", False, slots.DAMAGED)
