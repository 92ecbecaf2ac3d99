"""What programs do with DTR and RTS to reset a chip becomes one message; all else stays what it is, in its order."""

import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from esp32_mock_bootloader import server as mock  # type: ignore[import-untyped]

from line_peer import NAMES, LinePeer
from zts import line, wire
from zts_gateway import line_forms
from zts_gateway.reset_macro import HOLD_MS, ResetMacro

WAIT_S = 90.0
BIN = Path(sys.executable).parent
RUN = ("LINE_RESET", bytes([wire.RESET_RUN]))
BOOTLOADER = ("LINE_RESET", bytes([wire.RESET_BOOTLOADER]))
OPENED = "D1 R1"  # as pyserial opens a port


def modem(changes: str) -> tuple[str, bytes]:
    """The one message for changes such as "D1 R0"."""
    mask = values = 0
    for change in changes.split():
        bit = wire.MODEM_DTR if change[0] == "D" else wire.MODEM_RTS
        mask |= bit
        values |= bit if change[1] == "1" else 0
    return "LINE_MODEM", bytes([mask, values])


def play(steps: str) -> list[tuple[str, bytes]]:
    """What the device is told. Steps: D0 D1 R0 R1 set a line, a number waits so many ms, x says something else; then time passes."""
    macro, now = ResetMacro(), 0
    said = b""

    def wait(ms: int) -> None:
        nonlocal now, said
        now += ms
        if macro.deadline is not None and now >= macro.deadline:
            said += macro.settle()

    for step in steps.split():
        if step.isdigit():
            wait(int(step))
        elif step == "x":
            said += macro.settle() + line.data(b"x")
        else:
            wait(50)  # pyserial looks every 50 ms whether it was answered
            body = modem(step)[1]
            said += macro.change(body[0], body[1], now)
    wait(HOLD_MS)
    assert macro.deadline is None and macro.settle() == b""
    return [(NAMES[kind], body) for kind, body in line.Decoder().feed(said)]


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        # esptool 5, as test_what_esptool_really_does sees it.
        ("D0 R1 D0 100 D1 R0 D1 50 D0", [BOOTLOADER]),
        ("D0 R1 D0 100 D1 R0 D1 550 D0", [BOOTLOADER]),
        ("D0 R1 D0 100 D1 R0 D1 50", [BOOTLOADER, modem("D1")]),  # with its flow control
        ("R0 D0 100 D1 R0 100 R1 D0 R1 100 D0 R0", [modem("R0"), modem("D0"), modem("D1"), modem("R1"), BOOTLOADER]),
        ("D0 R0 R1 D0 100 R0 D0", [RUN, RUN]),
        ("D0 R0 R1 D0 200 R0 D0 200", [RUN, RUN]),
        # twice, as when the first try fails
        ("D0 R1 D0 100 D1 R0 D1 50 D0 500 D0 R1 D0 100 D1 R0 D1 550 D0", [BOOTLOADER, BOOTLOADER]),
        # a program that turns both off, which resets a chip that hangs on a cable too
        ("D0 R0", [RUN]),
        ("R0 D0", [modem("R0"), modem("D0")]),  # in mpremote's order it does not
        # reset, and let go without a boot pin
        ("D0 100 D1", [RUN, modem("D1 R1")]),
        # held in reset for longer than any sequence does
        ("D0 2000 D1 2000", [modem("D0"), RUN, modem("D1 R1")]),
        ("D0 2000 R0", [modem("D0"), RUN]),
        ("D0 2000 D1 R0", [modem("D0"), BOOTLOADER, modem("D1")]),
        # something else in between
        ("D0 x D1 x", [modem("D0"), ("LINE_DATA", b"x"), RUN, modem("D1 R1"), ("LINE_DATA", b"x")]),
        ("D0 D1 x R0", [RUN, modem("D1 R1"), ("LINE_DATA", b"x"), modem("R0")]),
        ("R0 x R1 x", [modem("R0"), ("LINE_DATA", b"x"), modem("R1"), ("LINE_DATA", b"x")]),
        ("R1 D1 R1", []),
    ],
)
def test_a_sequence(steps: str, told: list[tuple[str, bytes]]) -> None:
    assert play(f"{OPENED} {steps}") == [modem("D1"), modem("R1"), *told]


