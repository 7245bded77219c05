"""`align`: the alignment of two prompts by the words that they share."""

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import accumulate, pairwise
from typing import Any

from mlx_patch import arguments
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
    changed = arguments.choice("changed", changed, _CHANGED)
    if corrupted_tokenizer is None:
        corrupted_tokenizer = tokenizer
    source = Pieces(prompt_ids("clean", clean, tokenizer), tokenizer)
    target = Pieces(prompt_ids("corrupted", corrupted, corrupted_tokenizer), corrupted_tokenizer)
    if corrupted_tokenizer is tokenizer:
        pairs = tuple(_by_words(source, target, changed))
    else:
        pairs = tuple(_by_characters(source, target))
    return Alignment(source.ids, target.ids, pairs, tokenizer, corrupted_tokenizer)


def _stretches(first: Sequence[Any], second: Sequence[Any]) -> Iterator[tuple[bool, range, range]]:
    """The stretches of two sequences that correspond: whether they are equal, and the indices in each."""
    matcher = SequenceMatcher(None, first, second, autojunk=False)
    for kind, first_start, first_end, second_start, second_end in matcher.get_opcodes():
        if kind in ("equal", "replace"):
            yield kind == "equal", range(first_start, first_end), range(second_start, second_end)


def _by_words(source: Pieces, target: Pieces, changed: str) -> Iterator[tuple[int, int]]:
    """Tokens of words that correspond."""
    for source_span, target_span in _word_spans(source, target):
        if len(source_span) == len(target_span):
            yield from zip(source_span, target_span, strict=True)
        elif changed == "ends":
            yield source_span[-1], target_span[-1]


def _word_spans(source: Pieces, target: Pieces) -> Iterator[tuple[range, range]]:
    """The positions of words that correspond; of whole stretches, where these have different numbers of words."""
    source_words, target_words = _words(source), _words(target)
    source_ids = [source.ids[word.start : word.stop] for word in source_words]
    target_ids = [target.ids[word.start : word.stop] for word in target_words]
    for _, source_stretch, target_stretch in _stretches(source_ids, target_ids):
        if len(source_stretch) == len(target_stretch):
            for source_word, target_word in zip(source_stretch, target_stretch, strict=True):
                yield source_words[source_word], target_words[target_word]
        else:
            yield _span(source_words, source_stretch), _span(target_words, target_stretch)


def _span(words: Sequence[range], stretch: range) -> range:
    """The positions of a stretch of words."""
    return range(words[stretch[0]].start, words[stretch[-1]].stop)


def _words(pieces: Pieces) -> list[range]:
    """The positions of each word: letters and digits that stand together, with the space before them."""
    if pieces.tokenizer is None:
        return [range(position, position + 1) for position in range(len(pieces))]
    continues = [_continues(before, text) for before, text in pairwise(pieces.texts)]
    starts = [0, *(position for position, goes_on in enumerate(continues, start=1) if not goes_on)]
    return [range(start, end) for start, end in pairwise((*starts, len(pieces)))]


def _continues(before: str, text: str) -> bool:
    """Whether a token continues the word that the token before it has begun."""
    return not before or not text or (before[-1].isalnum() and text[0].isalnum())


def _by_characters(source: Pieces, target: Pieces) -> Iterator[tuple[int, int]]:
    """Tokens that end at the same character of two texts; of stretches that differ, at the last one."""
    source_ends = _ends(source)
    source_characters = dict(_same_characters(target.text, source.text))  # by those of the target
    for target_end, target_position in _ends(target).items():
        character = source_characters.get(target_end - 1)
        if character is not None and character + 1 in source_ends:
            yield source_ends[character + 1], target_position


def _same_characters(first: str, second: str) -> Iterator[tuple[int, int]]:
    """The characters of two texts that correspond, by a diff of their words: one of characters would take long."""
    first_words, second_words = re.findall(r"\w+|\W", first), re.findall(r"\w+|\W", second)
    first_starts = list(accumulate(map(len, first_words), initial=0))
    second_starts = list(accumulate(map(len, second_words), initial=0))
    for is_equal, first_stretch, second_stretch in _stretches(first_words, second_words):
        first_end = first_starts[first_stretch.stop]
        second_end = second_starts[second_stretch.stop]
        if is_equal:
            first_span = range(first_starts[first_stretch.start], first_end)
            second_span = range(second_starts[second_stretch.start], second_end)
            yield from zip(first_span, second_span, strict=True)
        else:
            yield first_end - 1, second_end - 1


def _ends(pieces: Pieces) -> dict[int, int]:
    """The position of the token that ends at each character, where one does."""
    return {end: position for position, (start, end) in enumerate(pieces.spans) if end > start}
