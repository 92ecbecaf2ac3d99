"""Every file of tests/shared again, under the real MicroPython in a heap of 256 KiB: about what 128 KiB is on a 32-bit chip."""

from pathlib import Path

import pytest

import board
from zts_gateway.stage import stage_slots

FILES = sorted((board.TESTS / "shared").rglob("test_*.py"))
LIMIT = 80_000  # bytes of .mpy files on a board


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
    print(printed.splitlines()[-1])


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


@pytest.mark.parametrize("arch", board.ARCHES)
def test_compiles_for_every_board(arch: str, tmp_path: Path) -> None:
    total = board.compile_edge(tmp_path, arch)
    crypto = sum(path.stat().st_size for path in tmp_path.glob("zts/crypto/*.mpy"))
    print(f"{arch}: {total} bytes of .mpy, crypto {crypto}")
    assert 0 < crypto < total < LIMIT
