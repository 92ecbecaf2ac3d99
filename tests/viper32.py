"""Runs a module's viper functions on CPython as a 32-bit chip would: words that wrap, pointers that must be aligned and in bounds.

The unix port of MicroPython has 64-bit words, so it can show neither a lost carry nor a Cortex-M0+ fault. Semantics: an int is a
signed word, a uint an unsigned one, the result of an operation has its left operand's kind (a literal takes the other's), ptr32
loads are ints. `load()` gives the module; its functions then take buffers where viper takes pointers. `trace`, while it is a list,
collects every access (address, size) for tests of constant time.
"""

import ast
import builtins
import operator
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

trace: list[tuple[int, int]] | None = None


class Int(int):
    """A signed word of 32 bits."""

    @staticmethod
    def wrap(value: int) -> int:
        return ((int(value) + 0x80000000) & 0xFFFFFFFF) - 0x80000000


class UInt(int):
    """An unsigned word of 32 bits."""

    @staticmethod
    def wrap(value: int) -> int:
        return int(value) & 0xFFFFFFFF


def _define(kind: type[Int] | type[UInt], name: str, op: Callable[[int, int], int]) -> None:
    shift = name in ("lshift", "rshift")

    def forward(self: int, other: int) -> int:
        if shift and not 0 <= other < 32:
            raise AssertionError(f"shift by {other}: chips differ")
        return kind(kind.wrap(op(int(self), int(other))))

    def backward(self: int, other: int) -> int:
        return forward(kind(kind.wrap(other)), self)

    setattr(kind, f"__{name}__", forward)
    setattr(kind, f"__r{name}__", backward)


for _kind in (Int, UInt):
    for _name in ("add", "sub", "mul", "lshift", "rshift", "and", "or", "xor"):
        _define(_kind, _name, getattr(operator, f"__{_name}__"))

_SPAN = 1 << 20  # address space of one buffer
_buffers: list[memoryview] = []


def _address(buffer: Any) -> int:
    """The address of a buffer's first byte; slices of one buffer lie in it, and a buffer itself on a multiple of 16."""
    view = memoryview(buffer)
    if view.readonly:
        view = memoryview(bytearray(view))
        start = 0
    else:
        # Where a slice starts is not told by memoryview: find it by a mark.
        whole = memoryview(view.obj).cast("B") if view.obj is not None else view
        start = _start(whole, view.cast("B"))
        view = whole
    _buffers.append(view.cast("B"))
    return len(_buffers) * _SPAN + start


def _start(whole: memoryview, part: memoryview) -> int:
    if len(part) == len(whole) or not len(part):
        return 0
    kept = part[0]
    candidates = [i for i in range(len(whole) - len(part) + 1) if whole[i] == kept]
    part[0] = kept ^ 0xFF
    found = [i for i in candidates if whole[i] == kept ^ 0xFF]
    part[0] = kept
    (start,) = found
    return start


class Pointer:
    """ptr8, ptr16 or ptr32."""

    size = 0

    def __init__(self, target: Any) -> None:
        self.address: int = builtins.int(target) if isinstance(target, builtins.int) else _address(target)
        self.view = _buffers[self.address // _SPAN - 1]

    def _at(self, index: int) -> int:
        at = self.address + builtins.int(index) * self.size
        assert at % self.size == 0, "unaligned"
        offset = at % _SPAN
        assert at // _SPAN == self.address // _SPAN and offset + self.size <= len(self.view), "out of bounds"
        if trace is not None:
            trace.append((offset, self.size))
        return offset

    def __getitem__(self, index: int) -> Int:
        at = self._at(index)
        return Int(Int.wrap(builtins.int.from_bytes(self.view[at : at + self.size], "little")))

    def __setitem__(self, index: int, value: int) -> None:
        at = self._at(index)
        self.view[at : at + self.size] = (builtins.int(value) & ((1 << 8 * self.size) - 1)).to_bytes(self.size, "little")


class Ptr8(Pointer):
    size = 1


class Ptr16(Pointer):
    size = 2


class Ptr32(Pointer):
    size = 4


def _int(value: Any) -> Int:
    return Int(value.address if isinstance(value, Pointer) else Int.wrap(value))


def _uint(value: int) -> UInt:
    return UInt(UInt.wrap(value))


def _range(*bounds: int) -> Any:
    return map(Int, range(*bounds))


class _Literals(ast.NodeTransformer):
    """Literals, int(), range() inside viper functions become words."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if type(node.value) is not builtins.int:
            return node
        assert -0x40000000 <= node.value <= 0x3FFFFFFF, "mpy-cross takes no such literal"
        return ast.copy_location(ast.Name(id=f"_literal_{node.value}", ctx=ast.Load()), node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id in ("int", "range"):
            node.id = f"_viper_{node.id}"
        return node


def load(path: Path, name: str, **names: Any) -> ModuleType:
    """The module at `path`, its viper functions emulated. `names` stand for what it imports from MicroPython's own modules."""
    tree = ast.parse(path.read_text())
    viper = []
    for node in list(tree.body):
        if isinstance(node, (ast.Import, ast.ImportFrom)) and not getattr(node, "module", "").startswith("zts"):
            module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
            if module in ("micropython", "cryptolib"):
                tree.body.remove(node)
        if isinstance(node, ast.FunctionDef) and node.decorator_list:
            viper.append(node)
    assert viper
    module_names: dict[str, Any] = {"_viper_int": _int, "_viper_range": _range, "uint": _uint}
    module_names |= {"ptr8": Ptr8, "ptr16": Ptr16, "ptr32": Ptr32, "const": lambda value: value} | names
    kinds = {"ptr8": Ptr8, "ptr16": Ptr16, "ptr32": Ptr32, "int": _int}
    signatures: dict[str, list[Callable[[Any], Any]]] = {}
    for node in viper:
        signatures[node.name] = [kinds[arg.annotation.id] for arg in node.args.args if isinstance(arg.annotation, ast.Name)]
        assert len(signatures[node.name]) == len(node.args.args)
        node.decorator_list.clear()
        node.returns = None
        for arg in node.args.args:
            arg.annotation = None
        for i, statement in enumerate(node.body):
            node.body[i] = _Literals().visit(statement)
        for child in ast.walk(node):
            if isinstance(child, ast.Name) and child.id.startswith("_literal_"):
                module_names[child.id] = Int(child.id.removeprefix("_literal_"))
    result = ModuleType(name)
    vars(result).update(module_names)
    exec(compile(ast.fix_missing_locations(tree), str(path), "exec"), vars(result))
    for function, converters in signatures.items():
        setattr(result, function, _entry(getattr(result, function), converters))
    return result


def _entry(function: Callable[..., Any], converters: list[Callable[[Any], Any]]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        _buffers.clear()
        return function(*(convert(arg) for convert, arg in zip(converters, args, strict=True)))

    call.__wrapped__ = function  # type: ignore[attr-defined]
    return call


def lines_of(function: Callable[[], object], path: Path) -> list[int]:
    """The lines of the file `path` that a call runs, in order: its branches."""
    lines: list[int] = []

    def local(frame: Any, event: str, _: Any) -> Any:
        if event == "line":
            lines.append(frame.f_lineno)
        return local

    def enter(frame: Any, event: str, _: Any) -> Any:
        return local if frame.f_code.co_filename == str(path) else None

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        function()
    finally:
        sys.settrace(before)
    return lines
