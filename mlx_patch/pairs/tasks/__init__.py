"""Generators of the classic tasks: seeded, the same on every platform, `PromptPairs` each.

With a tokenizer every answer is one token after its prompt, and all prompts are of one length. Without one, call
`pairs.check(model)` to see.
"""

from ._capital import capital as capital
from ._docstring import docstring as docstring
from ._greater_than import greater_than as greater_than
from ._ioi import ioi as ioi
from ._pronoun import gendered_pronoun as gendered_pronoun
