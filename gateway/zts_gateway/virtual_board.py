"""A MicroPython board without hardware: the real interpreter, a folder as its flash, a device file as its USB port.

`with VirtualBoard(folder) as board:` runs one in a process of its own and tells its `port`, which mpremote opens as any board's.
`python -m zts_gateway.virtual_board FOLDER --link PATH` is that process. Killed, it is a board without power: the flash stays as it is.
"""

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from zts_gateway.virtual_hardware import UARTS, Hardware, hold_flash, uart_link

SIZE = "2M"  # of flash, as most of the small boards have it for files
HEAP = "256K"  # on a 64-bit machine about what 128 KB is on a chip
_START_S = 60.0  # generous: the machine may be busy


class VirtualBoard:
    """`networks` are the Wi-Fi networks in reach, name to password. `folder` is made if it is not there."""

    def __init__(self, folder: Path, heap: str = HEAP, networks: dict[str, str] | None = None, size: str = SIZE) -> None:
        self.folder = folder
        self._heap = heap
        self._size = size
        self._networks = networks or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._place = tempfile.TemporaryDirectory(prefix="zts-board-")
        self._air = Path(self._place.name, "air.json")
        self.set_networks(self._networks)
        self.log = Path(self._place.name, "log")

    @property
    def port(self) -> str:
        """The device file of its USB port, which is gone while the board is off."""
        return str(Path(self._place.name, "port"))

    def uart(self, number: int) -> str:
        """The device file at the other end of a UART's wires."""
        return str(uart_link(Path(self.port), number))

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def set_networks(self, networks: dict[str, str]) -> None:
        """What the radio hears from now on."""
        fresh = self._air.with_name("air.new")
        fresh.write_text(json.dumps(networks))
        fresh.replace(self._air)

    def start(self) -> None:
        """Switches it on. Raises RuntimeError when it does not start."""
        command = [
            sys.executable,
            "-m",
            "zts_gateway.virtual_board",
            str(self.folder),
            "--link",
            self.port,
            "--heap",
            self._heap,
            "--size",
            self._size,
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--air", str(self._air), "--until-eof"],
                stdin=subprocess.PIPE,  # which ends with us, however we do
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert self._process.stdout
        if not self._process.stdout.readline():
            self.cut_power()
            raise RuntimeError(f"the virtual board did not start: {self.log.read_text(errors='replace')}")

    def cut_power(self) -> None:
        """At once, whatever it was doing; nothing of it runs when this returns."""
        if self._process:
            self._process.kill()
            self._process.wait()
            with hold_flash(self.folder):
                pass
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe:
                    pipe.close()
            self._process = None
        for link in Path(self._place.name).glob("port*"):
            link.unlink()  # the kernel gives the number of a pty away again, and this would be somebody else's

    def close(self) -> None:
        self.cut_power()
        self._place.cleanup()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m zts_gateway.virtual_board", description="a MicroPython board without hardware")
    parser.add_argument("folder", type=Path, help="its flash")
    parser.add_argument(
        "--link", type=Path, help=f"where its port appears, and PATH.uart0 to PATH.uart{UARTS - 1}; else in the folder for temporary files"
    )
    parser.add_argument("--heap", default=HEAP, help=f"bytes, or with K or M (by default {HEAP})")
    parser.add_argument("--size", default=SIZE, help=f"bytes of flash, or with K or M (by default {SIZE})")
    parser.add_argument("--air", type=Path, help="a JSON file with the Wi-Fi networks in reach, name to password")
    parser.add_argument("--until-eof", action="store_true", help="end when stdin does")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with contextlib.ExitStack() as stack:
        link = arguments.link
        if link is None:
            link = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zts-board-")), "port")
        hardware = Hardware(arguments.folder, arguments.size, link, arguments.heap, arguments.air)
        try:
            hardware.switch_on()
            print(link, flush=True)
            hardware.run(sys.stdin.fileno() if arguments.until_eof else None)
        except BlockingIOError:
            print(f"another virtual board runs on {arguments.folder}; end it first", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            return 130
        finally:
            hardware.switch_off()
    return 0


if __name__ == "__main__":
    sys.exit(main())
