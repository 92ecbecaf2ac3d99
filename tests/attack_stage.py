"""A stage for attacks in this process: an evil broker, a real relay behind a tap, an owner, and devices on this interpreter."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

from agent_lab import Device, HostAgent, Owner, target, until
from hostile import EvilBroker, Mischief, honest
from relay_thread import RelayThread
from tap import Tap
from zts import codes, control, crypto, identity


class Actor:
    """A device on the stage. Its service "who" takes what is said and answers with the device's name; `visits` counts its connections."""

    def __init__(self, device: Device, running: HostAgent) -> None:
        self.device = device
        self.running = running
        self.visits = 0

    @property
    def fp(self) -> str:
        return identity.fingerprint_text(self.device.public)

    @property
    def responder(self) -> control.Responder:
        return self.running.agent._responder


class Stage(NamedTuple):
    broker: EvilBroker
    relay: RelayThread
    legs: Tap  # all of the devices' and the owner's connections to the relay
    owner: Owner
    folder: Path

    def inbox(self, actor: Actor) -> str:
        """Where the owner writes to a device."""
        return control.inbox_topic(actor.fp, self.owner.me.fp)

    @contextlib.asynccontextmanager
    async def actor(self, name: str) -> AsyncIterator[Actor]:
        """Enrols a device, or has one that is enrolled start again."""
        folder = self.folder / name
        device = None if folder.exists() else await self.owner.invite(name)
        actor: Actor

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            actor.visits += 1
            await reader.read()
            writer.write(name.encode())
            await writer.drain()

        async with target(serve) as address:
            running = HostAgent(folder, device, {"who": {"kind": "tcp", "target": address}}, identity.join_address(*self.legs.address))
            async with running:
                await until(lambda: bool(running.agent._said))  # it has subscribed before
                actor = Actor(device or Device.__new__(Device), running)
                actor.device.name, actor.device.public = name, running.store.key("public")
                actor.device.pairing = running.store.key("pairing")
                yield actor


@contextlib.asynccontextmanager
async def stage(folder: Path, mischief: Mischief = honest) -> AsyncIterator[Stage]:
    folder.mkdir(exist_ok=True)
    async with EvilBroker(mischief) as broker:
        with RelayThread(folder / "relay", broker=broker.url) as relay:
            async with Tap(relay.address) as legs:
                yield Stage(broker, relay, legs, await Owner.join(_at(relay, legs)), folder)


async def stranger(stage: Stage) -> Owner:
    """Another owner at the same relay: enrolled, and nothing else."""
    return await Owner.join(_at(stage.relay, stage.legs), "mallory")


def _at(relay: RelayThread, legs: Tap) -> str:
    code = codes.parse_join_code(relay.call(relay.relay.join_code))
    return codes.format_join_code(code._replace(host=legs.address[0], port=legs.address[1]))


class CountedX25519:
    """Counts X25519 operations of this process while it is entered; keys that are made count too."""

    def __enter__(self) -> "CountedX25519":
        self.calls = 0
        self._real = crypto.x25519, crypto.x25519_public

        def x25519(private: bytes, public: bytes) -> bytes:
            self.calls += 1
            return self._real[0](private, public)

        def x25519_public(private: bytes) -> bytes:
            self.calls += 1
            return self._real[1](private)

        crypto.x25519, crypto.x25519_public = x25519, x25519_public
        return self

    def __exit__(self, *_: object) -> None:
        crypto.x25519, crypto.x25519_public = self._real
