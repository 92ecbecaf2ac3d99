"""Every fuzz target for a fixed number of inputs, always the same ones; `make fuzz` goes on from there."""

import importlib
import random
import time
from collections.abc import Callable

import pytest

import board
from fuzz.feed import mutate

FUZZ = board.TESTS / "fuzz"
HELPERS = {"feed", "hostile", "run"}
NAMES = sorted({path.stem for path in FUZZ.glob("*.py")} - HELPERS)
RUNS = {
    "message_1": 400,
    "message_2": 400,
    "enrolment": 400,
    "session_bytes": 500,
    "mqtt_broker": 400,
    "mqtt_client": 400,
    "config_files": 600,
}
RUNS_OTHERWISE = 5000


def _round(one: Callable[[bytes], None], seeds: list[bytes], runs: int) -> None:
    rng = random.Random(1)
    for data in [*seeds, *(mutate(rng, seeds) for _ in range(runs - len(seeds)))]:
        try:
            one(data)
        except Exception as error:
            raise AssertionError(f"this input breaks the promise: {data!r}") from error


@pytest.mark.parametrize("name", NAMES)
def test_a_round(name: str) -> None:
    target = importlib.import_module(f"fuzz.{name}")
    runs = RUNS.get(name, RUNS_OTHERWISE)
    start = time.perf_counter()
    _round(target.one, target.SEEDS, runs)
    print(f"{name}: {runs} inputs, {runs / (time.perf_counter() - start):.0f}/s")


def test_a_broken_promise_is_noticed() -> None:
    def one(data: bytes) -> None:
        assert b"\xff" not in data

    with pytest.raises(AssertionError, match="this input breaks the promise"):
        _round(one, [b"abc"], 1000)
