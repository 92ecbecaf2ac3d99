"""What tests need of MicroPython: the protocol compiled as a board gets it, and the interpreter run on a test file."""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from zts_gateway.stage import stage

TESTS = Path(__file__).parent
EDGE = TESTS.parent / "edge"
MICROPYTHON = Path(sys.executable).parent / "micropython"
ARCHES = ("xtensawin", "rv32imc", "armv6m", "armv7emsp", "x64")


@functools.cache
def _edge(arch: str) -> dict[Path, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        return {name: Path(folder, name).read_bytes() for name in stage(Path(folder), arch)}


def put_edge(folder: Path, arch: str = "x64") -> list[Path]:
    """What `stage` does, compiled once in a process: half a second, and a test has several boards."""
    for name, data in _edge(arch).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return list(_edge(arch))


def compile_edge(target: Path, arch: str = "x64") -> int:
    """Compiles what goes on a board into `target`; returns the sum of the .mpy files' bytes.

    Tests name constants that are folded away on a board, so the whole module lies beside it, where MicroPython finds it first.
    """
    size = sum((target / name).stat().st_size for name in put_edge(target, arch))
    shutil.copy(EDGE / "zts" / "wire.py", target / "zts")
    return size


def run_tests(path: Path, edge: Path, *, data: Path | None = None, heap: str = "256K") -> str:
    """Runs the test functions of one file under MicroPython with the compiled `edge`; returns what was printed. They must all pass."""
    options = [] if data is None else ["--data", str(data)]
    done = subprocess.run(
        [str(MICROPYTHON), "-X", f"heapsize={heap}", str(TESTS / "run_micropython.py"), *options, str(path)],
        env={**os.environ, "MICROPYPATH": f".frozen:{edge}:{TESTS}"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}{done.stderr}"
    last = done.stdout.splitlines()[-1]
    assert " passed, 0 failed" in last and not last.startswith("0 "), done.stdout
    return done.stdout
