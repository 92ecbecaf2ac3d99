"""`zts flash` cut short at random moments, by a power cut or a killed `zts`: run again, it always ends in the same verified state.

ZTS_SEED draws other moments, ZTS_KILLS more of them.
"""

import contextlib
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cable_tap import CableTap
from flash_lab import ALL_BYTES, LAST_BYTES, fetch, is_verified, state_of
from whole_network import WAIT_S, Network, network
from zts_gateway.virtual_board import VirtualBoard

KILLS = int(os.environ.get("ZTS_KILLS", "50"))
LANES = 2  # most of a run is waiting
SEED = int(os.environ.get("ZTS_SEED", "4"))


def test_cut_short_at_random_moments_it_heals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either side is killed after a random number of bytes on the cable, again and again, until a run comes through."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))  # a killed `zts` cannot tidy up
    with network(tmp_path / "net", "embedded") as net, ThreadPoolExecutor(LANES) as pool:
        lanes = [pool.submit(_lane, net, tmp_path, lane) for lane in range(LANES)]
        kills, rounds = (sum(column) for column in zip(*(lane.result() for lane in lanes), strict=True))
    assert kills >= KILLS
    print(f"{kills} kills in {rounds} rounds, seed {SEED}")


def _lane(net: Network, tmp_path: Path, lane: int) -> tuple[int, int]:
    """(kills, rounds): its part of them, one board after the other."""
    chance = random.Random(f"{SEED} {lane}")
    kills = rounds = 0
    part = -(-KILLS // LANES)
    while kills < part:
        rounds += 1
        name = f"cut{lane}-{rounds}"
        with VirtualBoard(tmp_path / f"flash-{name}") as board, CableTap(tmp_path / f"cable-{name}", board.port) as tap:
            public = ""
            done = False
            while not done:
                victim = chance.choice(["board", "flash"])
                after = chance.randrange(chance.choice([ALL_BYTES, LAST_BYTES]))
                done, killed = _run_and_kill(net, board, tap, name, victim, after if kills < part else None)
                kills += killed
                with contextlib.suppress(FileNotFoundError, KeyError):
                    now = state_of(board)["public"]
                    assert public in ("", now), (SEED, name, kills, "the keys were cut anew")
                    public = now
            is_verified(net, board, name)
            assert state_of(board)["public"] == public
            fetch(net, name)
    return kills, rounds


def _run_and_kill(net: Network, board: VirtualBoard, tap: CableTap, name: str, victim: str, after: int | None) -> tuple[bool, bool]:
    """(whether the run came through, whether somebody was killed)."""
    killed = False
    with net.run(f"{name}-{time.monotonic_ns()}", "flash", str(tap.link), "--name", f"@{name}") as run:

        def kill() -> None:
            nonlocal killed
            killed = True
            if victim == "flash":
                run.kill()
            else:
                board.cut_power()
                board.start()

        if after is not None:
            tap.at(after, kill)
        code = run.process.wait(WAIT_S)
        tap.never()
        if code:
            assert killed and (victim == "flash" or run.err.splitlines()[-1].startswith(("zts: 9:", "zts: 4:"))), (code, run.err)
            assert "Traceback" not in run.err, run.err
        return code == 0, killed
