"""A board at a serial port: programs run on it and files put there, through mpremote's transport."""

import contextlib
import errno
import io
import json
import os
import struct
from binascii import b2a_base64
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import serial
from mpremote.transport import TransportError, TransportExecError
from mpremote.transport_serial import SerialTransport

from zts_gateway.ui import Exit, Failure

_PIECE: Final = 2048  # bytes of a file in one program: with its base64 text 7 KB of heap
_READ_S: Final = 10
_ENTER_S: Final = (3, 7)  # the first try may meet a board that boots, and be lost
_ANSWER_S: Final = 20  # the longest is the hashing of a slot, or the radio's start and an X25519: a few seconds
_ENOSPC: Final = f"OSError: {errno.ENOSPC}"  # the same number on every port

# What all programs may use. A file is written beside its place and takes it whole; FAT does not rename onto a file.
_BASICS: Final = """
import os, json, hashlib, binascii
def sha(path):
    h = hashlib.sha256()
    b = bytearray(512)
    try:
        with open(path, "rb") as f:
            while True:
                n = f.readinto(b)
                if not n: break
                h.update(memoryview(b)[:n])
    except OSError:
        return ""
    return binascii.hexlify(h.digest()).decode()
def place(path):
    try: os.rename(path + ".new", path)
    except OSError:
        os.remove(path)
        os.rename(path + ".new", path)
def begin(path):
    global out
    at = path.find("/", 1)
    while at > 0:
        try: os.mkdir(path[:at])
        except OSError: pass
        at = path.find("/", at + 1)
    out = open(path + ".new", "wb")
def more(text): out.write(binascii.a2b_base64(text))
def end(path):
    out.close()
    d = sha(path + ".new")
    if hasattr(os, "sync"): os.sync()
    return d
"""


class Cable:
    """Opens the port. Raises Failure. What ran on the board is interrupted by `enter`; `restart` has it boot again."""

    def __init__(self, port: str) -> None:
        self.port = port
        self._entered = False
        try:
            if not Path(port).exists():
                raise Failure(
                    Exit.USAGE, f"there is no {port}; check the cable, one that carries data, and look for the port with `mpremote devs`"
                )
            if not os.access(port, os.R_OK | os.W_OK):
                raise Failure(
                    Exit.USAGE,
                    f"you may not use {port}; join the group that owns it, on most systems with "
                    "`sudo usermod -aG dialout $USER`, then log in again",
                )
            self._transport = SerialTransport(port, timeout=_READ_S)
        except (TransportError, OSError, ValueError):
            raise Failure(
                Exit.REFUSED, f"{port} is in use by another program, or is no serial port; end that program, then try again"
            ) from None

    def enter(self) -> None:
        """Interrupts what runs and takes the raw REPL, with nothing of it left in memory. Raises Failure."""
        self._entered = True
        for seconds in _ENTER_S:
            try:
                with contextlib.redirect_stdout(io.StringIO()):  # mpremote prints what it did not expect
                    self._transport.enter_raw_repl(timeout_overall=seconds)
                self._exec(_BASICS)
                return
            except (TransportError, struct.error):
                continue
            except OSError:
                break
        raise Failure(
            Exit.OFFLINE,
            f"no MicroPython answers at {self.port}; press the board's reset button and run it again, "
            "or put MicroPython on it first with --firmware FILE",
        )

    def run(self, program: str, *arguments: Any) -> Any:
        """Runs a program that has its arguments in `A`; gives what it prints last, a JSON text. Raises Failure."""
        try:
            printed = self._exec(f"A = {arguments!r}\n{program}")
            return json.loads(printed.strip().splitlines()[-1])
        except TransportExecError as error:
            raise self._failed(error) from None
        except (TransportError, struct.error, OSError, ValueError, IndexError):
            raise self._lost() from None

    def put(self, path: str, data: bytes, advance: Callable[[int], None]) -> None:
        """Writes a file whole or not at all; its folders are made. Raises Failure."""
        try:
            self._exec(f"begin({path!r})")
            for at in range(0, len(data), _PIECE):
                piece = data[at : at + _PIECE]
                self._exec(f"more({b2a_base64(piece, newline=False)!r})")
                advance(len(piece))
            digest = self._exec(f"print(end({path!r}))").strip().decode()
            if digest != sha256(data).hexdigest():
                raise Failure(Exit.LOST, f"{path} came to the board other than it was sent; use a shorter cable, then run it again")
            self._exec(f"place({path!r})")
        except TransportExecError as error:
            raise self._failed(error) from None
        except (TransportError, struct.error, OSError):
            raise self._lost() from None

    def restart(self) -> None:
        """Has the board boot, as far as it still listens."""
        if not self._entered:
            return
        self._entered = False
        with contextlib.suppress(TransportError, struct.error, OSError):
            self._transport.serial.write(b"\r\x03\x02\r\nimport machine; machine.reset()\r\n")
            self._transport.serial.flush()

    def boot_loader(self) -> None:
        """Has a board with a UF2 boot loader start that."""
        self._entered = False
        with contextlib.suppress(TransportError, struct.error, OSError):
            self._transport.exec_raw_no_follow("import machine; machine.bootloader()")

    def heard(self) -> bytes:
        """What the board has said since, without waiting. Raises OSError when the port is gone."""
        waiting = self._transport.serial.in_waiting
        return bytes(self._transport.serial.read(waiting)) if waiting else b""

    def close(self) -> None:
        self.restart()
        with contextlib.suppress(OSError, serial.SerialException):
            self._transport.close()

    def _exec(self, program: str) -> bytes:
        self._transport.exec_raw_no_follow(program)
        printed, raised = self._transport.follow(_ANSWER_S)
        if raised:
            raise TransportExecError(printed, raised.decode(errors="replace"))
        return bytes(printed)

    def _failed(self, error: "TransportExecError") -> Failure:
        last = "".join(c for c in (error.error_output.strip().splitlines() or ["nothing"])[-1] if c.isprintable())
        if last.startswith(_ENOSPC):
            return Failure(Exit.REFUSED, "the board's flash is full; remove files of yours there (`mpremote fs ls`), then run it again")
        if last.startswith("MemoryError"):
            return Failure(Exit.REFUSED, "the board has too little memory free; remove what its boot.py loads, then run it again")
        return Failure(Exit.REFUSED, f"the board says '{last}'; run it again, and report it if it stays so")

    def _lost(self) -> Failure:
        return Failure(
            Exit.LOST,
            f"the board at {self.port} does not answer any more; check cable and power, then run it again: it goes on where it was",
        )
