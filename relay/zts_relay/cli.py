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
from zts_relay import app, check, config, log
from zts_relay.config import ConfigError
from zts_relay.registry import FILE as REGISTRY_FILE
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
            log.configure()
            asyncio.run(app.run(_config(arguments)))
        elif command is _check:
            _check(arguments)
        else:
            if not (arguments.state / REGISTRY_FILE).exists():
                raise ConfigError(
                    "STATE", f"there is no relay's state in {arguments.state}; name its folder with --state, or start it first"
                )
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
    defaults = {
        "listen": config.LEG_ADDRESS,
        "mqtt": config.MQTT_ADDRESS,
        "metrics": config.METRICS_ADDRESS,
        "broker": None,
        "public": None,
    }
    parser.set_defaults(drain=config.DRAIN_S, state=config.default_state(), **defaults)

    def add_options(to: argparse.ArgumentParser) -> None:
        """Those of a relay; without defaults of their own, so that they may stand before or behind `check`."""

        def option(name: str, help_: str, metavar: str = "H:P", **more: Any) -> None:
            to.add_argument(name, metavar=metavar, help=help_, default=argparse.SUPPRESS, **more)

        option("--listen", f"for legs and enrolment (default: {config.LEG_ADDRESS})")
        option("--mqtt", f"for the control plane (default: {config.MQTT_ADDRESS})")
        option("--metrics", f"for Prometheus (default: {config.METRICS_ADDRESS})")
        option("--broker", "use this MQTT broker, mqtt[s]://host:port, and host none", "URL")
        option("--public", "how parties call this machine: the host in join codes", "HOST")
        option("--drain", f"seconds for pairs to end (default: {config.DRAIN_S:g})", "S", type=float)
        to.add_argument("--state", default=argparse.SUPPRESS, **state)

    add_options(parser)
    commands = parser.add_subparsers(title="commands", parser_class=_Parser)

    def add(name: str, command: Any, help_: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help_, description=help_, allow_abbrev=False)
        added.set_defaults(command=command)
        if command is _check:
            add_options(added)
        else:
            added.add_argument("--state", default=argparse.SUPPRESS, **state)
        return added

    add("code", _code, "Print a new join code for an owner.")
    add("parties", _parties, "List who has enrolled: fingerprint, role, since when, name.")
    add("revoke", _revoke, "Revoke a party: its legs end at once, and it cannot come back.").add_argument("who", metavar="FP|@NAME")
    add("check", _check, "Check whether this machine is fit for a relay with these options; changes nothing.")
    return parser


def _open(state: Path) -> Registry:
    try:
        return Registry(state)
    except FormatError as error:
        raise ConfigError("STATE", str(error)) from None


def _config(arguments: argparse.Namespace) -> config.Config:
    if not 0 <= arguments.drain <= 86_400:
        raise ConfigError("USAGE", "--drain is a number of seconds, at most a day")
    return config.Config(
        leg=config.parse_listen("--listen", arguments.listen),
        mqtt=config.parse_listen("--mqtt", arguments.mqtt),
        metrics=config.parse_listen("--metrics", arguments.metrics),
        state=arguments.state,
        broker=config.parse_broker(arguments.broker) if arguments.broker is not None else None,
        public=config.parse_public(arguments.public) if arguments.public is not None else None,
        drain_s=arguments.drain,
    )


def _check(arguments: argparse.Namespace) -> None:
    failed = []
    for finding in check.run(_config(arguments)):
        print(f"{finding.what:<12} {finding.state:<7} {finding.said}", flush=True)
        if finding.state == check.FAILED:
            failed.append(finding.what)
    if failed:
        raise ConfigError("CHECK", f"not fit: {', '.join(failed)}; the lines above say what to do")


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
