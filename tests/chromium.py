"""Headless Chromium on pages of loopback addresses, each run with a profile of its own that is thrown away."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

CHROMIUM = shutil.which("chromium")
WAIT_S = 90.0

_OPTIONS = (
    "--headless",
    "--no-sandbox",  # it runs as root in containers; the pages are the tests' own
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    # Names are ours, or there are none: nothing leaves this computer.
    "--host-resolver-rules=MAP evil.test 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)


@contextlib.contextmanager
def browsing(folder: Path, url: str) -> Iterator[None]:
    """Shows `url` while it is entered. `folder` is new. The name evil.test means 127.0.0.1."""
    assert CHROMIUM
    folder.mkdir()
    environment = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        command = [CHROMIUM, *_OPTIONS, f"--user-data-dir={folder / 'profile'}", "--remote-debugging-port=0", url]
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, start_new_session=True)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # it and its children, which are all in its session
        process.wait(WAIT_S)
