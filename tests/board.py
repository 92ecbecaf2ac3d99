"""What tests need of MicroPython: the protocol compiled as a board gets it, and the interpreter run on a test file."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from zts_gateway.stage import stage

TESTS = Path(__file__).parent
EDGE = TESTS.parent / "edge"
MICROPYTHON = Path(sys.executable).parent / "micropython"
ARCHES = ("xtensawin", "rv32imc", "armv6m", "armv7emsp", "x64")


def compile_edge(target: Path, arch: str = "x64") -> int:
    """Compiles what goes on a board into `target`; returns the sum of the .mpy files' bytes.

    Tests name constants that are folded away on a board, so the whole module lies beside it, where MicroPython finds it first.
    """
    size = sum((target / name).stat().st_size for name in stage(target, arch))
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
