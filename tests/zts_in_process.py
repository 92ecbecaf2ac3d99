"""`zts` in this process: for commands that ask nobody, a tenth of the time. Whoever needs a real process has whole_network.zts."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

from zts_gateway import cli


def zts(home: Path, *arguments: str, stdin: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
    """As whole_network.zts: what it prints, and how it ends. It sees no terminal."""
    out, err = io.StringIO(), io.StringIO()
    umask = os.umask(0o077)
    os.umask(umask)
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            mock.patch.object(sys, "stdin", io.StringIO(stdin)),
            mock.patch.object(sys, "argv", ["zts", *arguments]),
            mock.patch.dict(os.environ, {"ZTS_HOME": str(home), **environment}),
        ):
            cli.main()
    except SystemExit as end:
        return subprocess.CompletedProcess(arguments, int(str(end.code)), out.getvalue(), err.getvalue())
    finally:
        os.umask(umask)
    raise AssertionError("main exits")
