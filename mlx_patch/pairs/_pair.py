"""`PromptPair`: a clean and a corrupted prompt, what the first asks for, and what the second does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_patch.errors import KindError, SelectionError, TokenError, ValueRefusedError, brief
from mlx_patch.metrics import LogitDiff, ProbDiff, as_answers, single_tokens
from mlx_patch.model import HookedModel
from mlx_patch.positions import prompt_ids
from mlx_patch.tokens import is_text_or_chat, one_prompt

Wanted = Any
"""An answer: a string of one token or a token id; or several of them, of which each is right."""


@dataclass(frozen=True)
class PromptPair:
    """Two prompts that differ in what they ask for: the clean one for the answer, the corrupted one for the foil.

    Args:
        clean: A text, chat messages, or token ids `(pos,)` or `(1, pos)`.
        corrupted: The same; of equal length, so that positions mean the same in both.
        answer: A string of one token, with its space, or a token id. A list is a set of which each is right.
        foil: What the answer is compared with, in the same form.
    Raises:
        KindError: A prompt is none of these, or an answer is neither string nor id.
        ValueRefusedError: Answer and foil share something, or an answer is empty.
    Example:
        >>> pair = PromptPair("The capital of France is", "The capital of Italy is", " Paris", " Rome")
        >>> pair.swapped.answer
        ' Rome'
    """

    clean: Any
    corrupted: Any
    answer: Wanted
    foil: Wanted

    def __post_init__(self) -> None:
        for name in ("clean", "corrupted"):
            object.__setattr__(self, name, _prompt(name, getattr(self, name)))
        for name in ("answer", "foil"):
            object.__setattr__(self, name, _wanted(name, getattr(self, name)))
        if shared := [one for one in self.answers if one in self.foils]:
            raise ValueRefusedError(
                f"`foil` must differ from `answer`. Got {brief(shared[0])} for both. Write what the corrupted prompt "
                "asks for."
            )

    @property
    def answers(self) -> tuple[str | int, ...]:
        """The answer, or the set of them."""
        return self.answer if isinstance(self.answer, tuple) else (self.answer,)

    @property
    def foils(self) -> tuple[str | int, ...]:
        """The foil, or the set of them."""
        return self.foil if isinstance(self.foil, tuple) else (self.foil,)

    @property
    def has_sets(self) -> bool:
        """Whether answer or foil are sets, which `metrics.ProbDiff` measures."""
        return isinstance(self.answer, tuple) or isinstance(self.foil, tuple)

    @property
    def swapped(self) -> "PromptPair":
        """The pair the other way round: what was corrupted is clean, and the foil is the answer."""
        return PromptPair(self.corrupted, self.clean, self.foil, self.answer)

    def tokens(self, model: HookedModel) -> tuple[mx.array, mx.array]:
        """The tokens of the clean and of the corrupted prompt. Shape of each: `(1, pos)`.

        Raises:
            TokenError, SelectionError: A prompt that is none for this model.
        """
        clean, corrupted = (
            one_prompt(prompt, number, model.tokenizer, model.d_vocab)
            for number, prompt in enumerate((self.clean, self.corrupted))
        )
        return clean, corrupted

    def resolved(self, model: HookedModel) -> "PromptPair":
        """The pair as token ids, found to fit the model. Nothing is run.

        Raises:
            TokenError: A prompt gives no tokens or begins twice; an answer is not one token.
            SelectionError: A token that the model does not have.
            ValueRefusedError: Answer and foil are the same token.
        """
        clean, corrupted = self.tokens(model)
        return PromptPair(
            _once_begun("clean", clean, model.tokenizer),
            _once_begun("corrupted", corrupted, model.tokenizer),
            _ids("answer", self.answer, model, self),
            _ids("foil", self.foil, model, self),
        )


def metric_of(pairs: Sequence[PromptPair]) -> LogitDiff | ProbDiff:
    """The metric of pairs, with an answer and a foil for each."""
    if any(pair.has_sets for pair in pairs):
        return ProbDiff([pair.answers for pair in pairs], [pair.foils for pair in pairs])
    return LogitDiff([pair.answer for pair in pairs], [pair.foil for pair in pairs])


def _once_begun(name: str, tokens: mx.array, tokenizer: Any) -> mx.array:
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is not None and tokens[0, :2].tolist() == [bos, bos]:
        raise TokenError(
            f"`{name}` must begin once. Got two beginning-of-sequence tokens ({bos}). "
            "Take one away: the tokenizer adds its own to a text that has none."
        )
    return tokens


def _ids(name: str, wanted: Wanted, model: HookedModel, pair: PromptPair) -> Wanted:
    """An answer as token ids of the model; the refusal of several tokens names what measures them."""
    try:
        ids = single_tokens(name, wanted, model.tokenizer)
    except TokenError as error:
        sequence = f"mp.metrics.SequenceLogitDiff({brief(pair.answer)}, {brief(pair.foil)})"
        raise TokenError(f"{error} For answers of several tokens there is {sequence}.") from error
    for one in ids if isinstance(ids, tuple) else (ids,):
        if isinstance(one, int) and one >= model.d_vocab:
            raise SelectionError(f"`{name}` must be a token of the model, 0 to {model.d_vocab - 1}. Got {one}.")
    return ids


def _prompt(name: str, given: object) -> Any:
    """A prompt in a form that nobody writes into: a text, a tuple of messages or a tuple of ids."""
    if isinstance(given, str):
        return given
    if is_text_or_chat(given):
        return tuple(dict(message) if isinstance(message, Mapping) else message for message in given)
    if isinstance(given, list | tuple | mx.array | np.ndarray):
        return prompt_ids(name, given)
    raise KindError(f"`{name}` must be a text, chat messages or token ids. Got {type(given).__name__}.")


def _wanted(name: str, given: Any) -> Any:
    wanted = as_answers(name, given)
    for one in wanted if isinstance(wanted, tuple) else (wanted,):
        if one == "":
            raise ValueRefusedError(f"`{name}` must not be empty. Got ''. Write the next token, with its space.")
    return tuple(dict.fromkeys(wanted)) if isinstance(wanted, tuple) else wanted