def test_the_device_ends_with_the_lines_that_the_program_set() -> None:
    rng = random.Random(4)
    for _ in range(3000):
        steps = rng.choices(["D0", "D1", "R0", "R1", "x", "100", "600", "1500"], k=rng.randrange(1, 14))
        told = play(" ".join(steps))
        lines, wanted = {}, {}
        for step in steps:
            if step[0] in "DR":
                wanted[step[0]] = step[1] == "1"
        for name, body in told:
            if name == "LINE_RESET":
                lines = {"D": False, "R": False}
            elif name == "LINE_MODEM":
                for key, bit in (("D", wire.MODEM_DTR), ("R", wire.MODEM_RTS)):
                    if body[0] & bit:
                        lines[key] = bool(body[1] & bit)
        assert lines == wanted, steps
        assert [body for name, body in told if name == "LINE_DATA"] == [b"x"] * steps.count("x")


def test_nothing_is_held_for_long() -> None:
    macro = ResetMacro()
    for at, (mask, values) in enumerate(((1, 1), (2, 2), (1, 0))):
        macro.change(mask, values, at)
    assert macro.deadline == 2 + HOLD_MS


# --- the real programs -------------------------------------------------------------------------------------------------------


class Chip:
    """A chip's bootloader at the other end of a line."""

    def __init__(self, peer: LinePeer) -> None:
        self._ours, theirs = socket.socketpair()
        self._stop = threading.Event()
        connection = mock.BootloaderConnection(sock=theirs)
        self._threads = [
            threading.Thread(target=mock.handle_client, args=(connection, self._stop, "esp32"), kwargs={"flash": mock.FlashImage()}),
            threading.Thread(target=self._read),
        ]
        self._peer = peer
        peer.on_data = self._hear
        for thread in self._threads:
            thread.start()

    def _hear(self, data: bytes) -> bytes:
        self._ours.sendall(data)
        return b""

    def _read(self) -> None:
        while got := self._ours.recv(1024):
            self._peer.say(wire.LINE_DATA, got)

    def close(self) -> None:
        self._stop.set()
        self._ours.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(WAIT_S)
        self._ours.close()


@pytest.fixture
def peer() -> Iterator[LinePeer]:
    with LinePeer(line_forms.Rfc2217) as peer:
        yield peer
        assert peer.errors == []


@pytest.mark.parametrize("before", ["default-reset", "usb-reset"])
def test_what_esptool_really_does(peer: LinePeer, before: str) -> None:
    chip = Chip(peer)
    try:
        command = [
            str(BIN / "esptool"),
            "--port",
            f"rfc2217://{peer.address}",
            "--chip",
            "esp32",
            "--before",
            before,
            "--no-stub",
            "read-mac",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, env={**os.environ, "PYTHONWARNINGS": ""})
    finally:
        chip.close()
    assert done.returncode == 0, done.stdout + done.stderr
    told = [one for one in peer.told if one[0] in ("LINE_MODEM", "LINE_RESET")]
    prelude = ["R0", "D0", "D1", "R1"] if before == "usb-reset" else []
    assert told == [*map(modem, ["D1", "R1", *prelude]), BOOTLOADER, RUN]


def test_what_mpremote_really_does(peer: LinePeer) -> None:
    """It opens and closes a port without a reset."""
    command = [str(BIN / "mpremote"), "connect", f"rfc2217://{peer.address}", "disconnect", "connect", "list"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [one for one in peer.told if one[0] in ("LINE_MODEM", "LINE_RESET")] == [*map(modem, ["D1", "R1", "R0", "D0"])]
