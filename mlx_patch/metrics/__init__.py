"""Metrics: logits in, one number per example out; and a registry of them by name.

A `Metric` is a frozen value. A plain function of logits works wherever a metric does.

Example:
    >>> import mlx.core as mx
    >>> from mlx_patch import metrics
    >>> logits = mx.array([[[0.0, 1.0, 3.0]]])  # batch 1, pos 1, d_vocab 3
    >>> metrics.LogitDiff(2, 1)(logits).tolist()
    [2.0]
"""

from mlx_patch._presence import shown_names as _shown_names
from mlx_patch.metrics._several import metrics_of as metrics_of
from mlx_patch.metrics._several import refuse_same_names as refuse_same_names

from ._answers import LogitDiff as LogitDiff
from ._answers import LogProb as LogProb
from ._answers import Prob as Prob
from ._answers import Rank as Rank
from ._base import Metric as Metric
from ._base import MultiPositionMetric as MultiPositionMetric
from ._base import RowMetric as RowMetric
from ._distributions import KL as KL
from ._distributions import Entropy as Entropy
from ._generated import GenerateMatches as GenerateMatches
from ._probdiff import ProbDiff as ProbDiff
from ._registry import as_metric as as_metric
from ._registry import metric as metric
from ._registry import named as named
from ._registry import registered as registered
from ._sequences import SequenceLogitDiff as SequenceLogitDiff
from ._sequences import SequenceLogProb as SequenceLogProb
from ._sequences import SequenceMetric as SequenceMetric
from ._sequences import Slot as Slot
from ._sequences import StartsWith as StartsWith
from ._sequences import for_examples as for_examples
from ._softmax import log_softmax_at as log_softmax_at
from ._tokens import Answer as Answer
from ._tokens import Answers as Answers
from ._tokens import Tokenizer as Tokenizer
from ._tokens import as_answers as as_answers
from ._tokens import single_tokens as single_tokens
from ._tokens import token_ids as token_ids
from ._tokenset import TokenSetProb as TokenSetProb
from ._top import TopK as TopK
from ._top import TopToken as TopToken

_PLUMBING = frozenset(
    "Answer Answers Slot Tokenizer as_answers as_metric for_examples log_softmax_at metrics_of refuse_same_names "
    "single_tokens token_ids".split()
)
"""What other parts of the library import, and metrics of one's own may."""


def __dir__() -> list[str]:
    """The metrics, what they are made of, and their registry."""
    return _shown_names(globals(), plumbing=_PLUMBING)
