"""The machine under the agent: clock, sockets, files, memory, limits. The only place here that knows which runtime it is.

`_host` (CPython) and `_device` (MicroPython) offer the same names.
"""

import json
import sys

TYPE_CHECKING = False
if TYPE_CHECKING or sys.implementation.name != "micropython":
    from ._host import BOARD as BOARD
    from ._host import MPY as MPY
    from ._host import OFFER as OFFER
    from ._host import READ as READ
    from ._host import RUNTIME as RUNTIME
    from ._host import SESSIONS as SESSIONS
    from ._host import STREAMS as STREAMS
    from ._host import boot as boot
    from ._host import break_off as break_off
    from ._host import clock as clock
    from ._host import dial as dial
    from ._host import dial_tls as dial_tls
    from ._host import finish_writing as finish_writing
    from ._host import make_folder as make_folder
    from ._host import memory as memory
    from ._host import reading as reading
    from ._host import replace_file as replace_file
    from ._host import tidy_memory as tidy_memory
    from ._host import unload as unload
    from ._host import within as within
else:
    from ._device import (  # noqa: F401
        BOARD,
        MPY,
        OFFER,
        READ,
        RUNTIME,
        SESSIONS,
        STREAMS,
        boot,
        break_off,
        clock,
        dial,
        dial_tls,
        finish_writing,
        make_folder,
        memory,
        reading,
        replace_file,
        tidy_memory,
        unload,
        within,
    )

if TYPE_CHECKING:
    from typing import Any

device_name = ""  # set by the agent when it starts, for services that show it


def feed_watchdog() -> None:
    """To be called every few seconds. Of a board that has a watchdog this is the watchdog's."""


def log(event: str, **fields: "Any") -> None:
    """One JSON line on stderr. Never a key, a password or a line that a person pasted."""
    said = {"event": event, "ms": clock()}
    said.update(fields)
    print(json.dumps(said), file=sys.stderr)
