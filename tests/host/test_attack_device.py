"""A device that is enrolled, but evil: whatever it answers and sends once its keys are proved, `zts` ends as documented."""

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

from attack_stage import Actor, Stage, stage
from zts import control, frame, session, wire
from zts.errors import StreamReset
from zts_gateway import client
from zts_gateway.ui import Exit, Failure

_OFFER = {wire.TLV_ACCOUNT: bytes(8), wire.TLV_MAX_RECORD: b"\x04\x10", wire.TLV_WINDOW: b"\0\0\x10\0"}
ANSWERS: list[dict[int, bytes]] = [
    {wire.TLV_CODE: b"\x63"},
    {wire.TLV_CODE: b"\0"},
    {wire.TLV_CODE: b"\0", **_OFFER, wire.TLV_MAX_RECORD: b"\0\0"},
    {wire.TLV_CODE: b"\0", **_OFFER, wire.TLV_WINDOW: bytes(4)},
    {wire.TLV_CODE: b"\0", **_OFFER, 0xFE: b"critical"},
    {wire.TLV_CODE: b"\0", **_OFFER, wire.TLV_ACCOUNT: bytes(7)},
    {wire.TLV_SESSIONS_LEFT: b"\1", **_OFFER},
    *({wire.TLV_CODE: bytes([code])} for code in range(1, 13)),
]

_INFO = bytes([wire.FRAME_INFO, 0])
# (stream, frame) instead of INFO, once the keys are proved.
FRAMES: list[list[tuple[int, bytes]]] = [
    [(0, frame.resume([]))],
    [(0, bytes([wire.FRAME_RESUME]) + bytes(5))],
    [(0, _INFO + b"\1\5ab")],
    [(0, _INFO + b"\1\x04../a")],
    [(0, _INFO + b"\1\0")],
    [(0, _INFO + b"\1\x21" + b"a" * 33)],
    [(0, bytes([wire.FRAME_INFO, 2]))],
    [(0, bytes([wire.FRAME_INFO, 1]) + b"\1\1a" * 30)] * 4,
    [(0, bytes([wire.FRAME_PING]) + bytes(8))],
    [(0, bytes([wire.FRAME_PING]))],
    [(0, b"\0")],
    [(0, b"\xff" * 100)],
    [(0, bytes([wire.FRAME_GOAWAY, 99]) + bytes(4))],
    *([(0, bytes([wire.FRAME_GOAWAY, code]) + bytes(4))] for code in range(13)),
    [(1, frame.open_("who"))],
    [(1, bytes([wire.FRAME_DATA]) + b"unasked")],
    [(0, bytes([wire.FRAME_DATA]) + b"unasked")],
    [(0xFFFFFFFF, frame.rst(0))],
]


async def _meets(stage: Stage, actor: Actor) -> Failure:
    owner, device = stage.owner, actor.device
    try:
        meeting = await asyncio.wait_for(
            client.meet(owner.me, owner.account, device.name, device.public, device.pairing, 5_000, lambda _: None), 60
        )
    except Failure as failure:
        return failure
    try:
        # INFO was good, and what came behind it was not.
        stream = meeting.link.open("who")
        await asyncio.wait_for(stream.opened(), 60)
    except StreamReset:
        return await meeting.wait_over()
    finally:
        await meeting.close()
    raise AssertionError("a session with a device that says such things")


def test_an_evil_device_ends_a_session_as_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[dict[str, Any]] = []
    codes: dict[int, int] = {}
    write, announce = control.write_message_2, session.Session.announce

    async def test() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: left.append(context))
        async with stage(tmp_path / "stage") as it, it.actor("evil") as evil:
            evil.responder._rate = evil.responder._burst = 1 << 30

            async def expect() -> None:
                failure = await _meets(it, evil)
                assert failure.code not in (Exit.OK, Exit.INTERNAL, Exit.USAGE), failure
                codes[int(failure.code)] = codes.get(int(failure.code), 0) + 1

            for fields in ANSWERS:
                monkeypatch.setattr(control, "write_message_2", lambda handshake, m1, _, fields=fields: write(handshake, m1, fields))
                await expect()
            monkeypatch.setattr(control, "write_message_2", write)
            for frames in FRAMES:

                def say(self: session.Session, _: object, frames: list[tuple[int, bytes]] = frames) -> None:
                    for stream, plain in frames:
                        self._seal(stream, plain)

                monkeypatch.setattr(session.Session, "announce", say)
                await expect()
            monkeypatch.setattr(session.Session, "announce", announce)
            assert not evil.visits
        gc.collect()

    asyncio.run(asyncio.wait_for(test(), 300))
    assert not left, left
    print(f"{len(ANSWERS)} answers and {len(FRAMES)} rows of frames of an evil device, exit codes {codes}")
