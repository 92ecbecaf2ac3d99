"""The brokers under test: the embedded one on a thread of this process, and a real mosquitto on the files we write for it."""

import asyncio
import base64
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from host import mqtt_tools as mqtt
from zts_relay import mosquitto
from zts_relay.broker import Broker, Limits

T = TypeVar("T")

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


class Party:
    """A party with a login."""

    def __init__(self) -> None:
        self.fp = mqtt.fingerprint()
        self.password = base64.b32encode(os.urandom(16)).rstrip(b"=").lower()


class Engine(Protocol):
    """A running broker."""

    name: str
    address: tuple[str, int]

    def party(self) -> Party:
        """A fresh one that may log in."""

    def close(self) -> None: ...


class Embedded:
    """Our broker with its event loop on a thread."""

    name = "embedded"
    address: tuple[str, int]

    def __init__(self, limits: Limits | None = None, context: ssl.SSLContext | None = None) -> None:
        self.passwords: dict[str, bytes] = {}
        self.asked: list[tuple[str, bytes]] = []
        self._limits = limits
        self._context = context
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(mqtt.DEADLINE_S)
        if self._failure:
            raise self._failure

    def _authenticate(self, username: str, password: bytes) -> bool:
        self.asked.append((username, password))
        return self.passwords.get(username) == password

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        unhandled: list[dict[str, object]] = []
        self._loop.set_exception_handler(lambda _, context: unhandled.append(context))
        self.broker = Broker(self._authenticate, self._limits)
        self.address = await self.broker.start("127.0.0.1", 0, self._context)
        self._ready.set()
        await self._stop.wait()
        await self.broker.close()
        assert self.broker.stats.connections == self.broker.stats.pending == 0
        assert not unhandled, unhandled

    def call(self, function: Callable[[Broker], T]) -> T:
        """`function(broker)` on the broker's loop."""

        async def run() -> T:
            return function(self.broker)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(mqtt.DEADLINE_S)

    def wait_for(self, condition: Callable[[Broker], bool]) -> None:
        end = time.monotonic() + mqtt.DEADLINE_S
        while not self.call(condition):
            assert time.monotonic() < end, self.broker.stats
            time.sleep(0.005)

    def party(self) -> Party:
        party = Party()
        self.passwords[party.fp] = party.password
        return party

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(mqtt.DEADLINE_S)
        assert not self._thread.is_alive()
        if self._failure:
            raise self._failure


class Mosquitto:
    """A mosquitto child on the files of `zts_relay.mosquitto`, unchanged. Parties are drawn from those it started with."""

    name = "mosquitto"
    address: tuple[str, int]

    def __init__(self, directory: Path, parties: int = 100, certificate: tuple[Path, Path] | None = None) -> None:
        self.directory = directory
        self.parties = [Party() for _ in range(parties)]
        self._unused = iter(self.parties)
        for _ in range(5):  # the free port may be taken by somebody else before mosquitto binds it
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.address = probe.getsockname()
            config = mosquitto.write(directory, [(p.fp, p.password) for p in self.parties], *self.address, certificate)
            assert MOSQUITTO
            with (directory / "log").open("wb") as log:
                self.process = subprocess.Popen([MOSQUITTO, "-c", str(config)], stdout=log, stderr=log)
            if self._listening():
                return
            self.process.wait()
        raise AssertionError((directory / "log").read_text())

    def _listening(self) -> bool:
        end = time.monotonic() + mqtt.DEADLINE_S
        while self.process.poll() is None:
            try:
                socket.create_connection(self.address).close()
                return True
            except ConnectionRefusedError:
                assert time.monotonic() < end
                time.sleep(0.01)
        return False

    def party(self) -> Party:
        return next(self._unused)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(mqtt.DEADLINE_S)


def log_in(
    engine: Engine,
    party: Party,
    client_id: str = "",
    *,
    keepalive: int = 60,
    clean: bool = True,
    will: tuple[str, bytes, bool] | None = None,
    receive_buffer: int = 0,
) -> mqtt.Wire:
    """A logged-in connection of the party."""
    wire = mqtt.Wire(engine.address, receive_buffer)
    wire.send(mqtt.connect(party.fp, party.password, client_id, keepalive=keepalive, clean=clean, will=will))
    assert wire.read() == (0x20, b"\0\0")
    return wire
