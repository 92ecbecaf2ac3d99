"""A command that waits for something, and what ends it."""

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import Any


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Runs `work`; Ctrl-C and a terminating signal cancel it, so that it cleans up first."""

    async def supervised() -> Any:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()
        received: list[int] = []

        def stop(number: int) -> None:
            received.append(number)
            task.cancel()

        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stop, number)
        try:
            return await task
        except asyncio.CancelledError:
            if received:
                sys.exit(128 + received[0])
            raise

    return asyncio.run(supervised())
