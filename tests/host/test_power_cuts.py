"""Switch records and whole updates on littlefs, under the real MicroPython, with power that fails at any byte."""

from pathlib import Path

import board
from zts_gateway.stage import stage_slots


def test_on_littlefs(tmp_path: Path) -> None:
    board.compile_edge(tmp_path)
    stage_slots(tmp_path / "zts_firmware" / "slots.mpy")
    (tmp_path / "pipes.py").write_text((board.TESTS / "shared" / "pipes.py").read_text())
    printed = board.run_tests(board.TESTS / "littlefs_cuts.py", tmp_path, heap="1M")
    print("\n".join(line for line in printed.splitlines() if "littlefs" in line))
