"""Takes out of a module's text what a device need not know, before it is compiled for one: a tenth of the files, and of their heap.

- The protocol's constants become their values. A name costs its letters in every module that says it, and a dictionary look-up each
  time; MicroPython's own `const` works within one module only. Limits stay names, so that tests can set smaller ones.
- A module's own whole numbers, `_NAME = 5`, likewise; one without the underscore stays, for the same reason.
- What only a type checker reads goes, and the other side of a choice between the runtimes.
"""

import ast
import re
from collections import Counter
from typing import Final

MODULE: Final = "wire"
LIMITS: Final = "# --- limits ---"  # what stands in the module from this line on stays
CHECKING: Final = "TYPE_CHECKING"

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


def shrink(source: str, constants: Constants) -> str:
    """`source` with the values of `constants` for `wire.NAME`."""
    return _fold(_drop_checking(source), constants)


class _Text:
    """A source, and places in it that are to read otherwise."""

    def __init__(self, source: str) -> None:
        self.tree = ast.parse(source)
        self._data = source.encode()  # as ast counts columns
        self._starts = [0]
        for line in self._data.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._edits: list[tuple[int, int, bytes]] = []

    def __len__(self) -> int:
        return len(self._edits)

    def _span(self, first: ast.stmt | ast.expr, last: ast.stmt | ast.expr) -> tuple[int, int]:
        assert last.end_lineno is not None and last.end_col_offset is not None
        return self._starts[first.lineno - 1] + first.col_offset, self._starts[last.end_lineno - 1] + last.end_col_offset

    def replace(self, node: ast.stmt | ast.expr, text: str) -> None:
        start, end = self._span(node, node)
        there, meant = self._data[start:end].decode(), ast.unparse(node)
        assert there == meant or ast.unparse(ast.parse(there)) == meant, "ast is wrong about a place, as in some f-strings"
        self._edits.append((start, end, text.encode()))

    def replace_by(self, node: ast.stmt, body: list[ast.stmt]) -> None:
        """Puts what stands in a block of `node`, at its level, in its place."""
        start, end = self._span(body[0], body[-1])
        text = self._data[start:end].decode().replace("\n" + " " * body[0].col_offset, "\n")
        self._edits.append((*self._span(node, node), text.encode()))

    def result(self) -> str:
        data = self._data
        for start, end, text in sorted(self._edits, reverse=True):
            data = data[:start] + text + data[end:]
        return data.decode()


def _drop_checking(source: str) -> str:
    text = _Text(source)
    for node in text.tree.body:
        named = node.targets[0] if isinstance(node, ast.Assign) else node.test if isinstance(node, ast.If) else None
        if named is not None and ast.unparse(named) == CHECKING:
            text.replace(node, "pass")
        elif isinstance(node, ast.If) and ast.unparse(node.test).startswith(f"{CHECKING} or sys.implementation.name"):
            text.replace_by(node, node.orelse)
    return text.result()


def _own_numbers(tree: ast.Module, nodes: list[ast.AST]) -> dict[str, int]:
    stored = Counter(node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    stored.update(name for node in nodes if isinstance(node, ast.Global) for name in node.names)
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Constant):
            name, value = node.targets[0].id, node.value.value
            if re.fullmatch("_[A-Z][A-Z0-9_]*", name) and type(value) is int and stored[name] == 1:
                found[name] = value
    return found


def _fold(source: str, constants: Constants) -> str:
    text = _Text(source)
    nodes = list(ast.walk(text.tree))
    numbers = _own_numbers(text.tree, nodes)
    named = folded = 0
    for node in nodes:
        if isinstance(node, ast.Name):
            if node.id == MODULE:
                named += 1
            elif node.id in numbers and isinstance(node.ctx, ast.Load):
                text.replace(node, repr(numbers[node.id]))
        elif isinstance(node, ast.Attribute) and node.attr in constants and ast.unparse(node.value) == MODULE:
            folded += 1
            text.replace(node, repr(constants[node.attr]))
    for statement in text.tree.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) in numbers:
            text.replace(statement, "pass")
        elif named == folded and isinstance(statement, ast.ImportFrom) and any(alias.name == MODULE for alias in statement.names):
            names = [alias.name for alias in statement.names if alias.name != MODULE]
            origin = "." * statement.level + (statement.module or "")
            text.replace(statement, f"from {origin} import {', '.join(names)}" if names else "pass")
    return text.result()
