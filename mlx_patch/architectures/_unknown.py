"""A table for an architecture that has none, guessed from its modules alone."""

from collections.abc import Iterator, Sequence
from typing import Any

import mlx.nn as nn

from mlx_patch.architectures._family import BLOCK_ENDS, Family
from mlx_patch.errors import ArchitectureError
from mlx_patch.sites import SITES

UNKNOWN = "unknown"
"""The name of a table that was guessed."""

PAGE = "docs/adding-an-architecture.md"
"""The page on how to write a table."""

NO_TABLE = f"this architecture has no table that says where that is; {PAGE} says how to add one"
"""Why an unknown architecture lacks all other sites."""


def guessed(model: nn.Module) -> Family:
    """A table with the two ends of each block, for an architecture that has none.

    Its blocks are the longest list of modules, of those that are not inside another.

    Width and vocabulary are 0: only a run can tell, and only a run can tell whether the guess is right.

    Raises:
        ArchitectureError: There is no list of modules.
    """
    lists = dict(_lists(model, ""))
    if not lists:
        raise ArchitectureError(without_table(model, "it has no list of modules that could be its blocks"))
    return Family(
        UNKNOWN,
        BLOCK_ENDS,
        absent={name: NO_TABLE for name in SITES if name not in BLOCK_ENDS},
        blocks=max(lists, key=lambda path: len(lists[path])),
        final_norm=None,
        width=0,
        vocabulary=0,
    )


def without_table(model: nn.Module, reason: str) -> str:
    """The message that refuses a model that has no table, for a reason as a clause."""
    return (
        f"`model` must be of an architecture that has a table. Got {type(model).__module__}, which has none and cannot "
        f"be read without one: {reason}. {PAGE} says how to add a table."
    )


def _lists(value: Any, path: str) -> Iterator[tuple[str, Sequence[nn.Module]]]:
    """Every list of modules under a module or a list, with its path, but none inside another: experts, say."""
    if isinstance(value, list | tuple):
        if value and all(isinstance(element, nn.Module) for element in value):
            yield path, value
            return
        children = enumerate(value)
    elif isinstance(value, nn.Module):
        children = value.items()
    else:
        return
    for name, child in children:
        yield from _lists(child, f"{path}.{name}".removeprefix("."))
