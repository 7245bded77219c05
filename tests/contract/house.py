"""The house in figures: circles of imports, crowded folders, density, vague names, words a sentence in the docs.

Run `python tests/contract/house.py` from the project's root; a folder of the package as an argument shows it alone,
with the lines to look at. `test_house.py` holds the figures.
"""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mlx_patch"
VAGUE = frozenset(
    """again along apart asked began begun beside both came done each every found given gone got heard held here inside
    kept known least left made many more most now of one other others own part parts ran rest said seen several shown
    there together told wanted what which whole""".split()
)
"""Pronouns, participles and adverbs: names that do not say what a thing is."""

_COMPOUND = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.If, ast.For, ast.While, ast.With, ast.Try)
_TABLES = ("tables", "zoo")
"""Folders of one file an architecture, or of configurations."""


@cache
def trees(folder: Path = PACKAGE) -> dict[Path, ast.Module]:
    """Every module of a folder, parsed."""
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.py"))}


def module_name(path: Path) -> str:
    """`mlx_patch.engine._tap` of a file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(tree: ast.Module, modules: frozenset[str]) -> set[str]:
    """The modules that a module imports, wherever in it: under TYPE_CHECKING and inside functions as well."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in modules else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & modules


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or not."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen, left = set(), [start]
        while left:
            for other in graph[left.pop()] - seen:
                seen.add(other)
                left.append(other)
        reach[start] = seen
    groups = {tuple(sorted(b for b in reach[a] if a in reach[b])) for a in graph if a in reach[a]}
    return sorted(map(list, groups))


def import_graph() -> dict[str, set[str]]:
    """The package's modules, and what each imports; faces, which only hand names on, are left out."""
    named = {module_name(path): tree for path, tree in trees().items() if path.name != "__init__.py"}
    return {name: imports_of(tree, frozenset(named)) - {name} for name, tree in named.items()}


def crowded(most: int = 24) -> dict[str, int]:
    """Folders of mechanism with more files than `most`."""
    counts = Counter(path.parent.relative_to(ROOT) for path in trees())
    return {str(folder): n for folder, n in counts.items() if n > most and folder.name not in _TABLES}


def simple_statements(tree: ast.AST) -> Iterator[ast.stmt]:
    """Statements that hold no others, without imports and docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and not isinstance(node, (*_COMPOUND, ast.Import, ast.ImportFrom)):
            if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
                yield node


def bound_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every name that is bound: variables and parameters, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg) and node.arg not in ("self", "cls"):
            yield node.lineno, node.arg


def ternaries(tree: ast.AST) -> list[int]:
    """The lines of conditional expressions."""
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.IfExp)]


def nested(tree: ast.AST) -> list[int]:
    """The lines of ternaries inside ternaries, and of conditional comprehensions inside conditional comprehensions."""
    found = []
    for node in ast.walk(tree):
        inside = [child for child in ast.walk(node) if child is not node]
        if isinstance(node, ast.IfExp) and any(isinstance(child, ast.IfExp) for child in inside):
            found.append(node.lineno)
        elif _is_conditional(node) and any(_is_conditional(child) for child in inside):
            found.append(node.lineno)
    return found


def _is_conditional(node: ast.AST) -> bool:
    kinds = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    return isinstance(node, kinds) and any(part.ifs for part in node.generators)


def words_a_sentence() -> float:
    """The mean over README and docs, without code, tables, lists and generated pages."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    pages = [
        page for page in pages if page.stem != "architectures" and not {"architectures", "decisions"} & {*page.parts}
    ]
    texts = [re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL) for page in pages]
    lines = [line for text in texts for line in text.splitlines() if line.strip()]
    prose = " ".join(line for line in lines if not line.lstrip().startswith(("|", "#", ">>>", "!", "-", "*", "`")))
    counts = [len(sentence.split()) for sentence in re.split(r"(?<=[.!?])\s+", prose)]
    counts = [count for count in counts if count > 2]
    return sum(counts) / len(counts)


def figures(folder: Path = PACKAGE) -> dict[str, float]:
    """Density and names of a folder."""
    parsed = list(trees(folder).values())
    sizes = sorted(sum(1 for _ in ast.walk(node)) for tree in parsed for node in simple_statements(tree))
    names = [name for tree in parsed for _, name in bound_names(tree)]
    return {
        "nodes p90": sizes[int(0.9 * len(sizes))],
        "ternaries per 100 statements": 100 * sum(len(ternaries(tree)) for tree in parsed) / len(sizes),
        "nested": sum(len(nested(tree)) for tree in parsed),
        "vague names, percent": 100 * sum(name in VAGUE for name in names) / max(1, len(names)),
    }


def main(arguments: list[str]) -> None:
    """Print the figures; of a folder also where they come from."""
    if not arguments:
        print(
            {"circles": circles(import_graph()), "crowded": crowded(), "words a sentence": round(words_a_sentence(), 1)}
        )
    for folder in map(Path, arguments or [str(PACKAGE)]):
        print(folder, {name: round(value, 1) for name, value in figures(folder.resolve()).items()})
        if arguments:
            for path, tree in trees(folder.resolve()).items():
                vague = [f"{line}:{name}" for line, name in bound_names(tree) if name in VAGUE]
                large = [node.lineno for node in simple_statements(tree) if sum(1 for _ in ast.walk(node)) > 26]
                print(
                    f"  {path.name}: vague {vague}, ternaries {ternaries(tree)}, nested {nested(tree)}, large {large}"
                )


if __name__ == "__main__":
    main(sys.argv[1:])
