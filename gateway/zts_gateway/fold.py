"""Puts the protocol's constants into the code that names them, before it is compiled for a device.

MicroPython's own `const` does so within one module only. A name costs a board its letters in every module that says it, and a
dictionary look-up each time: folding saves 6 % of the files. Limits stay names, so that tests can set smaller ones.
"""

import ast
from typing import Final

MODULE: Final = "wire"
LIMITS: Final = "# --- limits ---"  # what stands in the module from this line on is not folded

Constants = dict[str, int | bytes]


def read_constants(source: str) -> tuple[Constants, str]:
    """The constants of the module's `source`, and what is left of it for the device: its limits."""
    head, line, limits = source.partition(LIMITS)
    if not line:
        raise ValueError(f"{MODULE} has no line that begins with {LIMITS}")
    found: Constants = {}
    for node in ast.parse(head).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = ast.literal_eval(node.value)
    return found, line + limits


def fold(source: str, constants: Constants) -> str:
    """`source` with each `wire.NAME` of `constants` as its value, and without an import that nothing needs any more."""
    tree = ast.parse(source)
    edits: list[tuple[int, int, str]] = []
    starts = _line_starts(source)

    def span(node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

    named = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == MODULE:
            named += 1
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == MODULE and node.attr in constants:
            edits.append((*span(node), repr(constants[node.attr])))
    if named == len(edits):
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and any(alias.name == MODULE for alias in node.names):
                names = [alias.name for alias in node.names if alias.name != MODULE]
                text = f"from {'.' * node.level}{node.module or ''} import {', '.join(names)}" if names else "pass"
                edits.append((*span(node), text))
    data = source.encode()  # as ast counts columns
    for start, end, text in sorted(edits, reverse=True):
        assert data[start:end].startswith((f"{MODULE}.".encode(), b"from ")), "ast is wrong about a place, as it is in some f-strings"
        data = data[:start] + text.encode() + data[end:]
    return data.decode()


def _line_starts(source: str) -> list[int]:
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    return starts
