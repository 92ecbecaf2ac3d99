"""What is special of the agent on a host, and the set of files that goes on a board."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

import board as lane
from zts import codes
from zts_agent.keystore import Keystore
from zts_gateway.stage import stage


def test_only_the_owner_reads_the_state(tmp_path: Path) -> None:
    code = codes.JoinCode(bytes(32), bytes(16), "relay", 7440)
    store = Keystore(str(tmp_path / "state"))
    (tmp_path / "state").mkdir(mode=0o755)
    (tmp_path / "state" / "state.json.new").write_text("left by a crash")
    store.adopt(codes.format_enrol_line(codes.EnrolLine(code, bytes(32), bytes(32), "pi")))
    store.open()
    assert stat.S_IMODE((tmp_path / "state" / "state.json").stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["state.json"]
    fresh = Keystore(str(tmp_path / "a" / "b"))
    fresh.adopt(codes.format_enrol_line(codes.EnrolLine(code, bytes(32), bytes(32), "pi")))
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


@pytest.mark.parametrize("arch", lane.ARCHES)
def test_the_device_set_is_whole(tmp_path: Path, arch: str) -> None:
    written = stage(tmp_path, arch)
    assert sorted(tmp_path.rglob("*.*")) == sorted(tmp_path / path for path in written)
    expected = {path.relative_to(lane.EDGE).with_suffix(".mpy") for path in lane.EDGE.rglob("*.py") if path.stem != "_host"}
    assert set(written) == expected and not [path for path in written if "host" in path.name]
    assert all((tmp_path / path).read_bytes()[:2] == b"M\x06" for path in written)


def test_the_agent_needs_nothing_that_a_board_has_not(tmp_path: Path) -> None:
    """Importing all of it on the real interpreter, from the staged files only."""
    stage(tmp_path)
    code = "from zts_agent import main, page, agent\nprint(agent.Agent, page.page)\n"
    command = [str(Path(sys.executable).parent / "micropython"), "-X", "heapsize=256K", "-c", code]
    done = subprocess.run(command, env={"MICROPYPATH": f".frozen:{tmp_path}"}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
