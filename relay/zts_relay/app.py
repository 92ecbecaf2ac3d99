"""One relay: the leg port, the control plane, the metrics and the registry, on one event loop."""

import asyncio
import errno
import json
import os
import resource
import signal
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from zts import codes, identity
from zts.errors import FormatError
from zts_relay import certificate, log, mosquitto
from zts_relay.broker import Broker
from zts_relay.broker import Limits as BrokerLimits
from zts_relay.config import Address, Config, ConfigError
from zts_relay.enrolment import Desk
from zts_relay.metrics import MetricsServer
from zts_relay.registry import OWNER, Party, Registry
from zts_relay.server import LegServer, Limits

_REFRESH_S: Final = 0.5  # how soon we notice a revocation by another process
_MOSQUITTO_DIR: Final = "mosquitto"


class Relay:
    """Made within a running loop. Raises ConfigError and leaves nothing open when it cannot start."""

    def __init__(self, config: Config, limits: Limits | None = None) -> None:
        self._config = config
        self.leg = Address("", 0)
        self.mqtt: Address | None = None
        self.metrics = Address("", 0)
        self.broker: Broker | None = None
        self._refresher: asyncio.TimerHandle | None = None
        self._logins_are_due = False  # they changed, and could not be written
        try:
            self.registry: Final = Registry(config.state)
        except FormatError as error:
            raise ConfigError("STATE", str(error)) from None
        self._metrics: MetricsServer | None = None
        self.legs: Final = LegServer(self.registry, self._enrol, limits)

    async def start(self) -> None:
        config = self._config
        try:
            tls, pin = certificate.make(config.state)
            url = await self._start_broker(tls)
            has_tls = config.broker is None or config.broker.tls
            self.desk = Desk(self.registry, url, pin if has_tls else None, _now_ms, self._party_added, self._throw_out)
            self._metrics = MetricsServer(self.legs, self.desk, self.broker)
            with _listening("--metrics", config.metrics):
                self.metrics = Address(*await self._metrics.start(*config.metrics))
            # Last, so that nobody is let in before all the rest is there.
            with _listening("--listen", config.leg):
                self.leg = Address(*self.legs.listen(*config.leg))
            self.registry.remember_address(config.public_host, self.leg.port)
        except FormatError as error:
            await self.close()
            raise ConfigError("STATE", str(error)) from None
        except BaseException:
            await self.close()
            raise
        self._refresh()

    async def close(self) -> None:
        """End everything at once."""
        if self._refresher:
            self._refresher.cancel()
        self.legs.close()
        if self._metrics:
            await self._metrics.close()
        if self.broker:
            await self.broker.close()
        self.registry.close()

    def join_code(self) -> str:
        """A new join code for an owner."""
        return make_join_code(self.registry)

    async def _start_broker(self, tls: ssl.SSLContext) -> str:
        """Start the embedded broker, or write the other one's files; returns the URL for parties."""
        config = self._config
        if config.broker:
            self._write_mosquitto()
            return config.broker.url
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        default = BrokerLimits()
        limits = BrokerLimits(connections=min(default.connections, soft // 3))
        self.broker = Broker(self.registry.may_log_in, limits)
        with _listening("--mqtt", config.mqtt):
            self.mqtt = Address(*await self.broker.start(*config.mqtt, tls))
        # No host: parties reach it by the name by which they reached the relay.
        return f"mqtts://:{self.mqtt.port}"

    def _write_mosquitto(self) -> None:
        broker, state = self._config.broker, self._config.state.resolve()
        assert broker
        pair = (state / certificate.CERTIFICATE, state / certificate.KEY) if broker.tls else None
        mosquitto.write(state / _MOSQUITTO_DIR, self.registry.logins(), broker.host, broker.port, pair)

    def _write_logins(self) -> None:
        """For a broker that is not ours. What cannot be written now is tried again with every refresh: it may take a login away."""
        if not self._config.broker:
            return
        try:
            mosquitto.write_passwords(self._config.state.resolve() / _MOSQUITTO_DIR, self.registry.logins())
        except OSError as error:
            if not self._logins_are_due:
                log.warning("cannot write the broker's logins: trying again", error=error.strerror)
            self._logins_are_due = True
        else:
            self._logins_are_due = False

    def _enrol(self, m1: bytes, challenge: bytes, source: bytes) -> bytes | None:
        return self.desk.answer(m1, challenge, source)

    def _party_added(self) -> None:
        self._write_logins()

    def _refresh(self) -> None:
        """Notice what other processes did, now and again."""
        self._refresher = asyncio.get_running_loop().call_later(_REFRESH_S, self._refresh)
        revoked = self.registry.refresh()
        for party in revoked:
            self._throw_out(party)
        if self._logins_are_due and not revoked:
            self._write_logins()

    def _throw_out(self, party: Party) -> None:
        self.legs.revoke(party.account)
        if self.broker:
            self.broker.disconnect(party.fp)
        self._write_logins()
        log.event("revoked", parties=1)


def make_join_code(registry: Registry) -> str:
    """A new owner's code; raises ConfigError before the relay has ever run."""
    address = registry.address()
    if address is None:
        raise ConfigError("STATE", "no relay has run with this state directory yet: start it first, or give its --state")
    secret = registry.make_code(OWNER)
    assert secret  # only an owner's codes are limited
    return codes.format_join_code(codes.JoinCode(registry.public, secret, *address))


async def run(config: Config) -> None:
    """Run a relay until SIGTERM or SIGINT, drain it, and return. A second signal ends it at once. Raises ConfigError."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    loop = asyncio.get_running_loop()
    stop, stop_now = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (stop_now if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    relay = Relay(config)
    await relay.start()
    try:
        _announce(relay)
        await stop.wait()
        log.event("draining", pairs=relay.legs.pairs)
        if relay.broker:
            await relay.broker.close()
        draining = asyncio.ensure_future(relay.legs.drain(config.drain_s))
        now = asyncio.ensure_future(stop_now.wait())
        await asyncio.wait((draining, now), return_when=asyncio.FIRST_COMPLETED)
        for task in (draining, now):
            task.cancel()
        await asyncio.gather(draining, now, return_exceptions=True)
    finally:
        await relay.close()
    log.event("stopped")


def _announce(relay: Relay) -> None:
    ready = {
        "ready": True,
        "leg": str(relay.leg),
        "mqtt": str(relay.mqtt) if relay.mqtt else None,
        "metrics": str(relay.metrics),
        "fp": identity.fingerprint_text(relay.registry.public),
    }
    is_new = relay.registry.is_new
    print(json.dumps(ready, separators=(",", ":")), flush=True)
    if is_new:
        print(f"join {relay.join_code()}", flush=True)
    log.event("ready")


@contextmanager
def _listening(option: str, address: Address) -> Iterator[None]:
    """Say what a failure to listen means to a person."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            hint = f"is in use: stop the program that has it, or choose another port with {option}"
        elif error.errno == errno.EADDRNOTAVAIL:
            hint = f"is not an address of this machine: choose one with {option}"
        elif error.errno == errno.EACCES:
            hint = f"is not for this user: choose a port above 1023 with {option}"
        else:
            hint = f"cannot be listened on ({os.strerror(error.errno or 0)}): choose another with {option}"
        raise ConfigError("ADDRESS", f"{address} {hint}") from None


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
