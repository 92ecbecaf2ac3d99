"""The service repl end to end: client, relay, agent and MicroPython, on a virtual board and on the unix port alone."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_lab import Device, Owner, reading, reset_code
from chaos_proxy import ChaosProxy
from device_process import HTTP, DeviceProcess
from relay_process import RelayProcess
from repl_lab import RAW, REPL, BoardAgent, Person, at_prompt
from zts import identity, line, wire

INTERRUPT_S = 1.0  # what a person may wait for Ctrl-C
_BOTH = {**REPL, **HTTP}


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[RelayProcess]:
    with RelayProcess(tmp_path / "relay") as relay:
        yield relay


@contextlib.asynccontextmanager
async def _board(relay: RelayProcess, folder: Path, **options: Any) -> AsyncIterator[tuple[Owner, Device, BoardAgent]]:
    assert relay.join
    owner = await Owner.join(relay.join)
    device = await owner.invite("sensor42")
    async with BoardAgent(folder, device, **options) as agent:
        try:
            yield owner, device, agent
        except BaseException:
            await asyncio.sleep(0.5)  # for what it says of this
            print(agent.said.decode(errors="replace"))
            raise


async def _heap(person: Person) -> int:
    output, _ = await person.run(b"import gc; gc.collect(); print(gc.mem_alloc())")
    return int(output)


# --- programs ----------------------------------------------------------------------------------------------------------


def test_programs(relay: RelayProcess, tmp_path: Path) -> None:
    async def go() -> None:
        async with _board(relay, tmp_path / "board", services=_BOTH) as (owner, device, _), owner.session(device) as session:
            assert (wire.SERVICE_REPL, "repl") in session.services
            async with at_prompt(session) as person:
                for program, output, told in (
                    (b"print(1, 2.5, 'x', sep='-', end='!')", b"1-2.5-x!", b""),
                    (b"print('a' * 5000)", b"a" * 5000 + b"\r\n", b""),
                    (b"x = 7", b"", b""),
                    (b"print(x)", b"7\r\n", b""),
                    (b"import __main__\nprint(__main__.x, __name__)", b"7 __main__\r\n", b""),
                    (b"1/0", b"", b"ZeroDivisionError: divide by zero\r\n"),
                    (b"def f(): raise ValueError(5)\nprint(6)\nf()", b"6\r\n", b'  File "<stdin>", line 1, in f\r\nValueError: 5\r\n'),
                    (b"x x", b"", b"SyntaxError: invalid syntax\r\n"),
                    (b"bytearray(1 << 30)", b"", b"MemoryError: memory allocation failed, allocating 1073741824 bytes\r\n"),
                    (b"def f(): f()\nf()", b"", b"RuntimeError: maximum recursion depth exceeded\r\n"),
                    (b"raise GeneratorExit", b"", b"GeneratorExit: \r\n"),
                    (b"raise KeyboardInterrupt", b"", b"KeyboardInterrupt: \r\n"),
                    (b"raise ValueError('a\\nb:\\n')", b"", b"ValueError: a\r\nb:\r\n\r\n"),
                    (b"import io, sys\nf = io.StringIO()\nprint(8, file=f)\nprint(f.getvalue(), file=sys.stdout)", b"8\r\n\r\n", b""),
                ):
                    said = await person.run(program)
                    assert said[0] == output and said[1].endswith(told) and bool(said[1]) == bool(told), (program, said)
                    assert b"zts_agent" not in said[1]
                assert (await person.run(b"1/0"))[1].startswith(
                    b'Traceback (most recent call last):\r\n  File "<stdin>", line 1, in <module>\r\n'
                )
            # The page is served as before, from another stream of this session.
            assert (await reading(session))["name"] == "sensor42"
            # The variables outlive the stream, as they do a cable.
            async with at_prompt(session, raw=False) as person:
                await person.type(b"x\r")
                assert await person.until(b">>> ") == b"x\r\n7\r\n>>> "

    asyncio.run(go())


def test_a_soft_reset_is_one_for_the_programs_alone(relay: RelayProcess, tmp_path: Path) -> None:
    resets = (
        (b"\x04", b"OK\r\n"),
        (b"import machine; machine.soft_reset()\x04", b"OK\x04\x04"),
        (b"import sys; sys.exit(3)\x04", b"OK\x04\x04"),
    )

    async def go() -> None:
        async with _board(relay, tmp_path / "board") as (owner, device, agent), owner.session(device) as session:
            (agent.flash / "mine.py").write_text("n = 1\n")
            async with at_prompt(session) as person:
                for typed, said in resets:
                    change = b"import sys, os, mine\nmine.n += 1\nx = mine.n\nsys.path.append('/x')\nos.chdir('/agent')\nprint(x)"
                    assert await person.run(change) == (b"2\r\n", b"")
                    await person.type(typed)
                    assert await person.until(RAW) == said + b"MPY: soft reboot\r\n" + RAW
                    check = b"import sys, os, gc\nprint('x' in globals(), 'mine' in sys.modules, '/x' in sys.path, os.getcwd())"
                    assert await person.run(check) == (b"False False False /\r\n", b"")
                # However often: nothing is left behind.
                before = await _heap(person)
                for _ in range(20):
                    await person.run(b"import mine; x = bytearray(1000)")
                    await person.type(b"\x04")
                    await person.until(RAW)
                assert await _heap(person) < before + 1000
            assert agent.state["boots"] == 1

    asyncio.run(go())


_NO_VIRTUAL_TIMERS = """\
        import machine as chip
        class Timer(chip.Timer):
            def __init__(self, id=-1, **options):
                if id == -1: raise ValueError("invalid Timer number")
                super().__init__(id, **options)
        chip.Timer = Timer
