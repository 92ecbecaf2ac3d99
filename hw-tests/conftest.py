"""The board under test: the one at --port, else a virtual one; and a relay that it can reach, with @alice's laptop."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hw_bench import HERE, MPREMOTE, NAME, Bench

from relay_process import RelayProcess
from whole_network import Network
from zts_gateway import boards, flashing
from zts_gateway.cable import Cable
from zts_gateway.virtual_board import VirtualBoard


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("hw-tests")
    group.addoption("--port", help="serial port of a real board; without it, a virtual one. What is on it is kept, but it gets the agent")
    group.addoption("--address", help="with --port: this computer's address in the board's network")
    group.addoption("--wifi", metavar="SSID", help="with --port: the network to join")
    group.addoption("--password-file", metavar="FILE", help="with --wifi: its password")
    group.addoption("--board", help="with --port: as for `zts flash`")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if "hw-tests" in report.nodeid]
    if skipped:
        terminalreporter.write_line(f"hw-tests: {len(skipped)} skipped, each with its reason above or with -rs")


def _profile(folder: Path, kind: str) -> Path:
    """The kind's own services and those of bulk.py."""
    services: dict[str, dict[str, Any]] = dict(boards.load(kind).services)
    services["bulk"] = {"kind": "handler", "target": "zts_hw_bulk:send"}
    services["room"] = {"kind": "handler", "target": "zts_hw_bulk:room"}
    lines = []
    for name, entry in services.items():
        lines += [f"[services.{name}]", *(f"{key} = {value!r}" for key, value in entry.items())]
    path = folder / "board.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("bench")
    port, address = request.config.getoption("--port"), request.config.getoption("--address")
    if port and not address:
        pytest.exit("--port needs --address, this computer's address in the board's network", 2)
    reach = ("--listen", f"{address}:0", "--mqtt", f"{address}:0", "--public", address) if port else ()
    with RelayProcess(folder / "relay", *reach) as relay:
        net = Network(folder, relay, "embedded")
        if port:
            cable = Cable(port)
            try:
                cable.enter()
                said = flashing.probe(cable)
            finally:
                cable.close()
            state = said["state"]
            if state and state["name"] != NAME:
                pytest.exit(f"the board is @{state['name']}; these tests take only one that is free, or that they had before", 2)
            if state:  # its owner was an earlier run
                subprocess.run([MPREMOTE, "connect", port, "fs", "rm", ":/agent/state/state.json"], check=True)
            found = boards.find(said["platform"], said["machine"])
            kind = request.config.getoption("--board") or (found.name if found else "")
            options = ["--board", str(_profile(folder, kind))]
            password = ""
            if ssid := request.config.getoption("--wifi"):
                options += ["--wifi", ssid, "--password-file", "-"]
                password = Path(request.config.getoption("--password-file")).read_text()
            yield from _with_bulk(Bench(net, port, kind, None, options, password))
        else:
            with VirtualBoard(folder / "flash") as virtual:
                yield from _with_bulk(Bench(net, virtual.port, "virtual", virtual, ["--board", str(_profile(folder, "virtual"))], ""))


_FORGET = """
import json
path = "/agent/config.json"
with open(path) as file: config = json.load(file)
for name in ("bulk", "room"): config["services"].pop(name, None)
with open(path, "w") as file: file.write(json.dumps(config))
"""


def _with_bulk(bench: Bench) -> Iterator[Bench]:
    bench.mpremote("exec", "import os\nif 'lib' not in os.listdir('/'): os.mkdir('/lib')")
    bench.mpremote("fs", "cp", str(HERE / "bulk.py"), ":/lib/zts_hw_bulk.py")
    done = bench.flash()
    assert done.returncode == 0, done.stderr
    try:
        yield bench
    finally:
        # An agent whose configuration names a module that is gone would start anew for ever.
        bench.mpremote("exec", _FORGET, "+", "fs", "rm", ":/lib/zts_hw_bulk.py", "+", "reset")
