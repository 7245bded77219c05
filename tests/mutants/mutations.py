"""Small faults of a source, one place each: what `campaign.py` draws from, and what one of them makes of the text.

Left alone are docstrings, annotations, texts of errors and of `__repr__`, overloads, assertions, what is for type
checkers only, and `strict=` of `zip`, which says what cannot happen.
"""

import ast
from collections.abc import Iterator
from copy import copy
from dataclasses import asdict, dataclass, replace
from functools import singledispatch
from pathlib import Path

BOUNDARY = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
OPPOSITE = {
    ast.Lt: ast.GtE,
    ast.LtE: ast.Gt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Lt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
NAMES = {
    "min": "max",
    "any": "all",
    "minimum": "maximum",
    "argmin": "argmax",
    "zeros": "ones",
    "zeros_like": "ones_like",
    "mean": "sum",
    "floor": "ceil",
    "first": "last",
    "left": "right",
} | {"max": "min", "all": "any", "maximum": "minimum", "argmax": "argmin", "ones": "zeros", "ones_like": "zeros_like"}
"""Functions whose names change places in a call."""

UNTOUCHED_FUNCTIONS = frozenset({"__repr__", "__str__", "_repr_html_", "_repr_markdown_"})
UNSWAPPED = frozenset({"min", "max", "minimum", "maximum", "isinstance", "issubclass", "getattr", "hasattr", "setattr"})
"""Calls whose arguments, changed about, mean the same or are refused whatever the test."""


@dataclass(frozen=True)
class Mutant:
    """One fault: what stands where the bytes from `start` to `end` stood.

    Args:
        path: The file, from the project's root.
        line: Line of the place, from 1; `last_line` is that of its end.
        start: Offset in bytes of the file; `end` is one past the last.
        function: Where the place is, as `Class.method`; empty for the module's own level.
        operator: Which kind of fault.
        after: The text put there.
        name: `paths-03` in a draw.
    """

    path: str
    line: int
    last_line: int
    start: int
    end: int
    function: str
    operator: str
    before: str
    after: str
    name: str = ""

    def applied(self, source: str) -> str:
        """The source with the fault in it."""
        data = source.encode()
        return (data[: self.start] + self.after.encode() + data[self.end :]).decode()

    def named(self, name: str) -> "Mutant":
        """The same fault under a name."""
        return replace(self, name=name)

    def to_json(self) -> dict:
        """Its fields."""
        return asdict(self)


def mutants_of(source: str, path: str) -> Iterator[Mutant]:
    """Every fault of a source, in the order of its syntax tree."""
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node, function in _places(ast.parse(source), ""):
        start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        before = source.encode()[start:end].decode()
        negated = [("condition negated", f"(not ({ast.unparse(node)}))")] if hasattr(node, "decides") else []
        for operator, after in [*faults(node), *negated]:
            yield Mutant(path, node.lineno, node.end_lineno, start, end, function, operator, before, after)


def sources(root: Path, package: str) -> Iterator[tuple[str, str]]:
    """The files of one package of mlx_patch: the path from the root, and the text."""
    for path in sorted((root / "mlx_patch" / package).rglob("*.py")):
        yield str(path.relative_to(root)), path.read_text(encoding="utf-8")


def _places(node: ast.AST, function: str) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    for child in _children(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            if child.name in UNTOUCHED_FUNCTIONS or "overload" in map(ast.unparse, child.decorator_list):
                continue
            inner = f"{function}.{child.name}".lstrip(".")
        else:
            inner = function
        if isinstance(child, ast.expr | ast.stmt):
            yield child, inner
        yield from _places(child, inner)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """What may be changed within a node."""
    if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom):
        return
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    if isinstance(node, ast.If) and not _is_negated_elsewhere(node.test):
        node.test.decides = True
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_strict(child):
                yield child


def _is_negated_elsewhere(test: ast.expr) -> bool:
    """Whether a fault of the expression itself is its negation."""
    single = isinstance(test, ast.Compare) and len(test.ops) == 1
    return single or (isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not))


def _alike(pair: list[ast.expr]) -> bool:
    """Whether two arguments are of one kind, so that one may pass for the other, and differ."""
    if len(pair) < 2 or isinstance(pair[0], ast.Starred):
        return False
    return type(pair[0]) is type(pair[1]) and ast.unparse(pair[0]) != ast.unparse(pair[1])


def _is_strict(node: ast.AST) -> bool:
    return isinstance(node, ast.keyword) and node.arg == "strict"


