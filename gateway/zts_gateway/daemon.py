"""`zts agent`: the device's agent on Linux, from a TOML file."""

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zts import wire
from zts.errors import FormatError
from zts_agent import serial
from zts_agent.agent import Agent, AgentError
from zts_agent.keystore import Keystore
from zts_gateway import http_service
from zts_gateway.ui import Exit, Failure

if TYPE_CHECKING:
    from zts_agent.services import Read, Serve

# What a person does about an AgentError.
_HINTS = {
    Exit.DENIED: "ask its operator; to come back it needs an empty state folder and a new line from `zts enroll`",
    Exit.AUTHENTICATION: "get a new line from `zts enroll @name`",
    Exit.DUPLICATE: "stop the other one, or enrol one of them anew",
}


class Settings(NamedTuple):
    """What the file says: `device` as the agent takes it, `state` the folder for keys."""

    device: dict[str, Any]
    state: Path


def read_config(path: Path) -> Settings:
    """Raises Failure, naming the file and what is wrong in it."""
    try:
        data = tomllib.loads(path.read_text())
    except OSError as error:
        raise Failure(Exit.USAGE, f"cannot read {path} ({error.strerror}); name the agent's configuration file with --config") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, or nested too deeply
        raise _wrong(path, str(error)) from None
    for table in data:
        if table not in ("identity", "relay", "services"):
            raise _wrong(path, f"there is no [{table}]; the tables are [identity], [relay] and [services.NAME]")
        if not isinstance(data[table], dict):
            raise _wrong(path, f"'{table}' is no table")
    for table, key in (("identity", "state"), ("relay", "address")):
        for found, value in data.get(table, {}).items():
            if found != key or not isinstance(value, str):
                raise _wrong(path, f"[{table}] takes only {key}, a text")
    state = data.get("identity", {}).get("state")
    if not state:
        raise _wrong(path, '[identity] needs state = "DIR", the folder for this device\'s keys')
    return Settings(data, path.parent / state)


def _wrong(path: Path, what: str) -> Failure:
    return Failure(Exit.USAGE, f"{path}: {what}; correct it, then start again")


def adopt(state: Path, line: str) -> None:
    """Has the device whose state lies in the folder `state` begin with an enrolment line. Raises Failure."""
    if line.strip().startswith("zts1:"):
        raise Failure(Exit.AUTHENTICATION, "this is a join code for an owner; a device needs the line that `zts enroll @name` prints")
    try:
        Keystore(str(state)).adopt(line)
    except FormatError as error:
        if line.strip().startswith("zts1d:"):
            raise Failure(Exit.AUTHENTICATION, f"{error}; `zts enroll @name` prints the line to paste") from None
        raise Failure(Exit.AUTHENTICATION, f"{error}; paste the whole line that `zts enroll @name` printed") from None
    except OSError as error:
        raise Failure(Exit.USAGE, f"cannot write in {state} ({error.strerror}); correct `state` in the configuration") from None


def _read_serial(entry: dict[str, Any]) -> "tuple[int, Serve]":
    from zts_gateway import serial_port

    return wire.SERVICE_SERIAL, serial.serve_port(serial_port.read(entry))


KINDS: "dict[str, Read]" = {"serial": _read_serial, "http": http_service.read}  # of services, beside or in place of those of all agents


def make_agent(settings: Settings, path: Path) -> Agent:
    """Raises Failure when the configuration is of no use."""
    try:
        return Agent(settings.device, Keystore(str(settings.state)), KINDS)
    except FormatError as error:
        raise _wrong(path, str(error)) from None


async def run(agent: Agent) -> None:
    """For ever. Raises Failure when only a person can help."""
    try:
        await agent.run()
    except FormatError as error:
        raise Failure(Exit.USAGE, f"{error}; run `zts agent --join` with the line that `zts enroll @name` prints") from None
    except AgentError as error:
        code = Exit(error.exit_code)
        raise Failure(code, f"{error}; {_HINTS[code]}") from None
    except OSError as error:
        raise Failure(Exit.USAGE, f"cannot keep this device's state ({error}); correct `state` in the configuration") from None
