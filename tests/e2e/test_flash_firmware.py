"""`zts flash --firmware`: the way by esptool against a mock of the chip's boot loader. UF2 needs a board; only its refusals are here."""

import subprocess
import sys
from pathlib import Path

import pytest

from serial_cable import MockChip
from whole_network import WAIT_S, environment, failed
from zts_gateway import boards
from zts_gateway.virtual_board import VirtualBoard

FIRMWARE = b"\xe9" + bytes(range(256)) * 256
_INSTALL = """
import sys
from pathlib import Path
from zts_gateway import firmware
from zts_gateway.ui import Failure, say
try:
    firmware.install(sys.argv[1], Path(sys.argv[2]), sys.argv[3] or None)
except Failure as failure:
    say(f"zts: {int(failure.code)}: {failure}")
    sys.exit(int(failure.code))
"""


def install(tmp_path: Path, port: str, data: bytes, board: str = "") -> "subprocess.CompletedProcess[str]":
    """`--firmware` alone, as `zts` does it."""
    file = tmp_path / "firmware"
    file.write_bytes(data)
    command = [sys.executable, "-c", _INSTALL, port, str(file), board]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, env=environment(tmp_path))


@pytest.mark.parametrize("board", ["", "esp32"])
def test_esptool_writes_at_the_chips_offset(tmp_path: Path, board: str) -> None:
    with MockChip() as chip:
        done = install(tmp_path, chip.path, FIRMWARE, board)
    assert done.returncode == 0, done.stderr
    assert f"Wrote {-(-len(FIRMWARE) // 4) * 4} bytes" in done.stderr and "at 0x00001000" in done.stderr, done.stderr
    assert "Hash of data verified" in done.stderr


def test_what_is_no_firmware(tmp_path: Path) -> None:
    assert "neither firmware for an ESP32 (.bin) nor a UF2" in failed(install(tmp_path, "/dev/null", b"hello"), 2)


def test_a_port_without_a_boot_loader(tmp_path: Path) -> None:
    with VirtualBoard(tmp_path / "flash") as board:
        assert "hold BOOT" in failed(install(tmp_path, board.port, FIRMWARE, "esp32c3"), 4)


def test_every_chip_is_known_by_its_name() -> None:
    """What boards say of themselves, and what esptool says of their chips."""
    for machine, name in (
        ("Generic ESP32 module with ESP32", "esp32"),
        ("Generic ESP32S2 module with ESP32S2", "esp32s2"),
        ("Generic ESP32S3 module with ESP32S3", "esp32s3"),
        ("ESP32C3 module with ESP32C3", "esp32c3"),
        ("ESP32C6 module with ESP32C6", "esp32c6"),
    ):
        for profile in (boards.find("esp32", machine), boards.find_chip(name)):
            assert profile and profile.name == name
    for machine, name in (("Raspberry Pi Pico W with RP2040", "pico_w"), ("Raspberry Pi Pico 2 W with RP2350", "pico2_w")):
        profile = boards.find("rp2", machine)
        assert profile and profile.name == name
    assert boards.find("esp32", "something with ESP32P4") is None
    assert {boards.load(name).services["console"]["kind"] for name in boards.names()} == {"serial"}
    assert not any("repl" in boards.load(name).services for name in boards.names())
