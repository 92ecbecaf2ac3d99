"""`zts connect` on the command line. What it then does, `connecting`, is loaded when it is asked for."""

import argparse
from pathlib import Path
from typing import NamedTuple

from zts_gateway import enrolling

HELP = """\
Without a service: the only one there. Without an option: at a terminal, a console on a serial line or an interpreter; -L for all else.

Who may use it: with --stdio and at a console, whoever started zts. With --unix and --pty, programs that run as you (and root). With -L
and --rfc2217, programs that run as you, but no pages in your browser: a service of kind "http" gets only requests whose Host is
127.0.0.1:PORT or localhost:PORT and that come from no other site, any other service nothing that begins as HTTP does.

Settings and lines of a serial port travel with --rfc2217, its speed and stop bits with --pty. All else carries its bytes."""


class Way(NamedTuple):
    """How to connect, and to what. At most one of the last five."""

    name: str
    service: str | None
    stdio: bool
    port: int | None
    unix: Path | None
    rfc2217: int | None  # the port
    pty: Path | None


def add_arguments(connect: argparse.ArgumentParser) -> None:
    connect.add_argument("target", metavar="@NAME[:SERVICE]")
    how = connect.add_mutually_exclusive_group()
    how.add_argument("--stdio", action="store_true", help="on stdin and stdout, as ssh -o ProxyCommand wants it")
    how.add_argument("-L", dest="port", nargs="?", type=_port, const=0, metavar="PORT", help="listen on 127.0.0.1 (default: a free port)")
    how.add_argument("--unix", type=Path, metavar="PATH", help="listen on a socket in the file system that only you may use")
    how.add_argument(
        "--rfc2217", nargs="?", type=_port, const=0, metavar="PORT", help="listen as -L does, for mpremote, esptool and pyserial"
    )
    how.add_argument("--pty", type=Path, metavar="PATH", help="make a device file, for minicom and other programs for serial ports")


def parse_way(arguments: argparse.Namespace) -> Way:
    """Raises Failure."""
    name, colon, service = arguments.target.partition(":")
    wanted = enrolling.parse_name(service) if colon else None
    how = (arguments.stdio, arguments.port, arguments.unix, arguments.rfc2217, arguments.pty)
    return Way(enrolling.parse_name(name), wanted, *how)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is no port between 0 and 65535")
    return int(text)
