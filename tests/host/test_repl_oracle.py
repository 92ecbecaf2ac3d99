"""The dialogues that ours is held to, at MicroPython's own prompt."""

import re
import subprocess

import pytest

import board
from dialogues import ALL, BANNER

_TRACEBACK = re.compile(rb"(?:Traceback \(most recent call last\):\r\n(?:  File [^\r]*\r\n)*)?(\w+(?:Error|Interrupt)): [^\r]*\r\n")


def _answer(typed: bytes) -> bytes:
    """What it says from its first prompt on. Its newlines are \\n or \\r\\n, as its terminal has it."""
    done = subprocess.run([board.MICROPYTHON, "-i", "-c", ""], input=typed, capture_output=True, timeout=60)
    said = re.sub(rb"\r?\n", b"\r\n", done.stdout)
    banner, prompt, answer = said.partition(b">>> ")
    assert banner.startswith(b"MicroPython ") and prompt
    answer = answer.replace(banner, BANNER)
    answer, end, _ = answer.rpartition(b"OK\r\n" if answer.endswith(b">OK\r\n") else b"\r\n")
    assert end  # what it says to the end of its input
    # The window is MicroPython's own.
    answer = answer.replace(b"R\x01\x80\x00\x01", b"R\x01{WINDOW}\x01")
    return _TRACEBACK.sub(rb"{\1}", answer)


@pytest.mark.parametrize(("typed", "said"), [pytest.param(typed, said, id=what) for what, typed, said in ALL])
def test_micropython_answers_so(typed: bytes, said: bytes) -> None:
    assert _answer(typed) == said