def _changed(node: ast.AST, **fields) -> str:
    """The text of a copy of a node with other fields."""
    other = copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return f"({ast.unparse(other)})"


def _negated(test: ast.expr) -> ast.expr:
    return ast.UnaryOp(ast.Not(), test)


@singledispatch
def faults(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Kinds of faults at one node, and what each puts in its place. Most nodes have none."""
    yield from ()


@faults.register
def _(node: ast.Compare):
    if len(node.ops) > 1:
        return
    kind = type(node.ops[0])
    if kind in BOUNDARY:
        yield "boundary moved", _changed(node, ops=[BOUNDARY[kind]()])
    yield "comparison reversed", _changed(node, ops=[OPPOSITE[kind]()])


@faults.register
def _(node: ast.BinOp):
    sides = (node.left, node.right)
    of_types = all(isinstance(side, ast.Name | ast.Attribute) and ast.unparse(side)[:1].isupper() for side in sides)
    of_text = any(
        isinstance(side, ast.JoinedStr) or (isinstance(side, ast.Constant) and isinstance(side.value, str))
        for side in sides
    )
    if type(node.op) in ARITHMETIC and not of_types and not of_text:
        yield "arithmetic", _changed(node, op=ARITHMETIC[type(node.op)]())


@faults.register
def _(node: ast.BoolOp):
    yield "and/or", _changed(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    for place in range(len(node.values)):
        rest = node.values[:place] + node.values[place + 1 :]
        yield "operand dropped", f"({ast.unparse(rest[0])})" if len(rest) == 1 else _changed(node, values=rest)


@faults.register
def _(node: ast.UnaryOp):
    if isinstance(node.op, ast.Not | ast.USub):
        yield "not or minus dropped", f"({ast.unparse(node.operand)})"


@faults.register
def _(node: ast.Constant):
    if isinstance(node.value, bool):
        yield "constant", str(not node.value)
    elif isinstance(node.value, int):
        yield "constant", str(node.value + 1)
    elif isinstance(node.value, float):
        yield "constant", str(node.value * 2 or 1.0)


@faults.register
def _(node: ast.Slice):
    for bound in ("lower", "upper"):
        value = getattr(node, bound)
        if value is not None:
            yield "bound dropped", _changed(node, **{bound: None})[1:-1]
            if not isinstance(value, ast.Constant | ast.UnaryOp):
                yield "bound moved", _changed(node, **{bound: ast.BinOp(value, ast.Add(), ast.Constant(1))})[1:-1]


@faults.register
def _(node: ast.Return):
    if node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
        yield "returns None", "return None"


@faults.register
def _(node: ast.Raise):
    yield "raise removed", "pass"


@faults.register
def _(node: ast.Expr):
    if isinstance(node.value, ast.Call):
        yield "statement removed", "pass"


@faults.register
def _(node: ast.Assign):
    if isinstance(node.targets[0], ast.Attribute | ast.Subscript):
        yield "statement removed", "pass"


@faults.register(ast.AugAssign)
@faults.register(ast.Delete)
def _(node: ast.stmt):
    yield "statement removed", "pass"


@faults.register
def _(node: ast.Continue):
    yield "continue/break", "break"


@faults.register
def _(node: ast.Break):
    yield "continue/break", "continue"


@faults.register
def _(node: ast.IfExp):
    yield "condition negated", _changed(node, test=_negated(node.test))


@faults.register(ast.ListComp)
@faults.register(ast.SetComp)
@faults.register(ast.DictComp)
@faults.register(ast.GeneratorExp)
def _(node: ast.ListComp):
    for place, generator in enumerate(node.generators):
        if generator.ifs:
            freed = copy(generator)
            freed.ifs = generator.ifs[1:]
            others = [*node.generators[:place], freed, *node.generators[place + 1 :]]
            yield "condition dropped", _changed(node, generators=others)[1:-1]


@faults.register
def _(node: ast.Call):
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in NAMES:
        func = copy(node.func)
        setattr(func, "attr" if isinstance(func, ast.Attribute) else "id", NAMES[name])
        yield "other function", _changed(node, func=func)
    if name not in UNSWAPPED and _alike(node.args[:2]):
        yield "arguments swapped", _changed(node, args=[node.args[1], node.args[0], *node.args[2:]])
    for place, keyword in enumerate(node.keywords):
        if keyword.arg is not None and keyword.arg != "strict":
            rest = node.keywords[:place] + node.keywords[place + 1 :]
            yield "keyword dropped", _changed(node, keywords=rest)
