"""`KnownRun`: what the run that cells of paths were made of knows already."""

from dataclasses import dataclass

from mlx_patch.model import RunResult


@dataclass(frozen=True, eq=False)
class KnownRun:
    """The run of a group of prompts with standing edits alone, where it was run to make the cells.

    Attributes:
        result: Its logits where they are read, unevaluated, and the stream at its end.
        unchanged: The numbers of the cells that change nothing in it.
    """

    result: RunResult
    unchanged: frozenset[int]
