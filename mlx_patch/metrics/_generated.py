"""Metrics of generated text."""

import re
from dataclasses import dataclass
from typing import ClassVar, NoReturn

import mlx.core as mx
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.errors import KindError, ValueRefusedError, shown

from ._base import Metric

_LOOKS_AHEAD = ("$", "\\Z", "\\z", "\\b", "\\B", "(?!", "(?=", "(?>", "*+", "++", "?+", "}+")
"""Syntax that makes a match depend on the text after it."""

_UNFINISHED = "\ufffd"
"""The text of a character's first bytes, until the tokenizer has the others."""


@dataclass(frozen=True, repr=False)
class GenerateMatches(Metric):
    """Whether a regular expression matches the generated text: 1 or 0, or the rate over several samples.

    The edits act on the prompt; after it the model generates without them, as it would after `model.run`. Greedy,
    unless there are samples.

    Args:
        pattern: A regular expression, which is searched for in the generated text.
        max_tokens: The maximum number of tokens; the model's end-of-text token ends the text earlier.
        samples: The number of sampled texts; 0 is the one greedy text.
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
        object.__setattr__(self, "pattern", arguments.string("pattern", self.pattern, "Write a regular expression."))
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueRefusedError(
                f"`pattern` must be a regular expression. Got {shown(self.pattern)}: {error}."
            ) from None
        for name, minimum in (("max_tokens", 1), ("samples", 0), ("seed", 0)):
            object.__setattr__(self, name, arguments.whole_number(name, getattr(self, name), minimum))
        temperature = arguments.number("temperature", self.temperature, above=0, remedy="Greedy is samples=0.")
        object.__setattr__(self, "temperature", temperature)
        super().__post_init__()

    @override
    def measure(self, logits: mx.array) -> NoReturn:
        raise KindError(
            f"`metric` must be measured on generated text. Got logits for {self.name}. Use mp.measure(model, tokens, "
            "metric, edits), or mp.sweep."
        )

    @override
    def reads(self, length: int) -> tuple[int, ...]:
        """The last position, which the text goes on from."""
        return (length - 1,)

    def matches(self, text: str) -> bool:
        """Whether the text has a match."""
        return re.search(self.pattern, text) is not None

    def decided(self, text: str) -> bool:
        """Whether the text matches, and keeps matching whatever follows it."""
        if text.endswith(_UNFINISHED) or any(syntax in self.pattern for syntax in _LOOKS_AHEAD):
            return False
        return self.matches(text)
