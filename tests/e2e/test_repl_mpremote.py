"""Unmodified mpremote, through `zts connect --rfc2217`, relay and agent, at the board of the service repl."""

import asyncio
import hashlib
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from agent_lab import WAIT_S, Owner, reading
from chaos_proxy import ChaosProxy
from device_process import HTTP
from relay_process import RelayProcess
from repl_lab import REPL, BoardAgent
from whole_network import Running, zts
from zts import identity
from zts_gateway.addressbook import Book, Card
from zts_gateway.virtual_board import VirtualBoard

COPY_BYTES = 65_536


async def _mpremote(address: str, *arguments: str) -> tuple[int, bytes, float]:
    """(exit code, what it said, seconds)."""
    command = [sys.executable, "-m", "mpremote", "connect", address, *arguments]
    start = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), 4 * WAIT_S)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return process.returncode, said, time.perf_counter() - start


async def _use_mpremote(address: str, flash: Path, folder: Path) -> dict[str, float]:
    """What people do with mpremote, at the port `address` of a board with that flash; seconds each."""
    folder.mkdir()
    data = os.urandom(COPY_BYTES)
    (folder / "data").write_bytes(data)
    (folder / "script.py").write_text("import sys\nfor i in range(3): print('line', i)\nprint(sys.implementation.name)\n")
    times = {}

    async def check(what: str, code: int, expected: bytes, *arguments: str) -> bytes:
        got, said, times[what] = await _mpremote(address, *arguments)
        said = said.replace(b"\r\n", b"\n")  # the unix port's own console has no terminal that returns
        assert got == code and expected in said, (what, got, said)
        return said

    await check("exec", 0, b"2", "exec", "print(1+1)")
    said = await check("traceback", 1, b"ZeroDivisionError: divide by zero", "exec", "1/0")
    assert b'Traceback (most recent call last):\n  File "<stdin>", line 1, in <module>\n' in said
    await check("run", 0, b"line 0\nline 1\nline 2\nmicropython\n", "run", str(folder / "script.py"))
    await check("fs cp, 64 KB", 0, b"cp ", "fs", "cp", str(folder / "data"), ":/data")
    assert (flash / "data").read_bytes() == data
    await check("sha256sum", 0, hashlib.sha256(data).hexdigest().encode(), "fs", "sha256sum", ":/data")
    await check("soft-reset", 0, b"", "soft-reset")
    await check("variables", 0, b"5", "exec", "x = 5", "exec", "print(x)")
    await check("resume", 0, b"5", "resume", "exec", "print(x)")
    await check("machine.soft_reset()", 0, b"", "exec", "import machine; machine.soft_reset()")
    await check("variables are gone", 1, b"NameError", "exec", "print(x)")
    return times


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """The times at a board's own port."""
    folder = tmp_path_factory.mktemp("local")
    with VirtualBoard(folder / "flash") as board:
        return asyncio.run(_use_mpremote(board.port, folder / "flash", folder / "files"))


@pytest.mark.parametrize("one_way_ms", [0, 100])
def test_mpremote(tmp_path: Path, local: dict[str, float], one_way_ms: int) -> None:
    """Beside the same commands at the board's own port."""

    async def go() -> dict[str, float]:
        with RelayProcess(tmp_path / "relay") as relay:
            assert relay.join
            owner = await Owner.join(relay.join)
            device = await owner.invite("sensor42")
            async with BoardAgent(tmp_path / "board", device, {**REPL, **HTTP}) as agent:
                with ChaosProxy(identity.join_address(*relay.leg), one_way_ms / 1000) as way:
                    host, number = identity.split_address(way.address)
                    book = Book(tmp_path / "home")
                    book.save_identity(replace(owner.me, account=owner.account._replace(host=host, port=number)))
                    book.save_card(Card("sensor42", device.public, device.pairing))
                    with Running(tmp_path / "home", tmp_path / "run", "connect", "@sensor42:repl", "--rfc2217") as client:
                        address = "rfc2217://" + await asyncio.to_thread(client.line)
                        assert f"mpremote connect {address}" in client.err
                        times = await _use_mpremote(address, agent.flash, tmp_path / "far files")
                    script = tmp_path / "far files" / "script.py"
                    ran = await asyncio.to_thread(zts, tmp_path / "home", "run", "@sensor42", str(script))
                    assert ran.returncode == 0 and "line 2" in ran.stdout, ran.stderr
                    copied = await asyncio.to_thread(zts, tmp_path / "home", "cp", str(script), "@sensor42:/copied.py")
                    assert copied.returncode == 0 and (agent.flash / "copied.py").read_bytes() == script.read_bytes(), copied.stderr
                async with owner.session(device) as session:
                    await reading(session)
                assert agent.state["boots"] == 1
        return times

    times = asyncio.run(go())
    for what, seconds in times.items():
        print(f"{what}: {seconds:.2f} s at a round trip of {2 * one_way_ms} ms, {local[what]:.2f} s at the board's own port")
