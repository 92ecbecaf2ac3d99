"""`zts-relay`: runs a relay, or changes the state of one that may be running."""

import argparse
import asyncio
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from zts import __version__
from zts.errors import FormatError
from zts_relay import app, config, log
from zts_relay.config import ConfigError
from zts_relay.registry import Registry

_MISTAKE = 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError("USAGE", f"{message}; see {self.prog} --help")


def main() -> None:
    # Everything the relay writes is for its own user: keys, passwords, who has enrolled.
    os.umask(0o077)
    try:
        arguments = _parser().parse_args()
        command = arguments.command
        if command is None:
            _run(arguments)
        else:
            registry = _open(arguments.state)
            try:
                command(registry, arguments)
            finally:
                registry.close()
    except ConfigError as error:
        print(f"zts-relay: {error.code}: {error}", file=sys.stderr)
        sys.exit(_MISTAKE)


def _parser() -> argparse.ArgumentParser:
    state: dict[str, Any] = {"type": Path, "metavar": "DIR", "help": f"keys and registry (default: {config.default_state()})"}
    parser = _Parser(prog="zts-relay", description="Join legs of ZTS parties, and host their control plane.", allow_abbrev=False)
    parser.set_defaults(command=None)
    parser.add_argument("--version", action="version", version=f"zts-relay {__version__}")
    parser.add_argument("--listen", default=config.LEG_ADDRESS, metavar="H:P", help="for legs and enrolment (default: %(default)s)")
    parser.add_argument("--mqtt", default=config.MQTT_ADDRESS, metavar="H:P", help="for the control plane (default: %(default)s)")
    parser.add_argument("--metrics", default=config.METRICS_ADDRESS, metavar="H:P", help="for Prometheus (default: %(default)s)")
    parser.add_argument("--broker", metavar="URL", help="use this MQTT broker, mqtt[s]://host:port, and host none")
    parser.add_argument("--public", metavar="HOST", help="how parties call this machine: the host in join codes")
    parser.add_argument("--drain", type=float, default=config.DRAIN_S, metavar="S", help="seconds for pairs to end (default: %(default)g)")
    parser.add_argument("--state", default=config.default_state(), **state)
    commands = parser.add_subparsers(title="commands", parser_class=_Parser)

    def add(name: str, command: Any, help_: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help_, description=help_, allow_abbrev=False)
        added.set_defaults(command=command)
        added.add_argument("--state", default=argparse.SUPPRESS, **state)
        return added

    add("code", _code, "Print a new join code for an owner.")
    add("parties", _parties, "List who has enrolled: fingerprint, role, since when, name.")
    add("revoke", _revoke, "Revoke a party: its legs end at once, and it cannot come back.").add_argument("who", metavar="FP|@NAME")
    return parser


def _open(state: Path) -> Registry:
    try:
        return Registry(state)
    except FormatError as error:
        raise ConfigError("STATE", str(error)) from None


def _run(arguments: argparse.Namespace) -> None:
    if not 0 <= arguments.drain <= 86_400:
        raise ConfigError("USAGE", "--drain is a number of seconds, at most a day")
    settings = config.Config(
        leg=config.parse_listen("--listen", arguments.listen),
        mqtt=config.parse_listen("--mqtt", arguments.mqtt),
        metrics=config.parse_listen("--metrics", arguments.metrics),
        state=arguments.state,
        broker=config.parse_broker(arguments.broker) if arguments.broker is not None else None,
        public=config.parse_public(arguments.public) if arguments.public is not None else None,
        drain_s=arguments.drain,
    )
    log.configure()
    asyncio.run(app.run(settings))


def _code(registry: Registry, _: argparse.Namespace) -> None:
    print(app.make_join_code(registry))


def _parties(registry: Registry, _: argparse.Namespace) -> None:
    for party in registry.parties():
        created = datetime.fromtimestamp(party.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        name = f"@{party.name}" if party.name else "-"
        print(party.fp, party.role, created, name, *(["revoked"] if party.revoked is not None else []))


def _revoke(registry: Registry, arguments: argparse.Namespace) -> None:
    try:
        found = registry.find(arguments.who)
    except FormatError as error:
        raise ConfigError("USAGE", f"'{arguments.who}': {error}") from None
    found = [party for party in found if party.revoked is None]
    if not found:
        raise ConfigError("PARTY", f"no active party here is {arguments.who}; see zts-relay parties")
    if len(found) > 1:
        raise ConfigError("PARTY", f"several parties are {arguments.who}: give a fingerprint, {' or '.join(p.fp for p in found)}")
    registry.revoke(found[0].account)
    print(f"revoked {found[0].fp}")


if __name__ == "__main__":
    main()
