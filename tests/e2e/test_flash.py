"""`zts flash` on a virtual board: from an empty flash to a connection, two at once, and what it refuses."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import serial

from cable_tap import CableTap
from flash_lab import LAST_BYTES, fetch, flash, is_verified, state_of
from secret_search import found
from whole_network import WAIT_S, Network, Running, failed, network, until, zts
from zts_gateway.virtual_board import VirtualBoard


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with network(tmp_path_factory.mktemp("net"), "embedded") as net:
        yield net


@pytest.fixture
def board(tmp_path: Path) -> Iterator[VirtualBoard]:
    with VirtualBoard(tmp_path / "flash") as board:
        yield board


def test_from_an_empty_flash_to_a_connection(net: Network, board: VirtualBoard, tmp_path: Path) -> None:
    with CableTap(tmp_path / "cable", board.port) as tap:
        printed = flash(net, tap.link, "@sensor42")
        state = state_of(board)
        is_verified(net, board, "sensor42")
        assert printed.split() == ["@sensor42", net.listed("sensor42")["fp"], "console,", "http"]
        fetch(net, "sensor42")
        secrets = {"private key": bytes.fromhex(state["private"])}
        assert not list(found(secrets, [("up", bytes(tap.up)), ("down", bytes(tap.down))]))
        # The pairing secret does go over the cable: the search finds what is there.
        line = {"pairing secret": bytes.fromhex(state["pairing"]), "public key": bytes.fromhex(state["public"])}
        assert list(found(line, [("up", bytes(tap.up)), ("down", bytes(tap.down))])) == ["public key in up", "pairing secret in down"]
        before = len(tap)
        flash(net, tap.link, "@sensor42")
        assert len(tap) - before < LAST_BYTES  # nothing was copied again
    assert state_of(board)["private"] == state["private"]


def test_two_boards_at_once(net: Network, board: VirtualBoard, tmp_path: Path) -> None:
    with VirtualBoard(tmp_path / "one") as one, VirtualBoard(tmp_path / "two") as two:
        runs = [
            Running(net.home, tmp_path / f"run{number}", "flash", flashed.port, "--name", f"@twin{number}")
            for number, flashed in enumerate((one, two))
        ]
        for run in runs:
            assert run.process.wait(WAIT_S) == 0, run.err
        for number, flashed in enumerate((one, two)):
            is_verified(net, flashed, f"twin{number}")
            fetch(net, f"twin{number}")
        assert state_of(one)["private"] != state_of(two)["private"]
        assert "flash it with --name @twin0" in failed(net.zts("flash", one.port, "--name", "@third"), 2)
        assert "is another board" in failed(net.zts("flash", board.port, "--name", "@twin1"), 2)


def test_what_is_the_persons_stays(net: Network, board: VirtualBoard) -> None:
    board.cut_power()
    (board.folder / "boot.py").write_text("import sys\n")
    (board.folder / "main.py").write_text("print('mine')\n")
    board.start()
    done = net.zts("flash", board.port, "--name", "@owned")
    assert done.returncode == 0, done.stderr
    assert "your main.py is now main.before-zts.py" in done.stderr
    assert (board.folder / "main.before-zts.py").read_text() == "print('mine')\n"
    assert (board.folder / "boot.py").read_text() == "import sys\n"
    is_verified(net, board, "owned")
    board.cut_power()
    (board.folder / "main.py").write_text("print('again')\n")
    board.start()
    assert "main.before-zts.py too" in failed(net.zts("flash", board.port, "--name", "@owned"), 2)
    assert (board.folder / "main.py").read_text() == "print('again')\n"


def test_check(net: Network, board: VirtualBoard) -> None:
    def check() -> str:
        done = net.zts("flash", board.port, "--check")
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = check()
    assert "MicroPython 1." in said and ", x64" in said
    assert "main.py    missing" in said and "identity   none" in said
    flash(net, board.port, "@checked")
    said = check()
    assert net.listed("checked")["fp"] in said and "@checked" in said and "relay      enrolled" in said and "good, which boots" in said
    assert not list(found({key: bytes.fromhex(state_of(board)[key]) for key in ("private", "pairing")}, [("--check", said.encode())]))
    until(lambda: net.listed("checked")["online"], "it runs on after a check")
    (board.folder / "agent" / "a" / "zts" / "noise.mpy").write_bytes(b"damaged")
    (board.folder / "agent" / "a" / "zts" / "leg.mpy").unlink()
    said = check()
    assert "1 changed, 1 missing" in said and "changed: zts/noise.mpy" in said and "missing: zts/leg.mpy" in said
    flash(net, board.port, "@checked")
    is_verified(net, board, "checked")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("config.json", '{"wifi": [{"name": "x"}, 5], "services": {}}'),
        ("config.json", '{"wifi": {"ssid": "x"}}'),
        ("state/state.json", '{"public": "zz", "name": 5}'),
        ("state/state.json", '{"public": "' + "é" * 64 + '", "name": "x"}'),
        ("state/state.json", "[1]"),
        ("a/manifest.json", "[1]"),
        ("a/manifest.json", '{"files": [[1, 2]], "version": 7}'),
    ],
)
def test_files_that_somebody_spoiled(net: Network, board: VirtualBoard, path: str, text: str) -> None:
    spoiled = board.folder / "agent" / path
    spoiled.parent.mkdir(parents=True)
    (board.folder / "agent" / "slots.mpy").write_bytes(b"")
    spoiled.write_text(text)
    done = net.zts("flash", board.port, "--check")
    assert done.returncode == 0 and "MicroPython" in done.stdout, done.stderr
    assert ("the state is damaged" in done.stdout) == path.startswith("state")


def test_a_folder_of_the_persons_is_not_taken_for_ours(net: Network, board: VirtualBoard) -> None:
    mine = board.folder / "agent" / "a" / "notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    (board.folder / "agent" / "config.json").write_text('{"mine": 1}')
    assert "folder /agent of yours" in failed(net.zts("flash", board.port, "--name", "@named"), 2)
    assert mine.read_text() == "mine" and (board.folder / "agent" / "config.json").read_text() == '{"mine": 1}'


def test_its_own_services(net: Network, board: VirtualBoard, tmp_path: Path) -> None:
    profile = tmp_path / "mine.toml"
    profile.write_text('[services.page]\nkind = "http"\ntarget = "zts_agent.page:page"\n')
    assert flash(net, board.port, "@mine", "--board", str(profile)).split()[2:] == ["page"]
    assert flash(net, board.port, "@mine").split()[2:] == ["page"]  # they stay
    assert flash(net, board.port, "@mine", "--board", "virtual").split()[2:] == ["console,", "http"]
    profile.write_text('[services.page]\nkind = "http"\ntarget = "no.such:module"\n')
    assert "cannot be imported" in failed(net.zts("flash", board.port, "--name", "@mine", "--board", str(profile)), 2)
    profile.write_text('[services.page]\nkind = "gopher"\n')
    assert "the kind is one of" in failed(net.zts("flash", board.port, "--name", "@mine", "--board", str(profile)), 2)
    assert "no board 'esp99'" in failed(net.zts("flash", board.port, "--name", "@mine", "--board", "esp99"), 2)


def test_removed_and_flashed_again_it_keeps_its_key(net: Network, board: VirtualBoard) -> None:
    flash(net, board.port, "@kept")
    private = state_of(board)["private"]
    assert net.zts("remove", "@kept", "--yes").returncode == 0
    flash(net, board.port, "@renamed")
    assert state_of(board)["private"] == private and state_of(board)["name"] == "renamed"
    is_verified(net, board, "renamed")


def test_a_board_of_another_owner_is_refused(net: Network, board: VirtualBoard, tmp_path: Path) -> None:
    flash(net, board.port, "@taken")
    other = tmp_path / "bob"
    code = net.relay.new_code()
    assert zts(other, "join", "--name", "@bob", "--code-file", "-", stdin=code).returncode == 0
    assert "another owner" in failed(zts(other, "flash", board.port, "--name", "@mine"), 2)
    is_verified(net, board, "taken")


def test_what_cannot_be_done(net: Network, board: VirtualBoard, tmp_path: Path) -> None:
    assert "there is no /dev/no-such-port" in failed(net.zts("flash", "/dev/no-such-port", "--name", "@x"), 2)
    assert "say with --name" in failed(net.zts("flash", board.port), 2)
    assert "--wifi" in failed(net.zts("flash", board.port, "--name", "@x", "--password-file", "-"), 2)
    assert "8 to 64" in failed(net.zts("flash", board.port, "--name", "@x", "--wifi", "home", "--password-file", "-", stdin="short"), 2)
    with serial.Serial(board.port, exclusive=True):
        assert "in use" in failed(net.zts("flash", board.port, "--name", "@x"), 6)
    assert "no identity yet" in failed(zts(tmp_path / "nobody", "flash", board.port, "--name", "@x"), 2)


def test_ctrl_c(net: Network, board: VirtualBoard) -> None:
    with net.run("interrupted", "flash", board.port, "--name", "@interrupted") as run:
        run.said("copying the agent")
        assert run.interrupt() == 130
        assert run.err.splitlines()[-1] == "zts: 130: interrupted"
    flash(net, board.port, "@interrupted")
    is_verified(net, board, "interrupted")


def test_a_mute_port(net: Network, tmp_path: Path) -> None:
    near, far = os.openpty()
    port = tmp_path / "port"
    port.symlink_to(os.ttyname(far))
    try:
        assert "no MicroPython answers" in failed(net.zts("flash", str(port), "--name", "@mute"), 4)
    finally:
        os.close(near)
        os.close(far)


def test_a_full_flash(net: Network, tmp_path: Path) -> None:
    with VirtualBoard(tmp_path / "flash", size="64K") as board:
        assert "no room" in failed(net.zts("flash", board.port, "--name", "@full"), 6)
        assert not (board.folder / "main.py").exists()


def test_wifi(net: Network, tmp_path: Path) -> None:
    with VirtualBoard(tmp_path / "flash", networks={"home": "first password"}) as board:
        done = net.zts("flash", board.port, "--name", "@radio", "--wifi", "home", "--password-file", "-", stdin="wrong password\n")
        assert "cannot join the Wi-Fi network home" in failed(done, 4)
        flash(net, board.port, "@radio", "--wifi", "home", "--password-file", "-", stdin="first password\n")
        is_verified(net, board, "radio")
        before = state_of(board)
        done = net.zts("wifi", "@radio", "--ssid", "cellar", "--password-file", "-", stdin="second password\n")
        assert done.returncode == 0 and "tries it first" in done.stderr and "after it home" in done.stderr, done.stderr
        config = json.loads((board.folder / "agent" / "config.json").read_text())
        assert [one["ssid"] for one in config["wifi"]] == ["cellar", "home"]
        # The old network stays as the one to fall back to, and the new one is taken as soon as the old one is gone.
        fetch(net, "radio")
        with serial.Serial(board.port, timeout=WAIT_S) as port:  # listening does not disturb it
            board.set_networks({"cellar": "second password"})
            assert port.read_until(b"cellar").endswith(b"cellar"), "it never joins the new network"
        until(lambda: net.listed("radio")["online"], "and is online again")
        # And by cable: the network alone changes.
        board.set_networks({"attic": "third password"})
        flash(net, board.port, "@radio", "--wifi", "attic", "--password-file", "-", stdin="third password\n")
        assert state_of(board)["private"] == before["private"]
        said = net.zts("flash", board.port, "--check").stdout
        assert "wifi       attic, cellar, home" in said and "password" not in said
