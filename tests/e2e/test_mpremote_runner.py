"""`zts run` and `zts cp`: the real mpremote, through a gateway's serial port to a virtual board."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from whole_network import WAIT_S, Network, failed, network, until
from zts_gateway.virtual_board import VirtualBoard


class Place(NamedTuple):
    net: Network
    board: VirtualBoard


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("mpremote")
    with contextlib.ExitStack() as stack:
        board = stack.enter_context(VirtualBoard(folder / "flash"))
        net = stack.enter_context(network(folder / "net", "embedded"))
        stack.enter_context(net.linux_device("gw", {"usb": ("serial", board.port), "page": ("http", "zts_agent.page:page")}))
        yield Place(net, board)


def script(folder: Path, text: str) -> str:
    (folder / "script.py").write_text(text)
    return str(folder / "script.py")


def test_a_script(place: Place, tmp_path: Path) -> None:
    done = place.net.zts("run", "@gw", script(tmp_path, "import sys\nprint('from', sys.implementation.name)\n"))
    assert (done.returncode, done.stdout.strip()) == (0, "from micropython"), done.stderr
    done = place.net.zts("run", "@gw", "--service", "usb", script(tmp_path, "1/0"))
    assert done.returncode == 1 and "ZeroDivisionError" in done.stdout + done.stderr
    assert "internal error" not in done.stderr


def test_files_there_and_back(place: Place, tmp_path: Path) -> None:
    data = os.urandom(5000)
    (tmp_path / "a.bin").write_bytes(data)
    (tmp_path / "-b").write_bytes(b"b")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "c").write_bytes(b"c")
    done = place.net.zts("cp", str(tmp_path / "a.bin"), str(tmp_path / "-b"), "@gw:/")
    assert done.returncode == 0, done.stderr
    assert (place.board.folder / "a.bin").read_bytes() == data
    done = place.net.zts("cp", "-r", str(tmp_path / "folder"), "@gw:/")
    assert done.returncode == 0, done.stderr
    assert (place.board.folder / "folder" / "c").read_bytes() == b"c"
    done = place.net.zts("cp", "@gw:/a.bin", str(tmp_path / "back"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "back").read_bytes() == data
    done = place.net.zts("cp", "@gw:/none", str(tmp_path / "none"))
    assert done.returncode == 1 and "internal error" not in done.stderr


def test_ctrl_c_stops_the_script_and_the_board_is_free(place: Place, tmp_path: Path) -> None:
    mark = place.board.folder / "started"
    busy = script(tmp_path, "open('/started', 'w').close()\nwhile True: pass\n")
    with place.net.run("busy", "run", "@gw", busy) as running:
        until(mark.exists, "the script runs")
        os.killpg(running.process.pid, signal.SIGINT)  # as a terminal does it: to all that run in it
        assert running.process.wait(WAIT_S) == 130, running.err
    done = place.net.zts("run", "@gw", script(tmp_path, "print(6 * 7)"))
    assert (done.returncode, done.stdout.strip()) == (0, "42"), done.stderr


def test_what_a_person_gets_wrong(place: Place, tmp_path: Path) -> None:
    good = script(tmp_path, "")
    for arguments in (
        ("run", "@gw", str(tmp_path / "none.py")),
        ("run", "@gw", "--service", "page", good),
        ("run", "gw:x", good),
        ("cp", good),
        ("cp", good, str(tmp_path / "there")),
        ("cp", "@gw:/a", "@gw:/b"),
        ("cp", "@gw:/a", good, "@gw:/b"),
        ("cp", good, "@other:/x"),
    ):
        failed(place.net.zts(*arguments), 2)
    assert "offers you no service 'none'" in failed(place.net.zts("run", "@gw", "--service", "none", good), 5)


def test_a_board_that_is_gone(place: Place, tmp_path: Path) -> None:
    place.board.cut_power()
    try:
        done = place.net.zts("run", "@gw", script(tmp_path, ""))
        last = done.stderr.splitlines()[-1]
        assert done.returncode == 6 and last.startswith("zts: 6: @gw: the service's target does not answer"), done.stderr
    finally:
        place.board.start()
