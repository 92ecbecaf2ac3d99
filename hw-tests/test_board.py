"""What a board must do, real or virtual: be flashed, be reached, carry a serial line, keep to its budget, survive a power cut, go on."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import serial
from hw_bench import NAME, Bench

from whole_network import WAIT_S, environment, until

SOAK_S = float(os.environ.get("ZTS_SOAK_S", "5"))
_ZTS = (sys.executable, "-m", "zts_gateway.cli")
_BULK_BYTES = 262_144
_SAID = bytes(range(256)) * 16


def status(bench: Bench) -> dict[str, Any]:
    done = bench.net.zts("status", f"@{NAME}", "--json")
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def fetch(bench: Bench, service: str) -> bytes:
    command = [*_ZTS, "connect", f"@{NAME}:{service}", "--stdio"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=WAIT_S, env=environment(bench.net.home))
    assert done.returncode == 0, done.stderr
    return done.stdout


def reading(address: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://{address}/reading.json", timeout=WAIT_S) as answer:
        said: dict[str, Any] = json.load(answer)
        return said


def is_online(bench: Bench) -> bool:
    return bool(bench.net.listed(NAME)["online"])


@contextlib.contextmanager
def jumper(bench: Bench) -> Iterator[None]:
    """TX on RX: on a real board a wire, at a virtual one a thread at the other end of the UART."""
    if bench.virtual is None:
        yield
        return
    stop = threading.Event()
    with serial.Serial(bench.virtual.uart(1), timeout=0.05) as line:

        def echo() -> None:
            while not stop.is_set():
                line.write(line.read(line.in_waiting or 1))

        thread = threading.Thread(target=echo)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def test_flash_again_changes_nothing(bench: Bench) -> None:
    before = bench.net.listed(NAME)["fp"]
    done = bench.flash()
    assert done.returncode == 0, done.stderr
    assert "copying" not in done.stderr
    assert bench.net.listed(NAME)["fp"] == before and bench.net.listed(NAME)["verified"]


def test_connect(bench: Bench) -> None:
    with bench.net.run(f"connect{time.monotonic_ns()}", "connect", f"@{NAME}:http", "-L") as door:
        said = reading(door.line())
        assert said["name"] == NAME and said["device"].startswith("micropython")


def test_console_loopback(bench: Bench) -> None:
    """4 KiB out by TX and back by RX, at the board's own baud."""
    place = bench.net.folder / f"tty{time.monotonic_ns()}"
    with jumper(bench), bench.net.run(f"console{time.monotonic_ns()}", "connect", f"@{NAME}:console", "--pty", str(place)) as door:
        door.line()
        with serial.Serial(str(place), timeout=5) as line:
            back = b""
            for at in range(0, len(_SAID), 256):
                line.write(_SAID[at : at + 256])
                back += line.read(256)
                if not back and bench.virtual is None:
                    pytest.skip("needs a jumper between TX and RX of `console`")
            assert back == _SAID


def test_throughput(bench: Bench) -> None:
    """The best of three, so that what else the machine does counts less."""
    rates = []
    for _ in range(3):
        command = [*_ZTS, "connect", f"@{NAME}:bulk", "--stdio"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(bench.net.home)) as process:
            assert process.stdin and process.stdout
            first = process.stdout.read(1024)
            before = time.monotonic()
            rest = process.stdout.read()
            took = time.monotonic() - before
            process.stdin.close()
            assert process.wait(WAIT_S) == 0
        assert first + rest == b"zts!" * (_BULK_BYTES // 4)
        rates.append(len(rest) / took / 1000)
    print(f"{bench.kind}: {max(rates):.0f} KB/s")
    assert max(rates) >= bench.budget["throughput_kbps"], rates


def test_heap(bench: Bench) -> None:
    said = status(bench)
    run = int(fetch(bench, "room"))
    print(f"{bench.kind}: {said['heap_free']} bytes of heap free in a session, {run} of it in one piece, {said['heap_used']} used")
    assert said["heap_free"] >= bench.budget["heap_free"]
    assert run >= bench.budget["heap_run"]


def test_power_cut_during_flash(bench: Bench) -> None:
    if bench.virtual is None:
        pytest.skip("needs somebody who pulls the cable; tests/e2e/test_flash_cut.py does it on a virtual board, fifty times")
    spoilt = bench.virtual.folder / "agent" / "a" / "zts" / "session.mpy"
    for wait_s in (0.05, 0.3):
        spoilt.write_bytes(b"spoilt")
        with bench.net.run(f"cut{time.monotonic_ns()}", "flash", bench.port, "--name", f"@{NAME}", stdin="") as run:
            run.said("copying the agent")
            time.sleep(wait_s)  # how far it comes by then is left to chance
            bench.virtual.cut_power()
            bench.virtual.start()
            run.process.wait(WAIT_S)
        done = bench.flash()
        assert done.returncode == 0, done.stderr
        assert spoilt.read_bytes() != b"spoilt"
    test_connect(bench)


def test_power_cut_during_update(bench: Bench) -> None:
    if bench.virtual is None:
        pytest.skip("needs somebody who pulls the plug; on a virtual board it is killed")
    agent = bench.virtual.folder / "agent"
    boots = status(bench)["slot"]["boots"]
    other = agent / ("b" if boots == "a" else "a")
    manifest = agent / boots / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": "', '"version": "0.', 1))  # so that there is something to update
    with bench.net.run(f"update{time.monotonic_ns()}", "update", f"@{NAME}") as run:
        until(lambda: len(list(other.rglob("*.mpy"))) > 5, "files come into the other slot")
        bench.virtual.cut_power()
        bench.virtual.start()
        run.process.wait(WAIT_S)
    until(lambda: is_online(bench), "the board is online with what it had, or has")
    done = bench.net.zts("update", f"@{NAME}")
    assert done.returncode == 0, done.stderr
    assert status(bench)["slot"] == {"boots": other.name, "trial": False, "why": 0}
    test_connect(bench)


def test_the_reading_is_the_chips_temperature(bench: Bench) -> None:
    bench.needs_silicon("a virtual board has no thermometer")
    with bench.net.run(f"warm{time.monotonic_ns()}", "connect", f"@{NAME}:http", "-L") as door:
        said = reading(door.line())
        assert said["reading"] == "chip temperature" and 0 < said["value"] < 80


def test_soak(bench: Bench) -> None:
    """New connections, a busy console and bulk in turn, for ZTS_SOAK_S; the board neither restarts nor runs out of memory."""
    before = status(bench)
    end = time.monotonic() + SOAK_S
    rounds = 0
    lowest = before["heap_free"]
    while rounds < 1 or time.monotonic() < end:
        test_connect(bench)
        assert fetch(bench, "bulk") == b"zts!" * (_BULK_BYTES // 4)
        now = status(bench)
        assert now["boots"] == before["boots"], "it has restarted"
        lowest = min(lowest, now["heap_free"])
        assert now["sessions"] <= 3
        rounds += 1
    print(f"{bench.kind}: {rounds} rounds in {SOAK_S:.0f} s, at least {lowest} bytes of heap free")
    assert lowest >= bench.budget["heap_free"]
