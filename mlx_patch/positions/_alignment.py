"""`Alignment`: the pairs of positions of two prompts that correspond."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any
from unicodedata import east_asian_width

from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.errors import KindError, SelectionError, ValueRefusedError, shown
from mlx_patch.positions._alignment_page import alignment_page
from mlx_patch.positions._pieces import Pieces, prompt_ids

_GAP = "-"


@dataclass(frozen=True, init=False)
class Alignment:
    """Which positions of two prompts belong together: what is taken from where, and put where.

    `mp.align(clean, corrupted)` makes one. Printed, it is two lines of text, one column a pair.

    Args:
        source_tokens: The prompt that activations come from. Token ids, `(pos,)` or `(1, pos)`.
        target_tokens: The prompt that they are put into.
        pairs: Positions `(source, target)`, which rise in both. Each at most once; those left out are not patched.
        source_tokenizer: To print the tokens as text.
        target_tokenizer: Likewise.

    Raises:
        SelectionError: A position that is not there.
        ValueRefusedError: The pairs do not rise, or there are none.
    Example:
        >>> alignment = Alignment((5, 6, 7), (5, 8, 9, 7), ((0, 0), (1, 2), (2, 3)))
        >>> print(alignment)
        source | 5 | - | 6 | 7
        target | 5 | 8 | 9 | 7
        >>> alignment.source_of(2), alignment.inverse.source_of(1)
        (1, 2)
    """

    source_tokens: tuple[int, ...]
    target_tokens: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]
    source_tokenizer: Any = field(default=None, repr=False, compare=False)
    target_tokenizer: Any = field(default=None, repr=False, compare=False)

    def __init__(
        self,
        source_tokens: Any,
        target_tokens: Any,
        pairs: Iterable[tuple[int, int]],
        source_tokenizer: Any = None,
        target_tokenizer: Any = None,
    ) -> None:
        checked = {
            "source_tokens": prompt_ids("source_tokens", source_tokens),
            "target_tokens": prompt_ids("target_tokens", target_tokens),
            "pairs": tuple(map(_checked_pair, arguments.entries("pairs", pairs, "pairs of positions"))),
            "source_tokenizer": arguments.tokenizer("source_tokenizer", source_tokenizer),
            "target_tokenizer": arguments.tokenizer("target_tokenizer", target_tokenizer),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        _refuse_bad(self.pairs, len(self.source_tokens), len(self.target_tokens))

    @property
    def sources(self) -> tuple[int, ...]:
        """The positions of the source that are taken, in order."""
        return tuple(source for source, _ in self.pairs)

    @property
    def targets(self) -> tuple[int, ...]:
        """The positions of the target that something is put into, in order."""
        return tuple(target for _, target in self.pairs)

    @cached_property
    def _source_of(self) -> dict[int, int]:
        return {target: source for source, target in self.pairs}

    def source_of(self, target: int) -> int:
        """The position of the source that stands for one of the target; negative ones count from its end.

        Raises:
            SelectionError: Nothing stands for it.
        """
        target = arguments.whole_number("target", target, error=SelectionError)
        absolute = target
        if target < 0:
            absolute += len(self.target_tokens)
        if absolute not in self._source_of:
            raise SelectionError(
                f"`pos` must be a position that the alignment has a source for. Got {target}. It has "
                f"{list(self.targets)}. Choose one of them, or give your own: mp.Alignment(source, target, pairs)."
            )
        return self._source_of[absolute]

    @property
    def inverse(self) -> "Alignment":
        """The same pairs the other way: what was the target is the source."""
        pairs = tuple((target, source) for source, target in self.pairs)
        return Alignment(self.target_tokens, self.source_tokens, pairs, self.target_tokenizer, self.source_tokenizer)

    @property
    def columns(self) -> tuple[tuple[int | None, int | None], ...]:
        """Every position of both in the order of reading: pairs together, the others with a gap beside them."""
        columns: list[tuple[int | None, int | None]] = []
        source_start, target_start = 0, 0
        ends = (len(self.source_tokens), len(self.target_tokens))
        for source, target in (*self.pairs, ends):
            columns += [(position, None) for position in range(source_start, source)]
            columns += [(None, position) for position in range(target_start, target)]
            columns.append((source, target))
            source_start, target_start = source + 1, target + 1
        return tuple(columns[:-1])

    def _repr_html_(self) -> str:
        source = _texts(self.source_tokens, self.source_tokenizer)
        target = _texts(self.target_tokens, self.target_tokenizer)
        heading = f"Alignment: {len(self.pairs)} pairs of {len(source)} and {len(target)} positions"
        return alignment_page(self.columns, source, target, heading)

    @override
    def __str__(self) -> str:
        source_words = _words(self.source_tokens, self.source_tokenizer)
        target_words = _words(self.target_tokens, self.target_tokenizer)
        source_line, target_line = ["source"], ["target"]
        for source, target in self.columns:
            source_word, target_word = _word_at(source, source_words), _word_at(target, target_words)
            width = max(_width(source_word), _width(target_word))
            source_line.append(_padded(source_word, width))
            target_line.append(_padded(target_word, width))
        return "\n".join(" | ".join(line).rstrip() for line in (source_line, target_line))


def _checked_pair(pair: Any) -> tuple[int, int]:
    positions = arguments.whole_numbers("pairs", pair, "pairs of positions")
    if len(positions) != 2:
        raise KindError(f"`pairs` must be pairs of positions. Got {shown(pair)}.")
    return positions[0], positions[1]


def _refuse_bad(pairs: Sequence[tuple[int, int]], n_source: int, n_target: int) -> None:
    if not pairs:
        raise ValueRefusedError(
            "`pairs` must hold a pair of positions. Got none: the two prompts have nothing in common. Give the pairs "
            "yourself: mp.Alignment(source, target, [(3, 4)])."
        )
    for source, target in pairs:
        if not (0 <= source < n_source and 0 <= target < n_target):
            raise SelectionError(
                f"`pairs` must lie within the {n_source} and {n_target} positions, counted from 0. "
                f"Got {(source, target)}."
            )
    for before, after in pairwise(pairs):
        if before[0] >= after[0] or before[1] >= after[1]:
            raise ValueRefusedError(
                f"`pairs` must be in rising order in source and target, and name each position once. Got {before}, "
                f"then {after}."
            )


def _words(ids: tuple[int, ...], tokenizer: Any) -> list[str]:
    """Tokens as they are written in a column."""
    texts = _texts(ids, tokenizer)
    if tokenizer is None:
        return texts
    return [_escaped(text) for text in texts]


def _texts(ids: tuple[int, ...], tokenizer: Any) -> list[str]:
    """Tokens as they are; numbers without a tokenizer."""
    if tokenizer is None:
        return list(map(str, ids))
    return list(Pieces(ids, tokenizer).texts)


def _escaped(text: str) -> str:
    """A token's text without line breaks and the like; a dot where it adds none."""
    if not text:
        return "\u00b7"
    return repr(text)[1:-1]


def _word_at(position: int | None, words: list[str]) -> str:
    return _GAP if position is None else words[position]


def _width(text: str) -> int:
    """The columns that a text takes on a terminal."""
    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))
