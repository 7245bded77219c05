"""`PromptPair`: a clean and a corrupted prompt, the answer to the first, and the answer to the second."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_patch.errors import KindError, SelectionError, TokenError, ValueRefusedError, brief
from mlx_patch.metrics import LogitDiff, ProbDiff, as_answers, single_tokens
from mlx_patch.model import HookedModel, require_hooked
from mlx_patch.pairs._pages import pairs_page
from mlx_patch.positions import prompt_ids
from mlx_patch.tokens import is_text_or_chat, one_prompt

Wanted = Any
"""An answer: a string of one token or a token id; or several of them, any of which is right."""


@dataclass(frozen=True)
class PromptPair:
    """Two prompts that differ in what they ask for: the clean one for the answer, the corrupted one for the foil.

    Args:
        clean: A text, chat messages, or token ids `(pos,)` or `(1, pos)`.
        corrupted: The same; of equal length, so that positions mean the same in both.
        answer: A string of one token, with its space, or a token id. A list is a set, any of which is right.
        foil: The answer to the corrupted prompt, with which `answer` is compared, in the same form.
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
            object.__setattr__(self, name, _frozen_prompt(name, getattr(self, name)))
        for name in ("answer", "foil"):
            object.__setattr__(self, name, _checked_answer(name, getattr(self, name)))
        if shared := [answer for answer in self.answers if answer in self.foils]:
            raise ValueRefusedError(
                f"`foil` must differ from `answer`. Got {brief(shared[0])} for both. Give the answer to the corrupted "
                "prompt."
            )

    @property
    def answers(self) -> tuple[str | int, ...]:
        """The answer, or the set of them."""
        return _as_tuple(self.answer)

    @property
    def foils(self) -> tuple[str | int, ...]:
        """The foil, or the set of them."""
        return _as_tuple(self.foil)

    @property
    def has_sets(self) -> bool:
        """Whether answer or foil are sets, which `metrics.ProbDiff` measures."""
        return isinstance(self.answer, tuple) or isinstance(self.foil, tuple)

    @property
    def swapped(self) -> "PromptPair":
        """The pair with clean and corrupted, and answer and foil, exchanged."""
        return PromptPair(self.corrupted, self.clean, self.foil, self.answer)

    def tokens(self, model: HookedModel) -> tuple[mx.array, mx.array]:
        """The tokens of the clean and of the corrupted prompt. Shape of each: `(1, pos)`.

        Raises:
            TokenError, SelectionError: A prompt that is none for this model.
        """
        require_hooked("model", model)
        clean = one_prompt(self.clean, 0, model.tokenizer, model.d_vocab)
        corrupted = one_prompt(self.corrupted, 1, model.tokenizer, model.d_vocab)
        return clean, corrupted

    def resolved(self, model: HookedModel) -> "PromptPair":
        """The pair as token ids, checked to fit the model. Nothing is run.

        Raises:
            TokenError: A prompt gives no tokens or begins twice; an answer is not one token.
            SelectionError: A token that the model does not have.
            ValueRefusedError: Answer and foil are the same token.
        """
        clean, corrupted = self.tokens(model)
        _refuse_double_bos("clean", clean, model.tokenizer)
        _refuse_double_bos("corrupted", corrupted, model.tokenizer)
        answer = _answer_ids("answer", self.answer, model, self)
        foil = _answer_ids("foil", self.foil, model, self)
        return PromptPair(clean, corrupted, answer, foil)

    def _repr_html_(self) -> str:
        return pairs_page("PromptPair", [(self.clean, self.corrupted)], [(self.answer, self.foil)])


def metric_of(pairs: Sequence[PromptPair]) -> LogitDiff | ProbDiff:
    """The metric of pairs, with an answer and a foil for each."""
    if any(pair.has_sets for pair in pairs):
        return ProbDiff([pair.answers for pair in pairs], [pair.foils for pair in pairs])
    return LogitDiff([pair.answer for pair in pairs], [pair.foil for pair in pairs])


def _as_tuple(answer: Wanted) -> tuple[str | int, ...]:
    if isinstance(answer, tuple):
        return answer
    return (answer,)


def _refuse_double_bos(name: str, tokens: mx.array, tokenizer: Any) -> None:
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is not None and tokens[0, :2].tolist() == [bos, bos]:
        raise TokenError(
            f"`{name}` must begin with one beginning-of-sequence token. Got two ({bos}). Remove one: the tokenizer "
            "adds its own to text that has none."
        )


def _answer_ids(name: str, answer: Wanted, model: HookedModel, pair: PromptPair) -> Wanted:
    """An answer as token ids of the model; the error for several tokens names the metric for them."""
    try:
        ids = single_tokens(name, answer, model.tokenizer)
    except TokenError as error:
        sequence = f"mp.metrics.SequenceLogitDiff({brief(pair.answer)}, {brief(pair.foil)})"
        raise TokenError(f"{error} For answers of several tokens, use {sequence}.") from error
    for token in _as_tuple(ids):
        if isinstance(token, int) and token >= model.d_vocab:
            raise SelectionError(f"`{name}` must be a token of the model, 0 to {model.d_vocab - 1}. Got {token}.")
    return ids


def _frozen_prompt(name: str, prompt: object) -> Any:
    """A prompt that cannot be changed: a text, a tuple of messages or a tuple of ids."""
    if isinstance(prompt, str):
        return prompt
    if is_text_or_chat(prompt):
        return tuple(map(_copied_message, prompt))
    if isinstance(prompt, list | tuple | mx.array | np.ndarray):
        return prompt_ids(name, prompt)
    raise KindError(f"`{name}` must be a text, chat messages or token ids. Got {type(prompt).__name__}.")


def _copied_message(message: Any) -> Any:
    if isinstance(message, Mapping):
        return dict(message)
    return message


def _checked_answer(name: str, answer: Any) -> Any:
    checked = as_answers(name, answer)
    if "" in _as_tuple(checked):
        raise ValueRefusedError(f"`{name}` must not be empty. Got ''. Write the next token, with its space.")
    if isinstance(checked, tuple):
        return tuple(dict.fromkeys(checked))
    return checked
