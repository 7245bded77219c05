"""A seeded draw of faults over nine packages, in proportion to their statements, and no fewer than a floor of each."""

import ast
import json
from pathlib import Path
from random import Random

from mutations import Mutant, mutants_of, sources

PACKAGES = (
    "engine",
    "interventions",
    "execution",
    "results",
    "attribution",
    "paths",
    "circuits",
    "lens",
    "dictionaries",
)
FLOOR = 16
"""Mutants of a package, at least."""


def quotas(root: Path, count: int, packages: tuple[str, ...] = PACKAGES) -> dict[str, int]:
    """How many mutants of each package: its share of the statements, or the floor."""
    sizes = {}
    for package in packages:
        trees = [ast.parse(source) for _, source in sources(root, package)]
        sizes[package] = sum(isinstance(node, ast.stmt) for tree in trees for node in ast.walk(tree))
    total = sum(sizes.values())
    return {package: max(FLOOR, round(count * size / total)) for package, size in sizes.items()}


def draw(root: Path, seed: int, count: int, packages: tuple[str, ...] = PACKAGES) -> list[Mutant]:
    """About `count` mutants. The same source and seed give the same; no two are on one line."""
    drawn = []
    for package, quota in quotas(root, count, packages).items():
        every = [mutant for path, source in sources(root, package) for mutant in mutants_of(source, path)]
        Random(f"{seed} {package}").shuffle(every)
        by_line: dict[tuple[str, int], Mutant] = {}
        for mutant in every:
            by_line.setdefault((mutant.path, mutant.line), mutant)
        for number, mutant in enumerate(list(by_line.values())[:quota], 1):
            drawn.append(mutant.named(f"{package}-{number:02}"))
    return drawn


def write_draw(file: Path, mutants: list[Mutant]) -> None:
    """One mutant a line, as JSON."""
    file.write_text("".join(json.dumps(mutant.to_json()) + "\n" for mutant in mutants), encoding="utf-8")


def read_draw(file: Path) -> list[Mutant]:
    """What `write_draw` wrote."""
    return [Mutant(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
