"""Constants folded into the code that names them: the values and nothing else, and the rest of the text as it was."""

import ast

import pytest

import board
from zts import wire
from zts_gateway import fold

SOURCE = '''"""Says wire.TLV_END here."""

from . import crypto, wire  # a comment
from .errors import RemoteError


def f(é: "wire.X") -> bytes:
    # wire.TLV_END stays in a comment
    text = f"{wire.VERSION} {é}"
    return bytes([wire.TLV_SID, wire.RETRY_MS[0]]) + wire.MAGIC_LEG + crypto.x(text)
'''


def test_read() -> None:
    constants, limits = fold.read_constants((board.EDGE / "zts" / "wire.py").read_text(encoding="utf-8"))
    left = {node.targets[0].id for node in ast.parse(limits).body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)}
    every = {name: value for name, value in vars(wire).items() if name.isupper() and not name.startswith("_")}
    assert constants == {name: value for name, value in every.items() if name not in left}
    assert left and set(every) == left | set(constants)
    with pytest.raises(ValueError):
        fold.read_constants("A = 1\n")


def test_only_constants_are_folded() -> None:
    folded = fold.fold(SOURCE, {"VERSION": 1, "TLV_SID": 131, "MAGIC_LEG": b"ZR1"})
    expected = SOURCE.replace("{wire.VERSION}", "{1}").replace("wire.TLV_SID", "131").replace("wire.MAGIC_LEG", "b'ZR1'")
    assert folded == expected  # RETRY_MS is still asked for, so the import stays


def test_an_import_that_nothing_needs_goes() -> None:
    assert fold.fold("from . import crypto, wire\nx = wire.A\n", {"A": 5}) == "from . import crypto\nx = 5\n"
    assert fold.fold("from zts import wire\nx = wire.A\n", {"A": 5}) == "pass\nx = 5\n"
    assert fold.fold("from zts import (\n    identity,\n    wire,\n)\nx = wire.A\n", {"A": 5}) == "from zts import identity\nx = 5\n"
    for kept in ("from zts import wire\nx = wire\n", "from zts import wire\nx = wire.A, wire.B\n"):
        assert fold.fold(kept, {"A": 5}).startswith("from zts import wire\n")
