"""`align`: the alignment of two prompts, by what they have in common."""

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import accumulate, pairwise
from typing import Any

from mlx_patch.errors import UnknownNameError, did_you_mean
from mlx_patch.positions._alignment import Alignment
from mlx_patch.positions._pieces import Pieces, prompt_ids

_CHANGED = ("ends", "none")


def align(
    clean: Any, corrupted: Any, tokenizer: Any = None, *, corrupted_tokenizer: Any = None, changed: str = "ends"
) -> Alignment:
    """Which position of one prompt stands for which of another of other length, by a diff of their words.

    Words that both prompts have, in order, belong together, token by token. Where words differ, as many in both, they
    belong together one by one, and so do the tokens of two that have equally many. Where one has more, the last tokens
    belong together, since under causal attention the token that ends a span is the first that has read all of it; the
    others are left out. Without a tokenizer each token is a word.

    Two tokenisers are aligned by characters: by a diff of the two texts, the tokens that end at the same character
    belong together. A character made of several tokens ends with the last of them.

    Args:
        clean: The source, whose activations are taken: token ids `(pos,)` or `(1, pos)`, a text, or chat messages.
        corrupted: The target, which they are put into; `.inverse` is the other way round.
        tokenizer: For texts and messages, and to print the alignment.
        corrupted_tokenizer: The tokenizer of `corrupted`, where it is another one.
        changed: What to do with what differs in length: "ends" maps the last tokens, "none" nothing.
    Returns:
        The map, explicit: print it and read it before you trust it.
    Raises:
        TokenError: A text without a tokenizer.
        UnknownNameError: `changed` is none of these.
        ValueRefusedError: The prompts have nothing in common.
    Example:
        >>> print(align([5, 6, 7, 9], [5, 8, 6, 1, 2, 9]))
        source | 5 | - | 6 | - | 7 | 9
        target | 5 | 8 | 6 | 1 | 2 | 9
    """
    if changed not in _CHANGED:
        near = did_you_mean(str(changed), _CHANGED)
        raise UnknownNameError(f"`changed` must be one of {', '.join(_CHANGED)}. Got {changed!r}. {near}")
    other = tokenizer if corrupted_tokenizer is None else corrupted_tokenizer
    source = Pieces(prompt_ids("clean", clean, tokenizer), tokenizer)
    target = Pieces(prompt_ids("corrupted", corrupted, other), other)
    pairs = _by_words(source, target, changed) if other is tokenizer else _by_characters(source, target)
    return Alignment(source.ids, target.ids, tuple(pairs), tokenizer, other)


Stretch = tuple[range, range]
"""A stretch of one sequence, and the stretch of another that stands in its place."""


def _stretches(one: Sequence[Any], other: Sequence[Any]) -> Iterator[tuple[bool, Stretch]]:
    """What two sequences have in common, and what stands in place of what; whether they are equal there."""
    for kind, a, a_end, b, b_end in SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        if kind in ("equal", "replace"):
            yield kind == "equal", (range(a, a_end), range(b, b_end))


def _by_words(source: Pieces, target: Pieces, changed: str) -> Iterator[tuple[int, int]]:
    words = [_words(pieces) for pieces in (source, target)]
    keys = [[pieces.ids[w.start : w.stop] for w in some] for pieces, some in zip((source, target), words, strict=True)]
    for equal, (ours, theirs) in _stretches(*keys):
        one_by_one = equal or len(ours) == len(theirs)
        for pair in zip(ours, theirs, strict=True) if one_by_one else [(ours, theirs)]:
            a, b = (_positions(some, at) for some, at in zip(words, pair, strict=True))
            if len(a) == len(b):
                yield from zip(a, b, strict=True)
            elif changed == "ends":
                yield a[-1], b[-1]


def _positions(words: Sequence[range], at: int | range) -> range:
    """The positions of a word, or of a stretch of them."""
    return words[at] if isinstance(at, int) else range(words[at[0]].start, words[at[-1]].stop)


def _words(pieces: Pieces) -> list[range]:
    """The positions of each word: letters and digits that stand together, with the space before them."""
    if pieces.tokenizer is None:
        return [range(i, i + 1) for i in range(len(pieces))]
    begins = [i for i in range(len(pieces)) if i == 0 or not _goes_on(pieces.texts[i - 1], pieces.texts[i])]
    return [range(a, b) for a, b in pairwise((*begins, len(pieces)))]


def _goes_on(before: str, text: str) -> bool:
    """Whether a token goes on with the word that the one before has begun."""
    return not before or not text or (before[-1].isalnum() and text[0].isalnum())


def _by_characters(source: Pieces, target: Pieces) -> Iterator[tuple[int, int]]:
    """Tokens that end at the same character of two texts; of stretches that differ, at the last one."""
    ends, same = _ends(source), dict(_same_characters(target.text, source.text))
    for end, position in _ends(target).items():
        at = same.get(end - 1)
        if at is not None and at + 1 in ends:
            yield ends[at + 1], position


def _same_characters(one: str, other: str) -> Iterator[tuple[int, int]]:
    """The characters of two texts that belong together, by a diff of their words: of characters it would take long."""
    words = [re.findall(r"\w+|\W", text) for text in (one, other)]
    starts = [list(accumulate(map(len, some), initial=0)) for some in words]
    for equal, (ours, theirs) in _stretches(*words):
        a, b = ((at[some[0]], at[some[-1] + 1]) for at, some in zip(starts, (ours, theirs), strict=True))
        yield from zip(range(*a), range(*b), strict=True) if equal else [(a[1] - 1, b[1] - 1)]


def _ends(pieces: Pieces) -> dict[int, int]:
    """The position of the token that ends at each character, where one does."""
    return {end: position for position, (start, end) in enumerate(pieces.spans) if end > start}
