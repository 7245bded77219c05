"""Metrics of what a model says when it is let."""

import re
from dataclasses import dataclass
from typing import ClassVar, NoReturn

import mlx.core as mx
from typing_extensions import override

from mlx_patch.errors import KindError, ValueRefusedError

from ._base import Metric

_LOOKS_AHEAD = ("$", "\\Z", "\\z", "\\b", "\\B", "(?!", "(?=", "(?>", "*+", "++", "?+", "}+")
"""What makes a match depend on what follows it."""

_UNFINISHED = "\ufffd"
"""What a tokenizer decodes the first bytes of a character to, before the others are there."""


@dataclass(frozen=True, repr=False)
class GenerateMatches(Metric):
    """Whether a regular expression matches what the model writes: 1 or 0, or the rate over several samples.

    The prompt runs with the edits, which act in it, and the model goes on from there by itself, as it would after
    `model.run`. Greedy, unless there are samples.

    Args:
        pattern: A regular expression, which is searched for in the text that comes after the prompt.
        max_tokens: So many tokens at most; the model's end-of-text token ends it before.
        samples: How many texts are drawn; 0 is the one greedy text.
        temperature: Of the samples.
        seed: Of the samples.
    Raises:
        KindError: `pattern` is no text, or a number is none.
        ValueRefusedError: `pattern` is no regular expression, or a number is out of range.
    Example:
        >>> GenerateMatches("<tool_call>", max_tokens=8).name
        "generate_matches('<tool_call>', max_tokens=8)"
    """

    pattern: str
    max_tokens: int = 40
    samples: int = 0
    temperature: float = 1.0
    seed: int = 0
    differentiable: ClassVar[bool] = False

    @override
    def __post_init__(self) -> None:
        if not isinstance(self.pattern, str):
            raise KindError(f"`pattern` must be a regular expression. Got {self.pattern!r}.")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueRefusedError(f"`pattern` must be a regular expression. Got {self.pattern!r}: {error}.") from None
        for name, least in (("max_tokens", 1), ("samples", 0), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise KindError(f"`{name}` must be a whole number. Got {value!r}.")
            if value < least:
                raise ValueRefusedError(f"`{name}` must be {least} or more. Got {value}.")
        if not self.temperature > 0:
            raise ValueRefusedError(f"`temperature` must be more than 0. Got {self.temperature}. Greedy is samples=0.")
        super().__post_init__()

    @override
    def measure(self, logits: mx.array) -> NoReturn:
        raise KindError(
            f"`metric` must be measured by letting the model write. Got logits for {self.name}. "
            "Use mp.measure(model, tokens, metric, edits), or mp.sweep."
        )

    def matches(self, text: str) -> bool:
        """Whether the text has a match."""
        return re.search(self.pattern, text) is not None

    def decided(self, text: str) -> bool:
        """Whether whatever follows the text changes nothing."""
        if text.endswith(_UNFINISHED) or any(part in self.pattern for part in _LOOKS_AHEAD):
            return False
        return self.matches(text)
