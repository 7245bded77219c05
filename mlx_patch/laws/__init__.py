"""The laws that every wrapped model must obey, checked on the model itself.

A table can lie, a law cannot: `HookedModel.verify()` runs them on a user's own model, the tests on every architecture.
"""

from typing import Any

import mlx.core as mx

from mlx_patch import arguments
from mlx_patch.errors import KindError, ShapeError
from mlx_patch.interventions.sources import outliers_unreported
from mlx_patch.laws._attention import heads as heads
from mlx_patch.laws._bench import REWRITTEN as REWRITTEN
from mlx_patch.laws._bench import Bench as Bench
from mlx_patch.laws._bench import Law as Law
from mlx_patch.laws._edits import decides as decides
from mlx_patch.laws._edits import forward_only as forward_only
from mlx_patch.laws._edits import own_value as own_value
from mlx_patch.laws._experts import experts as experts
from mlx_patch.laws._report import INSIDE as INSIDE
from mlx_patch.laws._report import LAWS as LAWS
from mlx_patch.laws._report import ROUNDINGS as ROUNDINGS
from mlx_patch.laws._report import ErrorScale as ErrorScale
from mlx_patch.laws._report import Finding as Finding
from mlx_patch.laws._report import Report as Report
from mlx_patch.laws._report import largest_deviation as largest_deviation
from mlx_patch.laws._rows import PromptRows as PromptRows
from mlx_patch.laws._rows import independent as independent
from mlx_patch.laws._running import grounds as grounds
from mlx_patch.laws._running import restored as restored
from mlx_patch.laws._running import watching as watching
from mlx_patch.laws._split import by_key as by_key
from mlx_patch.laws._split import split as split
from mlx_patch.laws._stream import sums as sums
from mlx_patch.tokens import tokens_of

ALL: tuple[Law, ...] = (watching, sums, own_value, decides, experts, forward_only, restored, heads, split, independent)
"""Every law, in order."""

_LENGTH = 8


def check_laws(model: Any, prompt: Any = None, laws: tuple[Law, ...] = ALL) -> Report:
    """Check laws on a model.

    Args:
        model: A `HookedModel`.
        prompt: A text, messages or token ids, of 4 tokens or more; None is 8 tokens spread over the vocabulary.
        laws: The laws to check.
    Returns:
        Every finding. `report.ok` says whether all laws held. If a site lacks the axes of its name, or the unembedding
        does not read `final_norm`, the report holds these findings alone: the laws depend on both.
    Raises:
        ShapeError: The prompt is too short.
    """
    checked = tuple(arguments.function("laws", law) for law in arguments.entries("laws", laws, "a tuple of laws"))
    bench = bench_of(model, prompt)
    with outliers_unreported():  # the laws hold whether or not a mean is a sensible ablation
        findings = tuple(finding for finding in grounds(bench) if not finding.held)
        if not findings:
            findings = tuple(finding for law in checked for finding in law(bench))
    return Report(repr(model), findings)


def bench_of(model: Any, prompt: Any = None) -> Bench:
    """A model with a prompt, and with another one of the same length that differs in every token."""
    if not hasattr(model, "layout"):  # the class of wrapped models is a layer up
        raise KindError(f"`model` must be a HookedModel. Got {type(model).__name__}. Write mp.HookedModel(model).")
    if prompt is None:
        ids = [(11 + 37 * position) % model.d_vocab for position in range(_LENGTH)]
        prompt = mx.array([ids])
    tokens = tokens_of(prompt, model.tokenizer, model.d_vocab)
    if tokens.shape[1] < 4:
        raise ShapeError(
            f"`prompt` must have 4 tokens or more. Got {tokens.shape[1]}. Leave it out to use a made-up one."
        )
    other_tokens = (tokens + model.d_vocab // 2) % model.d_vocab
    return Bench(model, tokens, other_tokens)
