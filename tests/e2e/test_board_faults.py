"""A board whose agent fails again and again, as one without memory does, starts anew."""

import asyncio
from pathlib import Path

from agent_lab import Owner
from relay_process import RelayProcess
from repl_lab import BoardAgent

_NO_MEMORY = """\
        from zts_agent import agent as settings, mqtt
        settings.FIRST_WAIT_MS = settings.LONGEST_WAIT_MS = 20
        async def run(self, on_tick):
            raise MemoryError
        mqtt.Client.run = run
"""


def test_a_board_that_fails_again_and_again_starts_anew(tmp_path: Path) -> None:
    async def go() -> None:
        with RelayProcess(tmp_path / "relay") as relay:
            assert relay.join
            owner = await Owner.join(relay.join)
            device = await owner.invite("sensor42")
            async with BoardAgent(tmp_path / "board", device, setup=_NO_MEMORY) as agent:
                await agent.until(lambda: agent.count("start") >= 2)
                assert 5 <= agent.count("fault") <= 11, agent.said

    asyncio.run(go())
