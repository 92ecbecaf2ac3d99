"""`zts flash --firmware FILE`: puts MicroPython on a chip, with esptool over the cable or as a file on the volume of a UF2 boot loader."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from zts_gateway import boards
from zts_gateway.ui import Exit, Failure, Progress, say

_VOLUME_S: Final = 60  # for a person to hold BOOTSEL too
_PORT_S: Final = 30  # for the new MicroPython to show its port
_LOOK_S: Final = 0.2
_MOUNTS: Final = Path("/proc/mounts")
_VOLUMES: Final = Path("/Volumes")  # macOS
_UF2_MAGIC: Final = b"UF2\n"
_ESP_MAGIC: Final = b"\xe9"


def install(port: str, file: Path, board: str | None) -> None:
    """Returns when it is written, and MicroPython's port is there. Raises Failure."""
    try:
        with file.open("rb") as opened:
            head = opened.read(4)
    except OSError as error:
        raise Failure(
            Exit.USAGE, f"cannot read {file} ({error.strerror}); download MicroPython for your board, then name that file"
        ) from None
    if head == _UF2_MAGIC:
        _copy_uf2(port, file, board)
    elif head[:1] == _ESP_MAGIC:
        _write_with_esptool(port, file, board)
    else:
        raise Failure(Exit.USAGE, f"{file} is neither firmware for an ESP32 (.bin) nor a UF2 file; download MicroPython for your board")
    end = time.monotonic() + _PORT_S
    while not Path(port).exists():
        if time.monotonic() > end:
            raise Failure(Exit.OFFLINE, f"MicroPython is on the board, but there is no {port} yet; look for its port with `mpremote devs`")
        time.sleep(_LOOK_S)


def _write_with_esptool(port: str, file: Path, board: str | None) -> None:
    profile = boards.load(board) if board in boards.names() else boards.find_chip(_ask_chip(port))
    about = profile.about.get("firmware", {}) if profile else {}
    if "esptool" not in about:
        raise Failure(
            Exit.USAGE,
            "this chip is none that ZTS knows the place of its firmware of; write it with esptool, then run it without --firmware",
        )
    say(f"writing {file.name} with esptool …")
    _esptool("--port", port, "--chip", about["esptool"], "write-flash", hex(about["offset"]), str(file))


def _ask_chip(port: str) -> str:
    """As esptool calls it: "esp32s3"."""
    found = re.search(
        r"(?:Detecting chip type\.*|Connected to|Chip type:)\s*(ESP32[-\w]*)", _esptool("--port", port, "chip-id", quiet=True)
    )
    if not found:
        raise Failure(Exit.USAGE, "esptool does not say which chip it is; say it with --board")
    return re.match(r"esp32(?:s2|s3|c3|c6)?", found[1].lower().replace("-", ""))[0]  # type: ignore[index]


def _esptool(*arguments: str, quiet: bool = False) -> str:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "esptool", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if quiet else sys.stderr,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    except OSError as error:
        raise Failure(Exit.INTERNAL, f"cannot start esptool ({error.strerror}); install zts anew") from None
    if done.returncode:
        last = [line for line in (done.stdout or "").splitlines() if line.strip()][-1:]
        raise Failure(
            Exit.OFFLINE,
            f"esptool could not do it ({''.join(last) or 'see above'}); hold BOOT while you press reset, then run it again",
        )
    return done.stdout or ""


def _copy_uf2(port: str, file: Path, board: str | None) -> None:
    profile = boards.load(board) if board in boards.names() else None
    wanted = [profile.about["firmware"]["uf2"]] if profile and "uf2" in profile.about.get("firmware", {}) else _uf2_volumes()
    with Progress() as progress:
        if Path(port).exists():
            progress.step(f"starting the boot loader of the board at {port} …")
            _start_boot_loader(port)
        progress.step(f"waiting for the volume {' or '.join(wanted)}; if it does not come, hold BOOTSEL while you plug the board in …")
        end = time.monotonic() + _VOLUME_S
        while not (volumes := [volume for volume in _mounted() if volume.name in wanted]):
            if time.monotonic() > end:
                raise Failure(
                    Exit.OFFLINE, f"no volume {' or '.join(wanted)} came; hold BOOTSEL while you plug the board in, mount it, run it again"
                )
            time.sleep(_LOOK_S)
        if len(volumes) > 1:
            raise Failure(Exit.USAGE, f"there are {len(volumes)} boards in their boot loader; unplug all but one, then run it again")
        progress.step(f"copying {file.name} to {volumes[0]} …")
        try:
            with file.open("rb") as source, (volumes[0] / file.name).open("wb") as target:
                shutil.copyfileobj(source, target)
                target.flush()
                os.fsync(target.fileno())  # a volume is written back when the system likes, which may be later than we wait
        except OSError as error:
            # The board restarts as soon as it has the last block, which may be before the copy is closed.
            if volumes[0].exists() and volumes[0] in _mounted():
                raise Failure(Exit.REFUSED, f"cannot write to {volumes[0]} ({error.strerror}); run it again") from None


def _uf2_volumes() -> list[str]:
    return [volume for name in boards.names() if (volume := boards.load(name).about.get("firmware", {}).get("uf2"))]


def _mounted() -> list[Path]:
    if _MOUNTS.exists():
        return [Path(line.split()[1].replace("\\040", " ")) for line in _MOUNTS.read_text().splitlines()]
    return list(_VOLUMES.iterdir()) if _VOLUMES.is_dir() else []


def _start_boot_loader(port: str) -> None:
    from zts_gateway.cable import Cable

    cable = Cable(port)
    try:
        cable.enter()
        cable.boot_loader()
    except Failure as failure:
        if failure.code != Exit.OFFLINE:
            raise
    finally:
        cable.close()
