"""`zts update` against a device that answers what it should not, and what it says when this computer cannot compile for one."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import board
from zts import wire
from zts.errors import StreamReset
from zts_gateway import stage, status, updating
from zts_gateway.ui import Bar, Exit, Failure

BUILD = updating._Build(2822, [("zts/a.mpy", 3, "00" * 32), ("zts/b.mpy", 5000, "11" * 32)], [b"abc", b"d" * 5000])


class Stream:
    """A device's end of a stream, in memory: it answers each line or file with what the test wants, or resets."""

    def __init__(self, *answers: bytes | int, credit: int = 1 << 20, after: float = 0) -> None:
        self._after = after  # seconds, before it answers
        self._answers = list(answers)
        self._credit = credit
        self.sent = b""
        self.finished = False

    async def send(self, data: bytes) -> None:
        if len(self.sent) + len(data) > self._credit:
            await asyncio.Event().wait()
        self.sent += data
        await asyncio.sleep(0)

    async def readline(self) -> bytes:
        await asyncio.sleep(self._after)
        if not self._answers:
            await asyncio.Event().wait()
        answer = self._answers.pop(0)
        if isinstance(answer, int):
            raise StreamReset(answer)
        return answer

    def finish(self) -> None:
        self.finished = True


def _line(**said: Any) -> bytes:
    return json.dumps(said).encode() + b"\n"


def _offer(stream: Any) -> Any:
    return asyncio.run(updating._offer(stream, "x", BUILD, False))


def _send(stream: Any) -> bool:
    return asyncio.run(updating._send(stream, "x", BUILD.data, Bar("", 1)))


def _fails(code: Exit, call: Callable[[Any], Any], stream: Stream) -> str:
    with pytest.raises(Failure) as failure:
        call(stream)
    assert failure.value.code == code
    sentence = str(failure.value)
    assert sentence.isprintable()
    return sentence


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\n",
        b"1\n",
        b"[]\n",
        b"\xff\n",
        b"[" * 4000 + b"\n",
        _line(),
        _line(error=1),
        _line(error="\x1b[2J"),
        _line(same=1, slot="b", lacking=[]),
        _line(same=False, slot="c", lacking=[]),
        _line(same=False, slot=["b"], lacking=[]),
        _line(same=False, slot="b", lacking=None),
        _line(same=False, slot="b", lacking="01"),
        _line(same=False, slot="b", lacking=[2]),
        _line(same=False, slot="b", lacking=[-1]),
        _line(same=False, slot="b", lacking=[1, 0]),
        _line(same=False, slot="b", lacking=[0, 0]),
        _line(same=False, slot="b", lacking=[0] * 100),
        _line(same=False, slot="b", lacking=[[0]]),
        _line(same=False, slot="b", lacking=["0"]),
    ],
)
def test_a_device_that_talks_nonsense(said: bytes) -> None:
    assert "update zts on both" in _fails(Exit.LOST, _offer, Stream(said))


def test_what_is_lacking_is_asked_for_and_nothing_else() -> None:
    stream = Stream(_line(same=False, slot="b", lacking=[1]))
    assert _offer(stream)["lacking"] == [1]
    head, *files = [json.loads(line) for line in stream.sent.splitlines()]
    assert head["files"] == len(files) == 2 and head["mpy"] == 2822 and head["check"] is False
    assert files[0] == ["zts/a.mpy", 3, "00" * 32]


@pytest.mark.parametrize("word", sorted(updating._REFUSALS))
def test_a_refusal_says_what_to_do(word: str) -> None:
    code = updating._REFUSALS[word][0]
    assert "@x goes on with its agent" in _fails(code, _offer, Stream(_line(error=word)))
    assert "@x goes on with its agent" in _fails(code, _send, Stream(_line(error=word)))
    # It may refuse while the client waits for credit.
    assert "@x goes on with its agent" in _fails(code, _send, Stream(_line(error=word), credit=100))


def test_the_device_refuses_with_these_words_and_one_for_our_own_mistakes() -> None:
    source = (board.EDGE / "zts_agent" / "update.py").read_text()
    words = {part.split('"')[0] for part in source.split('FormatError("')[1:]} | {"files", "cut", "space"}
    assert words == set(updating._REFUSALS) | {"manifest"}


def test_a_connection_that_is_lost() -> None:
    assert "interrupted" in _fails(Exit.LOST, _offer, Stream(wire.TRUNCATED))
    assert "interrupted" in _fails(Exit.LOST, _send, Stream(wire.TRUNCATED, credit=100))
    stream = Stream(_line(boots="b"), after=0.05)
    assert _send(stream) is True
    assert stream.sent == b"abc" + b"d" * 5000 and stream.finished


def test_a_connection_that_is_lost_after_the_last_byte_may_have_lost_the_answer() -> None:
    assert _send(Stream(wire.TRUNCATED, after=0.05)) is False


def _said(**changes: Any) -> dict[str, Any]:
    slot = {"boots": "a", "trial": False, "why": 0}
    return {"version": "1.0", "runtime": "micropython 1.29.0 on x", "mpy": 2822, "slot": slot, **changes}


def test_a_device_for_which_nothing_can_be_compiled() -> None:
    assert updating._arch("x", _said()) == "x64"
    for changes, words in (
        ({"mpy": None, "slot": None, "runtime": "cpython 3.13 on linux"}, "pip install --upgrade zts"),
        ({"slot": None}, "zts flash"),
        ({"mpy": 6}, "update zts here"),
        ({"mpy": 6 | 60 << 10}, "update zts here"),
    ):
        with pytest.raises(Failure, match=words) as failure:
            updating._arch("x", _said(**changes))
        assert failure.value.code == Exit.USAGE


def test_a_device_with_another_mpy_version_is_told_which() -> None:
    with pytest.raises(Failure, match=r"@x loads \.mpy files of version 6\.2, and this computer compiles 6\.3") as failure:
        updating._build("x", 6 | 2 << 8 | 2 << 10, "x64")
    assert failure.value.code == Exit.USAGE


@pytest.mark.parametrize("arch", board.ARCHES)
def test_a_build_says_for_which_machine_it_is(arch: str, tmp_path: Path) -> None:
    files = stage.stage(tmp_path, arch)
    assert stage.arch_of(stage.mpy_of(tmp_path)) == arch
    said = json.loads(stage.manifest(tmp_path, files))
    assert said["mpy"] == stage.mpy_of(tmp_path)
    paths = [path for path, _, _ in said["files"]]
    assert paths == sorted(set(paths)) and len(paths) == len(files) and "zts_agent/main.mpy" in paths


@pytest.mark.parametrize(
    "slot",
    [
        1,
        "a",
        [],
        {},
        {"boots": "c", "trial": False, "why": 0},
        {"boots": "a", "trial": 0, "why": 0},
        {"boots": "a", "trial": False, "why": "\x1b"},
    ],
)
def test_a_status_with_a_strange_slot_is_refused(slot: Any) -> None:
    honest = {
        "version": "1",
        "runtime": "r",
        "mpy": 2822,
        "uptime_ms": 1,
        "heap_free": 1,
        "heap_used": 1,
        "boots": 1,
        "sessions": 1,
        "aes": "a",
        "ghash": "g",
        "x25519": "x",
        "aead_kbps": 1,
        "x25519_ms": 1,
        "refused": {},
        "slot": {"boots": "b", "trial": True, "why": 3, "more": 1},
    }
    assert status._read(honest, "x")["slot"] == {"boots": "b", "trial": True, "why": 3}
    with pytest.raises(Failure):
        status._read({**honest, "slot": slot}, "x")