"""


def test_an_esp32_without_virtual_timers(relay: RelayProcess, tmp_path: Path) -> None:
    async def go() -> None:
        async with _board(relay, tmp_path / "board", setup=_NO_VIRTUAL_TIMERS) as (owner, device, _), owner.session(device) as session:
            for _ in range(2):
                async with at_prompt(session) as person:
                    await person.type(b"print('go')\nwhile True: pass\x04")
                    await person.until(b"go\r\n")
                    await asyncio.sleep(0.3)
                    await person.type(b"\x03")
                    assert (await person.until(b"\x04>")).endswith(b"KeyboardInterrupt: \r\n\x04>")

    asyncio.run(go())


def test_a_program_that_takes_all_memory_gives_it_back(relay: RelayProcess, tmp_path: Path) -> None:
    async def go() -> None:
        async with _board(relay, tmp_path / "board", services=_BOTH) as (owner, device, agent):
            async with owner.session(device) as session:
                async with at_prompt(session) as person:
                    await person.type(b"kept = []\nwhile True: kept.append(bytearray(300))\x04")
                    said = await person.until(RAW)
                    assert b"\nMemoryError: " in said and said.endswith(b"\r\n\x04MPY: soft reboot\r\n" + RAW), said
                    assert await person.run(b"print('kept' in globals())") == (b"False\r\n", b"")
                await reading(session)
                # Where the soft reset does not reach, the board has to start anew.
                person = Person(session.open("repl"))
                await person.until(b">>> ")
                await person.type(b"\x01import time\ntime.kept = []\nwhile True: time.kept.append(bytearray(300))\x04")
                await session.wait_over()
            await agent.until(lambda: agent.count("online") == 2)
            async with owner.session(device) as session:
                await reading(session)
            assert agent.state["boots"] == 2

    asyncio.run(go())


_ASYNCIO = b"""
import asyncio
async def count():
    for i in range(3):
        print(i)
        await asyncio.sleep(0.01)
async def nap():
    await asyncio.sleep(0.05)
