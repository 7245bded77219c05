"""Generators of the classic tasks: seeded, the same on every platform, `PromptPairs` each.

With a tokenizer every answer is one token after its prompt, and all prompts are of one length. Without one, call
`pairs.check(model)` to see.
"""

from mlx_patch._presence import shown_names as _shown_names

from ._capital import capital as capital
from ._docstring import docstring as docstring
from ._greater_than import greater_than as greater_than
from ._ioi import ioi as ioi
from ._pronoun import gendered_pronoun as gendered_pronoun


def __dir__() -> list[str]:
    """What is meant for the user of the module."""
    return _shown_names(globals())
