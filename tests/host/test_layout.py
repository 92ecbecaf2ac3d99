"""The rules of the source tree that no tool knows. Each is first shown to find a violation, then held against the tree."""

import ast
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import board
from zts_gateway import stage

ROOT = board.TESTS.parent
SOURCES = sorted(path for folder in ("edge", "gateway", "relay", "firmware") for path in (ROOT / folder).rglob("*.py"))
EDGE = [path for path in SOURCES if path.is_relative_to(board.EDGE)]
ON_BOARD = [source for source, _ in stage.sources()] + sorted((ROOT / "firmware" / "zts_firmware").glob("*.py"))
MAX_LINES = 420
CHOOSERS = [board.EDGE / "zts" / "crypto" / "__init__.py", board.EDGE / "zts_agent" / "board.py"]
# CPython's modules that MicroPython lacks, or has in a form too large for a board.
NOT_ON_A_BOARD = {"abc", "dataclasses", "enum", "functools", "hmac", "logging", "pathlib", "secrets", "threading", "typing"}
NOT_IN_ASYNCIO = {"Queue", "TaskGroup", "timeout"}

Finding = tuple[int, str]


def _names(tree: ast.AST, module: str) -> set[str]:
    """The attributes of `module` that `tree` reads."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == module
    }


def branches_on_runtime(tree: ast.AST) -> Iterator[Finding]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If | ast.IfExp | ast.While):
            deciding: ast.AST = node.test
        elif isinstance(node, ast.Compare):
            deciding = node
        else:
            continue
        for name in _names(deciding, "sys") & {"implementation", "platform"}:
            yield node.lineno, f"decides by sys.{name}"


def catches_import_error(tree: ast.AST) -> Iterator[Finding]:
    """A handler that ends in an error of its own chooses nothing."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is not None and not isinstance(node.body[-1], ast.Raise):
            for name in ast.walk(node.type):
                if isinstance(name, ast.Name) and name.id in ("ImportError", "ModuleNotFoundError"):
                    yield node.lineno, f"catches {name.id}"


def leaves_the_dialect(tree: ast.AST) -> Iterator[Finding]:
    """What runs on CPython and not, or not as well, on MicroPython."""
    for node in _at_run_time(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Import):
            modules = {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules = {(node.module or "").split(".")[0]}
        else:
            modules = set()
        for module in modules & NOT_ON_A_BOARD:
            yield line, f"imports {module}"
        if isinstance(node, ast.Match | ast.NamedExpr | ast.TryStar):
            yield line, type(node).__name__
        if isinstance(node, ast.Delete) and any(isinstance(t, ast.Subscript) and isinstance(t.slice, ast.Slice) for t in node.targets):
            yield line, "del of a slice"
        if isinstance(node, ast.ClassDef) and node.keywords:
            yield line, "metaclass"
        if isinstance(node, ast.arguments) and node.posonlyargs:
            yield node.posonlyargs[0].lineno, "positional-only argument"
        if isinstance(node, ast.Attribute):
            for name in _names(node, "asyncio") & NOT_IN_ASYNCIO:
                yield line, f"asyncio.{name}"


def _at_run_time(tree: ast.AST) -> Iterator[ast.AST]:
    """As ast.walk, without the bodies of `if TYPE_CHECKING`."""
    yield tree
    if isinstance(tree, ast.If) and any(isinstance(node, ast.Name) and node.id == "TYPE_CHECKING" for node in ast.walk(tree.test)):
        children = [tree.test, *tree.orelse]
    else:
        children = list(ast.iter_child_nodes(tree))
    for child in children:
        yield from _at_run_time(child)


def _held(rule: Callable[[ast.AST], Iterator[Finding]], paths: list[Path]) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {what}" for path in paths for line, what in rule(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        (branches_on_runtime, "if sys.implementation.name == 'micropython': pass"),
        (branches_on_runtime, "x = 1 if sys.platform else 2"),
        (branches_on_runtime, "x = 'micropython' in sys.implementation.name"),
        (catches_import_error, "try: import x\nexcept (OSError, ImportError): pass"),
        (leaves_the_dialect, "import dataclasses"),
        (leaves_the_dialect, "from typing import Any"),
        (leaves_the_dialect, "if TYPE_CHECKING: pass\nelse: import enum"),
        (leaves_the_dialect, "def f(a, /): pass"),
        (leaves_the_dialect, "class A(metaclass=B): pass"),
        (leaves_the_dialect, "del a[1:]"),
        (leaves_the_dialect, "if (a := b): pass"),
        (leaves_the_dialect, "match a:\n case 1: pass"),
        (leaves_the_dialect, "asyncio.timeout(1)"),
    ],
)
def test_a_violation_is_found(rule: Callable[[ast.AST], Iterator[Finding]], line: str) -> None:
    assert list(rule(ast.parse(line)))


def test_types_may_be_imported_for_the_checker() -> None:
    assert not list(leaves_the_dialect(ast.parse("if TYPE_CHECKING:\n    from typing import Any")))


def test_there_are_sources() -> None:
    assert {"zts", "zts_agent", "zts_firmware", "zts_gateway", "zts_relay"} <= {
        part for path in SOURCES for part in path.relative_to(ROOT).parts
    }
    assert all(path.is_file() for path in CHOOSERS)


def test_no_file_is_a_drawer_for_everything() -> None:
    drawers = {"common", "commons", "util", "utils", "helpers", "misc"}
    assert not [path for path in SOURCES if drawers & {part.removesuffix(".py") for part in path.relative_to(ROOT).parts}]


def test_files_stay_readable_in_one_go() -> None:
    long = {str(path.relative_to(ROOT)): n for path in SOURCES if (n := len(path.read_text(encoding="utf-8").splitlines())) >= MAX_LINES}
    assert not long


def test_only_two_files_choose_by_runtime() -> None:
    # A backend knows its runtime, and may ask which port or system it is on.
    backends = [path for path in EDGE if path.name in ("_device.py", "_host.py")]
    _held(branches_on_runtime, [path for path in EDGE if path not in CHOOSERS + backends])
    for path in CHOOSERS:
        assert list(branches_on_runtime(ast.parse(path.read_text(encoding="utf-8")))), path


def test_no_file_of_edge_chooses_by_a_missing_module() -> None:
    _held(catches_import_error, EDGE)


def test_what_goes_on_a_board_keeps_to_the_dialect() -> None:
    _held(leaves_the_dialect, ON_BOARD)


def test_what_goes_on_a_board_parses_under_micropython(tmp_path: Path) -> None:
    parser = tmp_path / "parse.py"
    parser.write_text("import sys\nfor path in sys.argv[1:]:\n    with open(path) as file:\n        compile(file.read(), path, 'exec')\n")
    command = [str(board.MICROPYTHON), "-X", "heapsize=4M", str(parser)]
    done = subprocess.run([*command, *map(str, ON_BOARD)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    bad = tmp_path / "bad.py"
    bad.write_text("match 1:\n    case 1: pass\n")
    assert subprocess.run([*command, str(bad)], capture_output=True, timeout=60).returncode != 0