"""


def test_programs_have_an_event_loop_of_their_own(relay: RelayProcess, tmp_path: Path) -> None:
    async def go() -> None:
        async with _board(relay, tmp_path / "board", services=_BOTH) as (owner, device, _), owner.session(device) as session:
            async with at_prompt(session) as person:
                assert await person.run(_ASYNCIO + b"asyncio.run(count())") == (b"0\r\n1\r\n2\r\n", b"")
                # A task that was made waits for the next run, as at the cable; its error does not come to the agent.
                assert await person.run(b"task = asyncio.create_task(count())") == (b"", b"")
                assert await person.run(b"asyncio.run(nap())") == (b"0\r\n1\r\n2\r\n", b"")
                _, told = await person.run(b"async def bad(): 1/0\nasyncio.run(bad())")
                assert told.endswith(b"ZeroDivisionError: divide by zero\r\n")
                _, told = await person.run(b"asyncio.current_task()")
                assert told.endswith(b"RuntimeError: no running event loop\r\n")
                await person.type(b"asyncio.create_task(count())\x04\x04")
                await person.until(RAW)
                assert await person.run(_ASYNCIO + b"asyncio.run(nap())") == (b"", b"")
            for _ in range(3):
                await reading(session)

    asyncio.run(go())


def test_input(relay: RelayProcess, tmp_path: Path) -> None:
    async def go() -> None:
        async with _board(relay, tmp_path / "board") as (owner, device, _), owner.session(device) as session, at_prompt(session) as person:
            await person.type(b"print(repr(input('name? ')), input())\x04")
            await person.until(b"OKname? ")
            await person.type(b"ab\x7fc")
            await person.until(b"ab\x08 \x08c")
            await person.type(b"\r\nsecond\n")
            assert await person.until(b"\x04>") == b"\r\nsecond\r\n'ac' second\r\n\x04\x04>"
            await person.type(b"input()\x04\x04")
            assert (await person.until(b"\x04>")).endswith(b"EOFError: \r\n\x04>")

    asyncio.run(go())


# --- interrupts --------------------------------------------------------------------------------------------------------

_BUSY = {
    "a busy loop": b"print('go')\nwhile True: pass",
    "a sleep": b"import time\nprint('go')\ntime.sleep(1000)",
    "an event loop": b"import asyncio\nasync def f(): await asyncio.sleep(1000)\nprint('go')\nasyncio.run(f())",
    "input": b"print('go')\ninput()",
    "output": b"print('go')\nwhile True: print('x' * 50)",
    "short output": b"print('go')\nwhile True: print('x', end='')",
    "output now and then": b"import time\nprint('go')\nwhile True:\n print('x')\n time.sleep(0.01)",
}


def test_ctrl_c_stops_whatever_runs(relay: RelayProcess, tmp_path: Path) -> None:
    async def go() -> None:
        waits = []
        async with _board(relay, tmp_path / "board", services=_BOTH) as (owner, device, agent), owner.session(device) as session:
            async with at_prompt(session) as person:
                for what, program in _BUSY.items():
                    for pause in (0.12, 0.2, 0.3):  # a virtual board swallows a second interrupt within 0.1 s
                        await person.type(program + b"\x04")
                        await person.until(b"go\r\n")
                        await asyncio.sleep(pause)
                        start = time.perf_counter()
                        await person.type(b"\x03")
                        said = await person.until(b"\x04>")
                        waits.append(time.perf_counter() - start)
                        assert said.endswith(b"KeyboardInterrupt: \r\n\x04>") and waits[-1] < INTERRUPT_S, (what, pause, said[-200:], waits)
                # In the same record as the program, and before it.
                await person.type(b"while True: pass\x04\x03")
                assert (await person.until(b"\x04>")).endswith(b"KeyboardInterrupt: \r\n\x04>")
                await person.type(b"\x03\x03\x03" + b"print(5)\x04")
                assert await person.until(b"\x04>") == b"OK5\r\n\x04\x04>"
                # Hammered.
                await person.type(b"print('go')\nwhile True: pass\x04")
                await person.until(b"go\r\n")
                for _ in range(20):
                    await person.type(b"\x03")
                    await asyncio.sleep(0.01)
                await person.until(b"\x04>")
                # One that goes on.
                stubborn = b"n = 0\nprint('go')\nwhile n < 2:\n try:\n  while True: pass\n except KeyboardInterrupt:\n  n += 1\n  print(n)"
                await person.type(stubborn + b"\x04")
                await person.until(b"go\r\n")
                for count in (b"1\r\n", b"2\r\n"):
                    await person.type(b"\x03")
                    await person.until(count)
                assert await person.until(b"\x04>") == b"\x04\x04>"
                assert await person.run(b"print(9)") == (b"9\r\n", b"")
            await reading(session)
            assert agent.state["boots"] == 1 and agent.count("online") == 1
        print(f"Ctrl-C took {max(waits):.3f} s at most, {sum(waits) / len(waits):.3f} s on average")

    asyncio.run(go())


# --- floods ------------------------------------------------------------------------------------------------------------


def test_a_flood_of_output_meets_a_slow_reader(relay: RelayProcess, tmp_path: Path) -> None:
    lines = 20_000
    total = sum(len(f"{i} " + "x" * 45) + 2 for i in range(lines))
    assert total > 1_000_000

    async def go() -> None:
        async with _board(relay, tmp_path / "board", services=_BOTH) as (owner, device, agent), owner.session(device) as session:
            async with at_prompt(session) as person:
                before = await _heap(person)
                start = time.perf_counter()
                await person.type(b"import gc\nfor i in range(%d): print(i, 'x' * 45)\nprint(gc.mem_alloc())\x04" % lines)
                await asyncio.sleep(1)  # and nobody reads
                got = 0
                for _ in range(20):
                    got += len(await person.hear())
                    await asyncio.sleep(0.05)
                rest = await person.until(b"\x04\x04>")
                took = time.perf_counter() - start
                assert got + len(rest) > total
                while_printing = int(rest.split(b"\r\n")[-2])
                after = await _heap(person)
                print(f"{total} bytes in {took:.1f} s with a pause of 2 s, heap {before}, while printing {while_printing}, after {after}")
                assert after < before + 2_000
            await reading(session)
            assert agent.state["boots"] == 1

    asyncio.run(go())


def test_a_flood_of_junk_is_typed(relay: RelayProcess, tmp_path: Path) -> None:
    async def go() -> None:
        async with _board(relay, tmp_path / "board", services=_BOTH) as (owner, device, agent), owner.session(device) as session:
            async with at_prompt(session) as person:
                before = await _heap(person)
            # Neither what is no line message, nor a message that is cut off, nor bytes of every kind.
            stream = session.open("repl")
            await stream.opened()
            await stream.send(b"\x77\x00\x01x")
            assert await reset_code(stream) == wire.PROTO
            stream = session.open("repl")
            await stream.opened()
            await stream.send(line.data(b"print(1)")[:-1])
            stream.finish()
            assert await reset_code(stream) == wire.TRUNCATED
            junk = bytes(byte for byte in os.urandom(40_000) if byte != 0x04)  # an end of program would run it, perhaps for ever
            for begin in (b"", b"\r\x01", b"\r\x01\x05A\x01", b"\x05"):
                stream = session.open("repl")
                await stream.opened()
                person = Person(stream)

                async def hear(person: Person = person) -> None:
                    while await person.hear():
                        pass

                hearing = asyncio.create_task(hear())
                await person.type(begin + junk)
                stream.finish()
                await hearing
            # A program that is too long, told so.
            async with at_prompt(session) as person:
                for begin, end in ((b"", b"OK\x04"), (b"\x05A\x01", b"\x01\x04\x04")):
                    await person.type(begin)
                    await person.type(b"#" * 300_000 + b"\x04")
                    said = await person.until(b"\x04>")
                    assert end + b"MemoryError: the program has more than " in said and said.endswith(b" bytes\r\n\x04>"), said
                assert await person.run(b"print(9)") == (b"9\r\n", b"")
                await person.type(b"\x04")
                await person.until(RAW)
                assert await _heap(person) < before + 4_000
            await reading(session)
            assert agent.state["boots"] == 1

    asyncio.run(go())


# --- other clients, and none -------------------------------------------------------------------------------------------


def test_one_at_a_time(relay: RelayProcess, tmp_path: Path) -> None:
    async def go() -> None:
        async with (
            _board(relay, tmp_path / "board") as (owner, device, _),
            owner.session(device) as first,
            owner.session(device) as second,
        ):
            async with at_prompt(first) as person:
                assert await reset_code(second.open("repl")) == wire.BUSY
                assert await reset_code(first.open("repl")) == wire.BUSY
                assert await person.run(b"print(1)") == (b"1\r\n", b"")
            async with at_prompt(second) as person:
                assert await person.run(b"print(2)") == (b"2\r\n", b"")

    asyncio.run(go())


# PING and the end of silence, sooner than after 10 and 25 s.
_HASTY = "        from zts import wire; wire.PING_MS, wire.DEAD_MS = 500, 2_000\n"


@pytest.mark.parametrize("how", ["reset", "closed", "silent"])
def test_a_program_ends_with_its_client(relay: RelayProcess, tmp_path: Path, how: str) -> None:
    async def go() -> None:
        async with _board(relay, tmp_path / "board", services=_BOTH, setup=_HASTY) as (owner, device, agent):
            with ChaosProxy(identity.join_address(*relay.leg), 0) as way:
                near = owner.account
                host, number = identity.split_address(way.address)
                owner.account = near._replace(host=host, port=number)
                async with owner.session(device) as session:
                    person = Person(session.open("repl"))
                    await person.until(b">>> ")
                    await person.type(b"while True: pass\r\r")
                    await person.until(b"... \r\n")
                    # While it runs, the session lives on, longer than silence is allowed.
                    await asyncio.sleep(2.5)
                    assert not session.session.is_over()
                    start = time.perf_counter()
                    if how == "reset":
                        person.stream.reset(wire.OK)
                        async with at_prompt(session) as person:
                            assert await person.run(b"print(1)") == (b"1\r\n", b"")
                    elif how == "silent":
                        way.one_way_s = 3600
                        await agent.until(lambda: agent.count("session over"))
                    else:
                        way.cut()
                        await agent.until(lambda: agent.count("session over"))
                    print(f"{how}: free after {time.perf_counter() - start:.2f} s")
                    way.cut()
            owner.account = near
            async with owner.session(device) as session, at_prompt(session) as person:
                assert await person.run(b"print(2)") == (b"2\r\n", b"")
            assert agent.state["boots"] == 1

    asyncio.run(go())


def test_a_program_that_does_not_stop_meets_the_watchdog(relay: RelayProcess, tmp_path: Path) -> None:
    stubborn = b"while True:\n try:\n  while True: pass\n except BaseException:\n  pass\n"

    async def go() -> None:
        async with _board(relay, tmp_path / "board", watchdog_ms=5_000) as (owner, device, agent):
            async with owner.session(device) as session:
                person = Person(session.open("repl"))
                await person.until(b">>> ")
                await person.type(b"\x01" + stubborn + b"\x04")
                await person.until(b"OK")
                # As long as its client is there, it may.
                await asyncio.sleep(6)
                await person.type(b"\x03")
                assert agent.state["boots"] == 1 and not session.session.is_over()
                start = time.perf_counter()
                person.stream.reset(wire.OK)
                await agent.until(lambda: agent.count("online") == 2)
                print(f"online again after {time.perf_counter() - start:.2f} s")
            assert agent.state["boots"] == 2
            async with owner.session(device) as session, at_prompt(session) as person:
                assert await person.run(b"print(1)") == (b"1\r\n", b"")

    asyncio.run(go())


# --- the unix port alone -----------------------------------------------------------------------------------------------


def test_without_timer_and_terminal(relay: RelayProcess, tmp_path: Path) -> None:
    """Whoever prints is interrupted, and what it prints leaves at once."""
    assert relay.join
    owner = asyncio.run(Owner.join(relay.join))
    device = asyncio.run(owner.invite("pi"))

    async def go() -> None:
        async with owner.session(device) as session:
            async with at_prompt(session) as person:
                assert await person.run(b"print(1)\n1/0") == (
                    b"1\r\n",
                    b'Traceback (most recent call last):\r\n  File "<stdin>", line 2, in <module>\r\nZeroDivisionError: divide by zero\r\n',
                )
                await person.type(b"import time\nprint('now')\ntime.sleep(1)\nprint('later')\x04")
                await person.until(b"now\r\n")
                start = time.perf_counter()
                await person.until(b"\x04>")
                assert time.perf_counter() - start > 0.5
                await person.type(b"while True: print('x')\x04")
                await person.until(b"x\r\n")
                await person.type(b"\x03")
                assert (await person.until(b"\x04>")).endswith(b"KeyboardInterrupt: \r\n\x04>")
            await reading(session)

    with DeviceProcess(tmp_path / "device", device.line, _BOTH) as process:
        device.public = bytes.fromhex(process.state["public"])
        asyncio.run(go())


def test_its_entry_has_a_kind_and_nothing_else(relay: RelayProcess, tmp_path: Path) -> None:
    process = DeviceProcess(tmp_path / "device", None, {"repl": {"kind": "repl", "target": "here"}})
    process.start()
    try:
        with pytest.raises(AssertionError, match=r"services\.repl: needs a kind and nothing else"):
            process.wait_for("online")
    finally:
        process.kill()
