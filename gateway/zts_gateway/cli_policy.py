"""`zts policy` on the command line."""

import argparse
from collections.abc import Callable


def add_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    policy = add("policy", _check, "who may use what: write, check and try the rules", "They lie in policy.toml in ZTS_HOME.")
    commands = policy.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add_one(name: str, command: Callable[[argparse.Namespace], None], summary: str, more: str = "") -> argparse.ArgumentParser:
        description = f"{summary[0].upper()}{summary[1:]}. {more}"
        added: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=description, allow_abbrev=False)
        added.set_defaults(command=command)
        return added

    add_one("edit", _edit, "write the rules in your editor", "It is checked before it takes the old one's place.")
    show = add_one("show", _show, "print the rules, or those for some devices")
    show.add_argument("devices", nargs="?", metavar="@DEVICE", help="a device, or a pattern such as '@lab-*'")
    push = add_one("push", _push, "bring the rules to your devices", "Those that are offline get them with the next command to them.")
    push.add_argument("devices", nargs="?", default="@*", metavar="@DEVICE", help="a device, or a pattern such as '@lab-*' (all)")
    push.add_argument("--wait", action="store_true", help="until all of them have taken the rules")
    add_one("check", _check, "say who may do what on which device, and what is probably not meant")
    test = add_one("test", _test, "say whether a party may use a service, and why", "Ends with 0 for yes and 5 for no.")
    test.add_argument("party", metavar="@PARTY")
    test.add_argument("target", metavar="@DEVICE:SERVICE")
    test.add_argument("--at", metavar="TIME", help="at another time than now, such as 2026-12-01T09:00")


def _edit(arguments: argparse.Namespace) -> None:
    from zts_gateway import policy_commands

    policy_commands.edit(arguments)


def _show(arguments: argparse.Namespace) -> None:
    from zts_gateway import policy_commands

    policy_commands.show(arguments)


def _push(arguments: argparse.Namespace) -> None:
    from zts_gateway import policy_commands

    policy_commands.push(arguments)


def _check(arguments: argparse.Namespace) -> None:
    from zts_gateway import policy_commands

    policy_commands.check(arguments)


def _test(arguments: argparse.Namespace) -> None:
    from zts_gateway import policy_commands

    policy_commands.test(arguments)
