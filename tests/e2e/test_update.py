"""`zts update` as a user runs it, on a virtual board: what works, what breaks the board's agent, and power that fails at every step."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import board
from slots_board import HOME, LOGIN_S, SlotsBoard, slots_board
from whole_network import Network, failed, network, until
from zts import __version__
from zts_firmware import slots
from zts_gateway import stage

CHANGED = ("zts/frame.py", "zts/record.py", "zts_agent/main.py", "zts_agent/status.py")  # besides zts/__init__.py
CRASHES = 'raise RuntimeError("a mistake of ours")\n'
HANGS = "while True:\n    pass\n"
MUTE = "async def dial_tls(host, port, pin):\n    await asyncio.sleep(1000000)\n"  # never at its broker


class Lab:
    def __init__(self, net: Network, sensor: SlotsBoard, folder: Path) -> None:
        self.net = net
        self.board = sensor
        self._folder = folder

    def edge(self, version: str, addition: str = "") -> Path:
        """This project's packages as another version; `addition` are lines for a module that devices alone load."""
        folder = self._folder / version
        for package in ("zts", "zts_agent"):
            shutil.copytree(board.EDGE / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
        about = folder / "zts" / "__init__.py"
        about.write_text(about.read_text().replace(__version__, version))
        for name in CHANGED:
            with (folder / name).open("a") as file:
                file.write(f'VERSION = "{version}"\n')
        with (folder / "zts_agent" / "_device.py").open("a") as file:
            file.write(addition)
        return folder

    def status(self) -> dict[str, Any]:
        done = self.net.zts("status", "@sensor", "--json")
        assert done.returncode == 0, (done.stderr, self.board.text[-3000:])
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    def runs(self) -> tuple[str, str, bool, int]:
        """(version, slot, on trial, why)."""
        said = self.status()
        return said["version"], said["slot"]["boots"], said["slot"]["trial"], said["slot"]["why"]

    def restore(self) -> None:
        """This project's agent in slot a, good; slot b empty."""
        agent = self.board.agent
        self.board.cut_power()
        for name in ("cut", "login", "tries"):
            self.board.put(name, None)
        for slot in ("a", "b"):
            shutil.rmtree(agent / slot, ignore_errors=True)
        for number in (0, 1):
            (agent / f"switch.{number}").unlink(missing_ok=True)
        (agent / "a" / stage.MANIFEST).write_text(stage.manifest(agent / "a", board.put_edge(agent / "a")))
        self.start()

    def start(self) -> None:
        online = self.board.count("online")
        self.board.start()
        self.board.wait_online(online + 1)

    def fill_b(self, edge: Path) -> None:
        """Slot b as it is once all files of an update are there."""
        done = self.net.zts("update", "@sensor", edge=edge)
        assert done.returncode == 0, (done.stderr, self.board.text[-3000:])
        self.board.cut_power()
        for number in (0, 1):
            (self.board.agent / f"switch.{number}").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def _lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with network(tmp_path_factory.mktemp("net"), "embedded") as net, slots_board(net, "sensor") as sensor:
        yield Lab(net, sensor, tmp_path_factory.mktemp("edges"))


@pytest.fixture
def lab(_lab: Lab) -> Lab:
    _lab.restore()
    return _lab


def test_an_update_there_and_back(lab: Lab) -> None:
    assert lab.runs() == (__version__, "a", False, slots.NONE)
    edge = lab.edge("8.0.0")
    checked = lab.net.zts("update", "@sensor", "--check", edge=edge)
    files = len(list(stage.sources()))
    assert checked.returncode == 0 and f"8.0.0 would send {files} of {files} files" in checked.stdout, checked
    assert not list(lab.board.agent.glob("b/**/*.mpy"))
    done = lab.net.zts("update", "@sensor", edge=edge)
    assert (done.returncode, done.stdout) == (0, f"@sensor runs 8.0.0 from slot b; before it was {__version__}\n"), done
    assert lab.runs() == ("8.0.0", "b", False, slots.NONE)
    same = lab.net.zts("update", "@sensor", edge=edge)
    assert same.returncode == 0 and "there is nothing to do" in same.stdout, same
    lab.board.cut_power()
    lab.start()
    assert lab.runs() == ("8.0.0", "b", False, slots.NONE)
    # Slot a has this version still: it costs no file.
    checked = lab.net.zts("update", "@sensor", "--check")
    assert f"would send 0 of {files} files, 0 bytes" in checked.stdout, checked
    back = lab.net.zts("update", "@sensor")
    assert (back.returncode, back.stdout) == (0, f"@sensor runs {__version__} from slot a; before it was 8.0.0\n"), back
    assert lab.runs() == (__version__, "a", False, slots.NONE)


@pytest.mark.parametrize(
    ("version", "addition", "why"),
    [("8.1.0", CRASHES, slots.CRASHED), ("8.2.0", HANGS, slots.HUNG), ("8.3.0", MUTE, slots.NO_LOGIN)],
    ids=["crashes", "hangs", "mute"],
)
def test_an_agent_that_does_not_work_is_taken_back(lab: Lab, version: str, addition: str, why: int) -> None:
    lab.board.put("tries", 1)
    if why == slots.HUNG:
        lab.board.put("login", 60)  # else it is taken back for that before the watchdog bites
    before = lab.status()["boots"]
    done = lab.net.zts("update", "@sensor", edge=lab.edge(version, addition))
    sentence = failed(done, 6)
    assert "@sensor took the update back" in sentence and f"runs {__version__} again" in sentence
    assert lab.runs() == (__version__, "a", False, why)
    assert lab.status()["boots"] > before
    assert "an update was taken back" in lab.net.zts("status", "@sensor").stdout
    if why != slots.CRASHED:
        return
    # The next one works, and nothing of the reason is left.
    done = lab.net.zts("update", "@sensor", edge=lab.edge(version + "1"))
    assert done.returncode == 0, done
    assert lab.runs() == (version + "1", "b", False, slots.NONE)


@pytest.mark.parametrize(("version", "addition", "code"), [("8.4.0", "", 0), ("8.4.1", MUTE, 6)], ids=["good", "mute"])
def test_time_without_a_network_is_not_counted(lab: Lab, version: str, addition: str, code: int) -> None:
    lab.board.set_networks({})  # the agent that runs has its connections still: they are the host's
    mark = len(lab.board.text)

    def said(what: str) -> int:
        return lab.board.text[mark:].count(what)

    try:
        with lab.net.run(f"no-network-{version}", "update", "@sensor", edge=lab.edge(version, addition)) as running:
            until(lambda: said("judged: False") > 2 * LOGIN_S, "the slot on trial waits for a network")
            assert (said("judged: True"), said('"event": "start"')) == (0, 1)  # it still is on trial
            lab.board.set_networks(HOME)
            assert running.process.wait(90) == code, running.err
    finally:
        lab.board.set_networks(HOME)
    if code:
        assert said("judged: True") == LOGIN_S
        assert lab.runs() == (__version__, "a", False, slots.NO_LOGIN)
    else:
        assert lab.runs() == (version, "b", False, slots.NONE)


def test_power_fails_after_every_file(lab: Lab) -> None:
    edge = lab.edge("8.5.0")
    shutil.copytree(lab.board.agent / "a", lab.board.agent / "b")
    names = [Path(name).with_suffix(".mpy") for name in (*CHANGED, "zts/__init__.py")]
    before = {name: (lab.board.agent / "b" / name).read_bytes() for name in names}
    for cuts in range(len(names) + 1):  # each time after one file more, and at last after the manifest
        arrived = [name for name in names if (lab.board.agent / "b" / name).exists()]
        assert cuts == sum((lab.board.agent / "b" / name).read_bytes() != before[name] for name in arrived)
        online = lab.board.count("online")
        lab.board.put("cut", {"files": [1]})
        assert "interrupted" in failed(lab.net.zts("update", "@sensor", edge=edge), 9)
        lab.board.wait_online(online + 1)
        assert lab.runs() == (__version__, "a", False, slots.NONE)
    done = lab.net.zts("update", "@sensor", edge=edge)
    assert done.returncode == 0, done
    assert lab.runs() == ("8.5.0", "b", False, slots.NONE)


# Every byte: tests/shared/test_slots.py, and on the file system of boards tests/littlefs_cuts.py.
@pytest.mark.parametrize("size", [0, slots.RECORD_BYTES - 1])
def test_power_fails_while_the_slots_are_switched(lab: Lab, size: int) -> None:
    edge = lab.edge(f"8.6.{size}")
    shutil.copytree(lab.board.agent / "a", lab.board.agent / "b")
    online = lab.board.count("online")
    lab.board.put("cut", {"record": [1], "bytes": size})
    failed(lab.net.zts("update", "@sensor", edge=edge), 9)
    lab.board.wait_online(online + 1)
    assert lab.runs() == (__version__, "a", False, slots.NONE)
    done = lab.net.zts("update", "@sensor", edge=edge)
    assert done.returncode == 0, done
    assert lab.runs() == (f"8.6.{size}", "b", False, slots.NONE)


def test_power_fails_while_a_record_of_a_trial_is_written(lab: Lab) -> None:
    lab.fill_b(lab.edge("8.7.0"))
    for record in (1, 2):  # the try that is counted down, and the confirmation
        for size in (0, 1, slots.RECORD_BYTES - 1):
            for number in (0, 1):
                (lab.board.agent / f"switch.{number}").unlink(missing_ok=True)
            lab.board.slots().switch()
            lab.board.put("cut", {"record": [record], "bytes": size})
            lab.start()
            assert not (lab.board.folder / "cut").exists()
            lab.board.cut_power()
            found = lab.board.slots()
            assert (found.slot, found.on_trial) == ("b", False), (record, size)


def test_power_fails_three_times_before_it_is_online(lab: Lab) -> None:
    lab.fill_b(lab.edge("8.8.0"))
    lab.board.slots().switch()
    starts = lab.board.count("start")
    # At each boot the second record is the confirmation.
    lab.board.put("cut", {"record": [2] * slots.TRIES, "bytes": 0})
    lab.start()
    assert lab.board.count("start") == starts + slots.TRIES + 1
    assert lab.runs() == (__version__, "a", False, slots.HUNG)


def test_ctrl_c_gives_the_prompt_for_as_long_as_one_likes(lab: Lab) -> None:
    resets = lab.board.count("start")
    lab.board.type(b"\x03")
    until(lambda: lab.board.text.rstrip().endswith(">>>"), "the prompt")
    assert "the agent is stopped" in lab.board.text
    # Longer than the watchdog waits, 5 s here.
    lab.board.type(b"import time; time.sleep(7); print('still ' + 'here')\r\n")
    until(lambda: "still here" in lab.board.text, "the prompt goes on")
    assert lab.board.count("start") == resets
    online = lab.board.count("online")
    lab.board.type(b"import machine; machine.reset()\r\n")
    lab.board.wait_online(online + 1)


def test_mpremote_has_the_board_for_as_long_as_it_likes(lab: Lab) -> None:
    """It interrupts the agent and makes a soft reset, over which a watchdog goes on."""
    starts = lab.board.count("start")
    mpremote = [sys.executable, "-m", "mpremote", "connect", lab.board.port]
    with lab.board.unplugged():
        program = "import time; time.sleep(7); print('done')"
        done = subprocess.run([*mpremote, "exec", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "done\n"), done
    assert lab.board.count("start") == starts


def test_a_board_without_an_agent_gives_the_prompt(lab: Lab) -> None:
    lab.board.cut_power()
    (lab.board.agent / "a" / stage.MANIFEST).unlink()
    lab.board.start()
    until(lambda: lab.board.text.rstrip().endswith(">>>"), "the prompt")
    assert "there is no whole agent on this board" in lab.board.text


def test_a_good_slot_that_crashes_starts_again(lab: Lab) -> None:
    lab.board.cut_power()
    config = lab.board.agent / "config.json"
    good = config.read_text()
    config.write_text("{")
    try:
        lab.board.start()
        until(lambda: "config.json is not JSON" in lab.board.text, "it crashes")
    finally:
        config.write_text(good)
    lab.board.wait_online(lab.board.count("online") + 1)
    assert lab.runs() == (__version__, "a", False, slots.NONE)


def test_what_cannot_be_updated_over_the_air(lab: Lab) -> None:
    with lab.net.linux_device("pi", {}), lab.net.board("bare"):
        assert "pip install --upgrade zts" in failed(lab.net.zts("update", "@pi"), 2)
        assert "zts flash" in failed(lab.net.zts("update", "@bare"), 2)
    assert "no device @nobody" in failed(lab.net.zts("update", "@nobody"), 2)
