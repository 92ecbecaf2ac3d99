"""One question to one of the agent's own services, `zts-NAME`: all of it out, then all of the answer in. PROTOCOL.md, "Sessions"."""

import asyncio
import json
from typing import Any

from zts import wire
from zts.errors import StreamReset
from zts_gateway.client import PATIENCE_MS, Meeting, open_stream
from zts_gateway.ui import Exit, Failure, failure_of

_ANSWER_BYTES = 4096  # an honest answer to one question has about 500


async def ask(meeting: Meeting, name: str, said: bytes, denied: str) -> dict[str, Any]:
    """The JSON object that the service answers. Raises Failure; `denied` is the sentence for a device that does not let us in."""
    try:
        async with asyncio.timeout(PATIENCE_MS / 1000):
            stream = await open_stream(meeting, name)
            await stream.send(said)
            stream.finish()
            answer = bytearray()
            while len(answer) <= _ANSWER_BYTES and (data := await stream.read()):
                answer += data
    except StreamReset as reset:
        raise reset_failure(reset, meeting, denied) from None
    except TimeoutError:
        raise failure_of(wire.TRUNCATED, f"@{meeting.name}") from None
    try:
        told = json.loads(answer) if len(answer) <= _ANSWER_BYTES else None
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise failure_of(wire.PROTO, f"@{meeting.name}")
    return told


def reset_failure(reset: StreamReset, meeting: Meeting, denied: str) -> Failure:
    return Failure(Exit.DENIED, f"@{meeting.name} {denied}") if reset.code == wire.DENIED else failure_of(reset.code, f"@{meeting.name}")
