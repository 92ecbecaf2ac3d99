"""What is taken out of a module for a device: names of constants and what only a checker reads, and the rest stays as it was."""

import ast

import pytest

import board
from zts import wire
from zts_gateway.shrink import read_constants, shrink

SOURCE = '''"""Says wire.TLV_END here."""

from . import crypto, wire  # a comment
from .errors import RemoteError


def f(é: "wire.X") -> bytes:
    # wire.TLV_END stays in a comment
    text = f"{wire.VERSION} {é}"
    return bytes([wire.TLV_SID, wire.RETRY_MS[0]]) + wire.MAGIC_LEG + crypto.x(text)
'''


def test_read() -> None:
    constants, limits = read_constants((board.EDGE / "zts" / "wire.py").read_text(encoding="utf-8"))
    left = {node.targets[0].id for node in ast.parse(limits).body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)}
    every = {name: value for name, value in vars(wire).items() if name.isupper() and not name.startswith("_")}
    assert constants == {name: value for name, value in every.items() if name not in left}
    assert left and set(every) == left | set(constants)
    with pytest.raises(ValueError):
        read_constants("A = 1\n")


def test_only_constants_are_folded() -> None:
    folded = shrink(SOURCE, {"VERSION": 1, "TLV_SID": 131, "MAGIC_LEG": b"ZR1"})
    expected = SOURCE.replace("{wire.VERSION}", "{1}").replace("wire.TLV_SID", "131").replace("wire.MAGIC_LEG", "b'ZR1'")
    assert folded == expected  # RETRY_MS is still asked for, so the import stays


def test_an_import_that_nothing_needs_goes() -> None:
    assert shrink("from . import crypto, wire\nx = wire.A\n", {"A": 5}) == "from . import crypto\nx = 5\n"
    assert shrink("from zts import wire\nx = wire.A\n", {"A": 5}) == "pass\nx = 5\n"
    assert shrink("from zts import (\n    identity,\n    wire,\n)\nx = wire.A\n", {"A": 5}) == "from zts import identity\nx = 5\n"
    for kept in ("from zts import wire\nx = wire\n", "from zts import wire\nx = wire.A, wire.B\n"):
        assert shrink(kept, {"A": 5}).startswith("from zts import wire\n")


def test_a_modules_own_numbers() -> None:
    assert shrink("_A = 5\n_B = _A * 2\nx = f(_A)\n", {}) == "pass\n_B = 5 * 2\nx = f(5)\n"
    for kept in (
        "A = 5\nx = A\n",
        "_a = 5\nx = _a\n",
        "_A = 'five'\nx = _A\n",
        "_A = True\nx = _A\n",
        "_A = 5\n_A = 6\nx = _A\n",
        "_A = 5\ndef f():\n    global _A\n    _A += 1\n",
        "_A = 5\nfor _A in x:\n    y(_A)\n",
    ):
        assert shrink(kept, {}) == kept


def test_what_a_checker_reads_goes() -> None:
    assert shrink("TYPE_CHECKING = False\nif TYPE_CHECKING:\n    from typing import Any\n\nx = 1\n", {}) == "pass\npass\n\nx = 1\n"
    choice = "import sys\nif TYPE_CHECKING or sys.implementation.name != 'micropython':\n    from a import x\n"
    assert (
        shrink(choice + "else:\n    from b import (\n        x,\n    )\n    y = x\n", {})
        == "import sys\nfrom b import (\n    x,\n)\ny = x\n"
    )
    kept = "if sys.implementation.name == 'micropython':\n    x = 1\n"
    assert shrink(kept, {}) == kept
