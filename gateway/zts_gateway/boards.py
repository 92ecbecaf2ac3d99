"""Board profiles: what kinds of boards there are, which services one gets, and how firmware comes to it."""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from zts import identity, wire
from zts.errors import FormatError
from zts_gateway.ui import Exit, Failure

_KINDS = ("handler", "http", "repl", "serial", "tcp")


class Profile(NamedTuple):
    """`about` is the table [board]: platform, chip, firmware; empty in a person's own file that does not say."""

    name: str
    about: dict[str, Any]
    services: dict[str, dict[str, Any]]


def names() -> list[str]:
    folder = resources.files("zts_firmware") / "boards"
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def load(board: str) -> Profile:
    """A profile of ours by name, or a person's own by path. Raises Failure."""
    if board in names():
        text = (resources.files("zts_firmware") / "boards" / f"{board}.toml").read_text(encoding="utf-8")
    else:
        try:
            text = Path(board).read_text(encoding="utf-8")
        except OSError as error:
            known = ", ".join(names())
            raise Failure(Exit.USAGE, f"no board '{board}' ({error.strerror}); --board takes a file, or one of {known}") from None
        except UnicodeDecodeError:
            raise Failure(Exit.USAGE, f"{board} is no text; --board takes a TOML file, such as those in zts_firmware/boards") from None
    try:
        data = tomllib.loads(text)
        services = data.get("services", {})
        about = data.get("board", {})
        for table in data:
            if table not in ("board", "services"):
                raise FormatError(f"there is no [{table}]; the tables are [board] and [services.NAME]")
        if not isinstance(services, dict) or not isinstance(about, dict) or len(services) > wire.MAX_SERVICES:
            raise FormatError(f"[board] is a table, and there are at most {wire.MAX_SERVICES} of [services.NAME]")
        for name, entry in services.items():
            if identity.check_name(name) != name:
                raise FormatError(f"services.{name}: a service's name has no @")
            if not isinstance(entry, dict) or entry.get("kind") not in _KINDS:
                raise FormatError(f"services.{name}: the kind is one of {', '.join(_KINDS)}")
    except (ValueError, FormatError, RecursionError) as error:
        raise Failure(Exit.USAGE, f"{board}: {error}; correct it, then run it again") from None
    return Profile(Path(board).stem, about, services)


def find(platform: str, machine: str) -> Profile | None:
    """The profile for what a board says of itself: sys.platform, and sys.implementation._machine, which ends "with ESP32S3"."""
    for name in names():
        profile = load(name)
        chip = profile.about.get("chip")
        if profile.about.get("platform") == platform and (chip is None or machine.endswith(f" with {chip}")):
            return profile
    return None


def find_chip(esptool_name: str) -> Profile | None:
    """The profile for a chip as esptool calls it, "esp32s3"."""
    for name in names():
        profile = load(name)
        if profile.about.get("firmware", {}).get("esptool") == esptool_name:
            return profile
    return None
