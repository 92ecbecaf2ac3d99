"""Every file of tests/shared again, under the real MicroPython in a heap of 256 KiB: about what 128 KiB is on a 32-bit chip."""

import ast
import os
import subprocess
from pathlib import Path

import pytest

import board
from zts_gateway.stage import stage_slots

FILES = sorted((board.TESTS / "shared").rglob("test_*.py"))
LIMIT = 80_000  # bytes of .mpy files that a running agent has loaded; the heap they take is what a board is short of


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("edge")
    board.compile_edge(target)
    stage_slots(target / "zts_firmware" / "slots.mpy")
    return target


def test_there_are_shared_tests() -> None:
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_passes_under_micropython(path: Path, edge: Path) -> None:
    printed = board.run_tests(path, edge)
    print("\n".join(line for line in printed.splitlines() if not line.startswith(("ok ", "{"))))


def test_a_failing_test_is_noticed(tmp_path: Path, edge: Path) -> None:
    path = tmp_path / "test_bad.py"
    path.write_text("def test_good():\n    pass\n\n\ndef test_bad():\n    assert False\n")
    with pytest.raises(AssertionError, match="FAIL test_bad"):
        board.run_tests(path, edge)
    path.write_text("x = 1\n")
    with pytest.raises(AssertionError, match="0 passed"):
        board.run_tests(path, edge)
    path.write_text("import no_such_module\n")
    with pytest.raises(AssertionError, match=r"FAIL test_bad\.py"):
        board.run_tests(path, edge)


@pytest.fixture(scope="module")
def loaded(edge: Path) -> set[str]:
    """The files that a running agent with Wi-Fi and its page has loaded, relative to where they lie."""
    program = "import sys\nfrom zts_agent import main, page\nprint([m.__file__ for m in sys.modules.values() if hasattr(m, '__file__')])"
    done = subprocess.run(
        [str(board.MICROPYTHON), "-X", "heapsize=256K", "-c", program],
        env={**os.environ, "MICROPYPATH": f".frozen:{edge}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    files = {Path(path) for path in ast.literal_eval(done.stdout)}
    names = {path.relative_to(edge).with_suffix(".mpy").as_posix() for path in files if path.is_relative_to(edge)}
    return names | {"zts_agent/wifi.mpy"}  # which the unix port cannot import: it has no network module


@pytest.mark.parametrize("arch", board.ARCHES)
def test_compiles_for_every_board(arch: str, tmp_path: Path, loaded: set[str]) -> None:
    total = board.compile_edge(tmp_path, arch)
    sizes = {path.relative_to(tmp_path).as_posix(): path.stat().st_size for path in tmp_path.rglob("*.mpy")}
    assert sum(sizes.values()) == total and loaded < set(sizes)
    running = sum(sizes[name] for name in loaded)
    crypto = sum(size for name, size in sizes.items() if name.startswith("zts/crypto/"))
    print(
        f"{arch}: {total} bytes of .mpy, of which {running} run, {crypto} of these crypto; the rest is loaded when configured or asked for"
    )
    assert 0 < crypto < running < LIMIT
