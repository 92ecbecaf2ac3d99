"""Wi-Fi of a board: joins one of the configured networks, and never takes it for granted. Loaded only where some are configured.

What `isconnected()` says is a hint. What counts is whether the agent reaches anybody: a network that gives an address and leads
nowhere is left again, and the next one gets its turn.
"""

import asyncio
import json

import network

from zts.errors import FormatError

from . import board
from .agent import jitter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

NETWORKS_MAX = 4
FIRST_WAIT_MS = 1_000
LONGEST_WAIT_MS = 60_000
JOIN_MS = 20_000  # to be let in and to get an address
DOUBT_MS = 120_000  # with an address, and nobody reached: two of the agent's longest pauses
_LOOK_S = 0.2
_LINE_MAX = 256
# The names under which a port says that it was not let in; not every port has all.
_REFUSALS = ("STAT_NO_AP_FOUND", "STAT_WRONG_PASSWORD", "STAT_CONNECT_FAIL", "STAT_ASSOC_FAIL", "STAT_HANDSHAKE_TIMEOUT")
_PASSWORD_SIZES = [0] + list(range(8, 65))


def check(networks: "Any") -> "list[dict[str, str]]":
    """[{"ssid", "password"}], the first one preferred; an open network has the password "". Raises FormatError."""
    good = isinstance(networks, list) and 0 < len(networks) <= NETWORKS_MAX
    for one in networks if good else ():
        good = good and isinstance(one, dict) and sorted(one) == ["password", "ssid"]
        good = good and isinstance(one["ssid"], str) and isinstance(one["password"], str)
        good = good and 0 < len(one["ssid"].encode()) <= 32 and len(one["password"].encode()) in _PASSWORD_SIZES
    if not good:
        raise FormatError(f"wifi is a list of 1 to {NETWORKS_MAX} of ssid and password, which has 8 to 64 characters or none")
    return networks  # type: ignore[no-any-return]


class Wifi:
    """`networks` as in the configuration at `path`, which a new network is added to. Raises FormatError."""

    def __init__(self, networks: "Any", path: str) -> None:
        self.networks = check(networks)
        self._path = path
        self._wlan = network.WLAN(0)  # the station
        self._has_address = asyncio.Event()
        self._refusals = [getattr(network, name) for name in _REFUSALS if hasattr(network, name)]

    async def wait_for_address(self) -> None:
        await self._has_address.wait()

    async def run(self, is_reaching: "Callable[[], bool]") -> None:
        """For ever. `is_reaching` says whether the agent reaches anybody just now."""
        wait = FIRST_WAIT_MS
        while True:
            try:
                if await self._try_all(is_reaching):
                    wait = FIRST_WAIT_MS
            except Exception as error:  # whatever a port's driver raises: nobody else brings the network back
                board.log("wifi failed", error=repr(error))
            self._has_address.clear()
            await asyncio.sleep(jitter(wait) / 1000)
            wait = min(2 * wait, LONGEST_WAIT_MS)

    async def _try_all(self, is_reaching: "Callable[[], bool]") -> bool:
        """The networks in their order, each until it is of no use. Whether one was: then the first one gets its turn again."""
        for one in list(self.networks):
            if await self._join(one["ssid"], one["password"]):
                board.log("wifi", ssid=one["ssid"], address=self._wlan.ifconfig()[0])
                self._has_address.set()
                helped = await self._stay(is_reaching)
                self._has_address.clear()
                board.log("wifi lost", ssid=one["ssid"], helped=helped)
                if helped:
                    return True
            else:
                board.log("wifi refused", ssid=one["ssid"], status=self._wlan.status())
                self._wlan.disconnect()  # else it might come up while we pause, and count as a network nobody makes use of
        return False

    async def _join(self, ssid: str, password: str) -> bool:
        """Whether there is an address. The radio starts anew: it may be what has failed. Raises OSError, as the port's driver does."""
        self._wlan.active(False)
        board.feed_watchdog()
        self._wlan.active(True)  # an rp2 loads the radio's firmware now
        board.feed_watchdog()
        # A Pico W that saves power goes deaf, and an ESP32 would go on with this network for ever by itself.
        for setting in ({"pm": getattr(network.WLAN, "PM_NONE", 0)}, {"reconnects": 0}):
            try:
                self._wlan.config(**setting)
            except (ValueError, TypeError, OSError):
                pass  # not on this port
        self._wlan.connect(ssid, password)
        end = board.clock() + JOIN_MS
        while board.clock() < end:
            await asyncio.sleep(_LOOK_S)
            if self._is_up():
                return True
            if self._wlan.status() in self._refusals:
                break
        return False

    def _is_up(self) -> bool:
        return self._wlan.isconnected() and self._wlan.ifconfig()[0] != "0.0.0.0"  # type: ignore[no-any-return]

    async def _stay(self, is_reaching: "Callable[[], bool]") -> bool:
        """Until the network is of no use any more. Whether it ever was."""
        helped = False
        doubted = board.clock()
        while self._is_up() and board.clock() - doubted < DOUBT_MS:
            if is_reaching():
                helped = True
                doubted = board.clock()
            await asyncio.sleep(2)
        return helped

    async def serve(self, reader: "Any", writer: "Any") -> None:
        """`zts-wifi`: takes one more network, the first one from now on; what it says is {"stored", "networks"} or {"error"}."""
        line = await reader.readline()
        try:
            if len(line) > _LINE_MAX:
                raise FormatError("too long")
            self._store(json.loads(line))
            said = {"stored": True, "networks": [one["ssid"] for one in self.networks]}
        except (ValueError, RuntimeError, FormatError):
            said = {"stored": False, "error": "network"}
        except OSError:
            said = {"stored": False, "error": "files"}
        writer.write((json.dumps(said) + "\n").encode())

    def _store(self, new: "Any") -> None:
        """Raises FormatError, ValueError, OSError."""
        check([new])
        networks = ([new] + [one for one in self.networks if one["ssid"] != new["ssid"]])[:NETWORKS_MAX]
        with open(self._path) as file:
            config = json.load(file)
        config["wifi"] = networks
        board.replace_file(self._path, json.dumps(config).encode())
        self.networks = networks
