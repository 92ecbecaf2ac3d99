"""SECURITY.md: every attack has its row, every row a state, and every test it names is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "SECURITY.md").read_text()
ROWS = re.findall(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", TEXT, re.MULTILINE)


def test_all_rows_are_there_and_each_says_its_state() -> None:
    assert [int(row[0]) for row in ROWS] == list(range(1, 26))
    assert all(row[2].split(",")[0] in ("closed", "accepted", "not yet") for row in ROWS)


def test_every_test_it_names_exists_and_every_closed_row_names_one() -> None:
    defined = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        defined |= set(re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)) | {path.name}
    named = set(re.findall(r"`(test_[\w.]+)`", TEXT))
    assert not named - defined
    for number, _, state, by in ROWS:
        assert not state.startswith("closed") or re.search(r"`test_\w+`", by), number
