"""`Spelling`: tokens as the vocabulary spells them, which loses no space and no half of a character."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

from mlx_patch.chats import special_tokens


@dataclass(frozen=True, eq=False)
class Spelling:
    """Tokens as the vocabulary spells them, `▁hello` or `Ġhello` say, one after the other.

    A template's words cannot be looked for in the result of `decode`, which may drop the first space or put one between
    any two tokens.

    Attributes:
        tokens: The spelling of each token.
    """

    tokens: tuple[str, ...]

    @classmethod
    def of(cls, ids: Sequence[int], tokenizer: Any) -> "Spelling":
        """The spelling of some token ids."""
        if not hasattr(tokenizer, "convert_ids_to_tokens"):
            return cls(tuple(tokenizer.decode([token]) for token in ids))
        return cls(tuple(map(_spelt, tokenizer.convert_ids_to_tokens(list(ids)))))

    @cached_property
    def text(self) -> str:
        """All of them together."""
        return "".join(self.tokens)

    @cached_property
    def _spans(self) -> tuple[tuple[int, int], ...]:
        return tuple(pairwise(accumulate(map(len, self.tokens), initial=0)))

    def within(self, start: int, end: int) -> tuple[int, ...]:
        """The positions whose tokens have a letter in a part of the text."""
        return tuple(position for position, (low, high) in enumerate(self._spans) if low < end and high > start)

    def special(self, tokenizer: Any) -> tuple[tuple[int, int], ...]:
        """The spans of special tokens in the text, without the token for unknown words."""
        special = special_tokens(tokenizer) - {getattr(tokenizer, "unk_token", None)}
        return tuple(span for token, span in zip(self.tokens, self._spans, strict=True) if token in special)


def _spelt(token: Any) -> str:
    if token is None:
        return ""
    if isinstance(token, bytes):
        return token.decode("latin-1")
    return str(token)
