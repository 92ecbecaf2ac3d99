"""What is plugged into a gateway's serial ports in tests: a pty with a program at its other end, and esp32-mock-bootloader."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable
from pathlib import Path

_TCGETS2 = 0x802C542A


class Cable:
    """`with Cable(str.upper) as cable:` answers what comes out of the port `cable.path`, and notes it in `heard`."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self.heard = b""
        self._answer = answer
        self._fd, port = pty.openpty()
        self.path = os.ttyname(port)
        tty.setraw(port)
        os.close(port)  # so that whoever has it for himself alone loses it with his end
        self._stop, stop = os.pipe()
        self._thread = threading.Thread(target=self._run, args=(stop,))

    def __enter__(self) -> "Cable":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._stop)
        self._thread.join()
        os.close(self._fd)

    def say(self, data: bytes) -> None:
        os.write(self._fd, data)

    def settings(self) -> tuple[int, int]:
        """(baud, stop bits) as the port has been set; a pty takes nothing else."""
        found = struct.unpack("4I20x2I", fcntl.ioctl(self._fd, _TCGETS2, bytes(44)))
        return found[5], 2 if found[2] & termios.CSTOPB else 1

    def _run(self, stop: int) -> None:
        while stop not in select.select([self._fd, stop], [], [])[0]:
            try:
                data = os.read(self._fd, 1 << 16)
            except OSError:  # nobody has the port open
                time.sleep(0.005)
                continue
            self.heard += data
            self.say(self._answer(data))
        os.close(stop)


class MockChip:
    """An ESP32's bootloader behind a serial port without DTR and RTS."""

    def __enter__(self) -> "MockChip":
        command = [str(Path(sys.executable).parent / "esp32-mock-bootloader"), "run", "--pty", "--chip", "esp32"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        self.path = self._process.stdout.readline().strip()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()
