"""What the command line says, checked before anything is opened."""

import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from platformdirs import user_state_path

from zts import identity, wire
from zts.errors import FormatError

LEG_ADDRESS: Final = "0.0.0.0:7440"
MQTT_ADDRESS: Final = "0.0.0.0:7441"
METRICS_ADDRESS: Final = "127.0.0.1:7442"
DRAIN_S: Final = 30.0


class ConfigError(Exception):
    """A mistake of whoever started us: a short code, and a sentence that says what to do."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class Address(NamedTuple):
    """An IP address and a port to listen on; port 0: any."""

    host: str
    port: int

    def __str__(self) -> str:
        return identity.join_address(self.host, self.port)


class BrokerUrl(NamedTuple):
    """`mqtt://host:port`, or `mqtts://…` with TLS."""

    url: str
    host: str
    port: int
    tls: bool


@dataclass(frozen=True)
class Config:
    leg: Address
    mqtt: Address
    metrics: Address
    state: Path
    broker: BrokerUrl | None = None
    public: str | None = None
    drain_s: float = DRAIN_S

    @property
    def public_host(self) -> str:
        """How parties call this machine, as far as we can know without asking the network."""
        if self.public:
            return self.public
        return socket.gethostname() if ipaddress.ip_address(self.leg.host).is_unspecified else self.leg.host


def default_state() -> Path:
    return user_state_path("zts-relay", appauthor=False)


def parse_listen(option: str, text: str) -> Address:
    """An address to listen on. Only IP addresses and localhost: looking a name up would mean to dial out."""
    try:
        host, port = identity.split_address(text)
        host = "127.0.0.1" if host == "localhost" else host
        return Address(str(ipaddress.ip_address(host)), port)
    except FormatError as error:
        raise ConfigError("ADDRESS", f"{option}: {error}") from None
    except ValueError:
        raise ConfigError("ADDRESS", f"{option}: '{host}' is not an IP address; use 0.0.0.0 for all of this machine's") from None


def parse_public(text: str) -> str:
    """A host name or IP address without a port."""
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        if ":" in host:
            ipaddress.IPv6Address(host)
        identity.split_address(identity.join_address(host, 1))
    except (FormatError, ValueError):
        raise ConfigError("ADDRESS", f"--public: '{text}' is not a host: give a name or an IP address, without a port") from None
    return host


def parse_broker(text: str) -> BrokerUrl:
    """`mqtt://host:port` or `mqtts://host:port`, and nothing else: logins are the relay's to give."""
    scheme, _, rest = text.partition("://")
    try:
        if scheme not in ("mqtt", "mqtts") or any(char in rest for char in "@/?#"):
            raise FormatError(f"'{text}' is not of the form mqtt://host:port or mqtts://host:port")
        host, port = identity.split_address(rest)
        if not port:
            raise FormatError(f"'{text}' has port 0")
        if len(text) > wire.URL_MAX_CHARS:
            raise FormatError(f"the URL is longer than {wire.URL_MAX_CHARS} characters, more than an enrolment can carry")
    except FormatError as error:
        raise ConfigError("BROKER", f"--broker: {error}") from None
    return BrokerUrl(text, host, port, scheme == "mqtts")
