"""The device as shipped, in a heap of 256 KiB on 64 bits, over TLS: four streams at once, and no byte lost to old sessions."""

import asyncio
from pathlib import Path

import board
from agent_lab import Owner, get, read_all, reading
from device_process import DeviceProcess
from relay_process import RelayProcess

EARLY, LATE = 20, 200  # connects
ROUNDS = 10  # up to each, of which the best counts
ALLOWED = 1024  # bytes
# What TLS takes outside of this heap and a chip must have besides: 16 KiB for records in, 4 KiB out, and the session's state.
TLS_BYTES = 16384 + 4096 + 4096

_BULK = board.TESTS.parent / "hw-tests" / "bulk.py"

# A hundred handshakes a second, so that the test need not wait; and it says how much is free when no session is left.
_WATCH = """
from zts import wire
wire.HANDSHAKES_PER_S, wire.HANDSHAKE_BURST = 100, 400
import gc
from zts_agent import board
_log = board.log
def log(event, **fields):
    _log(event, **fields)
    if event in ("online", "session over"):
        import asyncio
        asyncio.create_task(say())
async def say():
    from zts_hw_bulk import longest_run
    # What looks like a pointer on the C stack keeps what it points to, for one collection or for a whole session.
    import asyncio
    free = 0
    for _ in range(20):
        await asyncio.sleep_ms(10)
        gc.collect()
        free = max(free, gc.mem_free())
    _log("memory", free=free, used=gc.mem_free() + gc.mem_alloc() - free, run=longest_run())
board.log = log
"""


def test_four_streams_at_once_and_no_leak(tmp_path: Path) -> None:
    with RelayProcess(tmp_path / "relay") as relay:
        assert relay.join
        owner = asyncio.run(Owner.join(relay.join))
        device = asyncio.run(owner.invite("sensor42"))
        with DeviceProcess(tmp_path / "device", device.line, setup=_WATCH, modules={"zts_hw_bulk": _BULK.read_text()}) as process:
            device.public = bytes.fromhex(process.state["public"])
            free = {0: int(process.wait_for("memory")["free"])}

            async def connect() -> int:
                async with owner.session(device) as session:
                    streams = [session.open("http") for _ in range(4)]
                    for stream in streams:
                        await stream.opened()
                    for stream in streams:
                        await stream.send(b"GET / HTTP/1.1\r\n\r\n")
                        stream.finish()
                    answers = await asyncio.gather(*[read_all(stream) for stream in streams])
                    assert all(answer.endswith(b"</html>\n") for answer in answers)
                    return int((await reading(session))["heap_free"])

            async def connect_once() -> None:
                async with owner.session(device) as session:
                    await get(session)

            lowest = asyncio.run(connect())
            for count in range(2, LATE + 1):
                asyncio.run(connect() if count % 10 == 0 else connect_once())
                process.wait_for("session over", count)
                for late in (EARLY, LATE):
                    if late - ROUNDS < count <= late:  # one line was for "online"
                        free[late] = max(free.get(late, 0), int(process.wait_for("memory", count + 1)["free"]))
            total = process.wait_for("memory")
            print(
                f"heap {total['free'] + total['used']}: free {free[0]} at start, {lowest} in a session, {free[EARLY]} after {EARLY} "
                f"connects, {free[LATE]} after {LATE}, {total['run']} of it in one piece; TLS takes about {TLS_BYTES} more on a chip"
            )
            assert free[LATE] >= free[EARLY] - ALLOWED
