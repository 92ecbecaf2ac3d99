"""An asyncio loop in a thread of its own, so that a test can talk to it over blocking sockets."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")
_WAIT_S = 60.0


class LoopThread:
    """`with LoopThread() as thread:`; an exception in a callback of the loop fails the test at the end."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(self._note)
        self._thread = threading.Thread(target=self._main)
        self._errors: list[dict[str, Any]] = []

    def __enter__(self) -> "LoopThread":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_WAIT_S)
        self.loop.close()
        assert not self._errors, self._errors

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop; its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(_WAIT_S)

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in the loop; its result."""

        async def calling() -> T:
            return function(*arguments)

        return self.run(calling())

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def _note(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._errors.append(context)
