"""`Pieces`: the tokens of a prompt as text, and the place of each in the text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

from mlx_patch import arguments
from mlx_patch.errors import SelectionError, ShapeError, TokenError
from mlx_patch.positions._chat import Turn, turns_of
from mlx_patch.tokens import is_text_or_chat, tokenize

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""The character that tokenizers decode bytes of an incomplete character to."""


_LARGEST = 2**31 - 1
"""The largest token id: tokenizers take 32 bits."""


@dataclass(frozen=True, eq=False)
class Pieces:
    """The tokens of one prompt, as text.

    A character that several tokens make together is the last one's, which is the first that knows it: the others have
    empty texts.

    Attributes:
        ids: The token ids.
        tokenizer: Their tokenizer; None where no text is needed.
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
                "`tokenizer` must be given if positions go by text. Got None. Wrap the model with its tokenizer."
            )
        return tuple(_texts(self.ids, arguments.tokenizer("tokenizer", self.tokenizer)))

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
                "`tokenizer` must be given if positions go by role or turn. Got None. Wrap the model with its "
                "tokenizer."
            )
        return turns_of(self.ids, self.tokenizer)

    def within(self, start: int, end: int) -> tuple[int, ...]:
        """The positions whose tokens have a character in a part of the text."""
        return tuple(position for position, (low, high) in enumerate(self.spans) if low < end and high > start)

    def shown(self, positions: Sequence[int]) -> str:
        """Some positions with their tokens: `3 ' Mary', 9 ' Mary'`; without a tokenizer their ids."""
        if self.tokenizer is None:
            names = list(map(str, self.ids))
        else:
            names = list(map(repr, self.texts))
        return ", ".join(f"{position} {names[position]}" for position in positions)


def _texts(ids: tuple[int, ...], tokenizer: Any) -> Iterator[str]:
    """The text that each token adds, decoded after those of the last character: alone it may lose a space."""
    # `start` to `complete` are the tokens of the last complete character, whose text is `before`.
    start, complete, before = 0, 0, ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(list(ids[start:end]))
        is_incomplete = text.endswith(_INCOMPLETE) and end < len(ids)
        if len(text) <= len(before) or is_incomplete:
            yield ""
            continue
        yield text[len(before) :]
        start, complete = complete, end
        before = tokenizer.decode(list(ids[start:complete]))


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
    prompt: object = given
    if is_text_or_chat(prompt):
        prompt = tokenize(tokenizer, prompt)
    array = arguments.whole_array(name, prompt, "token ids, a text or chat messages")
    if array.ndim == 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 1 or array.size == 0:
        raise ShapeError(
            f"`{name}` must be one prompt, of shape (pos,) or (1, pos). Got {array.shape}. Pass prompts one by one."
        )
    if array.min() < 0 or array.max() > _LARGEST:
        raise SelectionError(f"`{name}` must be token ids, from 0. Got {array.min()} to {array.max()}.")
    return tuple(int(token) for token in array)
