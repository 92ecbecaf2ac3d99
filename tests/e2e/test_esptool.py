"""The real esptool at a chip's bootloader behind a gateway's serial port, here and with 200 ms to it and back.

A chip's serial port has no DTR and RTS here; what esptool does with them is in test_reset_macro.py."""

import concurrent.futures
import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from chaos_proxy import ChaosProxy
from relay_process import RelayProcess
from serial_cable import MockChip
from whole_network import WAIT_S, Network, Running
from zts import identity

BIN = Path(sys.executable).parent
SIZE = 256 * 1024
RTT_S = 0.2


class Place(NamedTuple):
    way: ChaosProxy  # between the relay and all others, so there are two of it on the way to the device
    doors: list[Running]  # to a chip each


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("esptool")
    with contextlib.ExitStack() as stack:
        services = {f"chip{number}": ("serial", stack.enter_context(MockChip()).path) for number in range(3)}
        relay = stack.enter_context(RelayProcess(folder / "relay"))
        way = stack.enter_context(ChaosProxy(identity.join_address(*relay.leg), 0))
        net = Network(folder, relay, "embedded", way.address)
        stack.enter_context(net.linux_device("gw", services))
        doors = [stack.enter_context(net.run(name, "connect", f"@gw:{name}", "--rfc2217")) for name in services]
        for door in doors:
            door.line()
            door.said("flash-id")
        yield Place(way, doors)


def esptool(door: Running, *arguments: str, patient: bool = True) -> str:
    """As `zts` says how, with further arguments in place of flash-id; with no more than its own patience if not `patient`."""
    (line,) = [line for line in door.err.splitlines() if "esptool" in line]
    setting, program, *command = line.split()
    assert command.pop() == "flash-id"
    environment = {**os.environ, **(dict([setting.split("=", 1)]) if patient else {})}
    start = time.monotonic()
    done = subprocess.run([str(BIN / program), *command, *arguments], capture_output=True, text=True, timeout=2 * WAIT_S, env=environment)
    print(f"{time.monotonic() - start:.1f} s: esptool {' '.join(arguments)}{'' if patient else ', without our settings'}")
    assert done.returncode == 0, done.stdout + done.stderr + door.err
    return done.stdout


@pytest.mark.parametrize("rtt_s", [0, RTT_S])
def test_flash_id_and_a_write(place: Place, tmp_path: Path, rtt_s: float) -> None:
    """Without our settings esptool waits 100 ms for a chip's first answer, and has it at its next try; only its stub it cannot start."""
    place.way.one_way_s = rtt_s / 4
    print(f"round trip {rtt_s * 1000:.0f} ms")
    image = tmp_path / "image"
    image.write_bytes(random.Random(rtt_s).randbytes(SIZE))
    with concurrent.futures.ThreadPoolExecutor(3) as pool:  # they mostly wait
        asking = pool.submit(esptool, place.doors[0], "flash-id")
        writing = pool.submit(esptool, place.doors[1], "write-flash", "0x10000", str(image))
        impatient = pool.submit(esptool, place.doors[2], "--no-stub", "flash-id", patient=False)
        assert "Stub flasher" in asking.result() and "Detected flash size" in asking.result()
        # The chip computed a hash of what it has.
        assert f"Wrote {SIZE} bytes" in writing.result() and "Hash of data verified" in writing.result()
        assert "Detected flash size" in impatient.result()
