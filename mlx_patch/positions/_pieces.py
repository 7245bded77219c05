"""`Pieces`: the tokens of a prompt as text, and where in the text each of them lies."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_patch.errors import KindError, ShapeError, TokenError
from mlx_patch.positions._chat import Turn, turns_of
from mlx_patch.tokens import is_text_or_chat, tokenize

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer says for bytes that are not a whole character yet."""


@dataclass(frozen=True, eq=False)
class Pieces:
    """The tokens of one prompt, as text.

    A character that several tokens make together is the last one's, which is the first that knows it: the others have
    empty texts.

    Attributes:
        ids: The token ids.
        tokenizer: What they are tokens of; None where nothing is asked about text.
    """

    ids: tuple[int, ...]
    tokenizer: Any = None

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The text that each token adds.

        Raises:
            TokenError: There is no tokenizer.
        """
        if self.tokenizer is None:
            raise TokenError(
                "`tokenizer` must be given where positions go by text. Got None. Wrap the model with its tokenizer."
            )
        return tuple(_texts(self.ids, self.tokenizer))

    @cached_property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.texts)

    @cached_property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """The characters of each token, from and up to."""
        return tuple(pairwise(accumulate(map(len, self.texts), initial=0)))

    @cached_property
    def turns(self) -> tuple[Turn, ...]:
        """The messages of a chat that have content, with the positions of their content.

        Raises:
            TokenError: It is no chat, or the tokens do not say whose a part of it is.
        """
        if self.tokenizer is None:
            raise TokenError(
                "`tokenizer` must be given where positions go by role or turn. Got None. "
                "Wrap the model with its tokenizer."
            )
        return turns_of(self.ids, self.tokenizer)

    def within(self, start: int, end: int) -> tuple[int, ...]:
        """The positions whose tokens have a character in a part of the text."""
        return tuple(i for i, (low, high) in enumerate(self.spans) if low < end and high > start)

    def shown(self, positions: Sequence[int]) -> str:
        """Some positions with their tokens: `3 ' Mary', 9 ' Mary'`; without a tokenizer their ids."""
        names = map(repr, self.texts) if self.tokenizer is not None else map(str, self.ids)
        by_position = dict(enumerate(names))
        return ", ".join(f"{p} {by_position[p]}" for p in positions)


def _texts(ids: tuple[int, ...], tokenizer: Any) -> Iterator[str]:
    """What each token adds to the text, decoded beside the one before: alone it may lose a space or half a letter."""
    begin, done = 0, 0
    before = ""
    for i in range(len(ids)):
        now = tokenizer.decode(list(ids[begin : i + 1]))
        last = i + 1 == len(ids)
        if len(now) <= len(before) or (now.endswith(_INCOMPLETE) and not last):
            yield ""
            continue
        yield now[len(before) :]
        begin, done = done, i + 1
        before = tokenizer.decode(list(ids[begin:done]))


def prompt_ids(name: str, given: object, tokenizer: Any = None) -> tuple[int, ...]:
    """The token ids of one prompt.

    Args:
        name: The argument, for messages.
        given: Token ids `(pos,)` or `(1, pos)`, a text, or chat messages.
        tokenizer: For a text and for messages.
    Raises:
        TokenError: A text, and no tokenizer.
        KindError: Not integers.
        ShapeError: Several prompts, or none.
    """
    if is_text_or_chat(given):
        given = tokenize(tokenizer, given)
    array = np.array(given) if isinstance(given, mx.array) else np.asarray(given)
    if array.dtype.kind not in "iu":
        raise KindError(f"`{name}` must be token ids, a text or chat messages. Got {given!r}.")
    if array.ndim == 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 1 or array.size == 0:
        raise ShapeError(
            f"`{name}` must be one prompt, of shape (pos,) or (1, pos). Got {array.shape}. Take them one by one."
        )
    return tuple(int(token) for token in array)
