"""What a model writes after an edited prompt, for `GenerateMatches`: one run a cell, then token after token."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

from mlx_patch.engine import Snapshot
from mlx_patch.errors import KindError
from mlx_patch.interventions import Edit
from mlx_patch.metrics import GenerateMatches, Metric
from mlx_patch.model import HookedModel, refuse_unlearned, run


def match_rate(
    model: HookedModel,
    tokens: mx.array,
    metric: GenerateMatches,
    edits: Sequence[Edit] = (),
    past: Snapshot | None = None,
) -> tuple[np.ndarray, int]:
    """The rate of matches for each prompt of a batch, shape `(batch,)`, and the token-layers that it took.

    The edits act in the prompt, and not in the past.

    Args:
        model: The model.
        tokens: The whole prompts. Shape `(batch, pos)`.
        metric: What is searched for, and for how long.
        edits: At absolute positions.
        past: What a prompt cache holds of the prompts' first positions; None runs them all.
    Raises:
        KindError: The model has no tokenizer.
        PatchError: As `run` says.
    """
    require_tokenizer(model, metric)
    refuse_unlearned(model.layout, tokens.shape[1] + metric.max_tokens - 1)
    new = tokens if past is None else tokens[:, past.length :]
    held = make_prompt_cache(model.model) if past is None else _going_on(past)
    logits = run(model.layout, new, edits, logits_at=-1, prompt_cache=held, tokenizer=model.tokenizer).logits[:, -1]
    rate, positions = np.zeros(tokens.shape[0], np.float32), new.size
    for sample in range(max(1, metric.samples)):
        texts, steps = _texts(model, logits, held if metric.samples <= 1 else deepcopy(held), metric, sample)
        positions += steps * len(texts)
        rate += np.array([metric.matches(text) for text in texts], np.float32)
    return rate / max(1, metric.samples), positions * len(model.layout.blocks)


def _going_on(past: Snapshot) -> list[Any]:
    """A prompt cache that holds a past, to be written into."""
    opened = past.opened()
    opened.rows(1)
    return opened.caches


def is_generated(metric: object) -> bool:
    """Whether a metric, or one of several, lets the model write."""
    many = metric if isinstance(metric, list | tuple) else (metric,)
    return any(isinstance(one, GenerateMatches) for one in many)


def mixes_generated_and_logit_metrics(metric: object) -> bool:
    """Whether one of several metrics lets the model write and another does not."""
    return is_generated(metric) and not all(
        map(is_generated, metric if isinstance(metric, list | tuple) else (metric,))
    )


def match_rates(
    model: HookedModel,
    tokens: mx.array,
    metrics: Sequence[Metric],
    edits: Sequence[Edit] = (),
    past: Snapshot | None = None,
) -> tuple[mx.array, int]:
    """What metrics that let the model write say of a batch, shape `(metric, batch)`; and the token-layers."""
    found = [
        match_rate(model, tokens, metric, edits, past) for metric in metrics if isinstance(metric, GenerateMatches)
    ]
    return mx.array(np.stack([rate for rate, _ in found])), sum(cost for _, cost in found)


def require_tokenizer(model: HookedModel, metric: GenerateMatches) -> None:
    """Refuse a model without a tokenizer, whose tokens are no text.

    Raises:
        KindError: It has none.
    """
    if model.tokenizer is None:
        raise KindError(f"`tokenizer` must be there for {metric.name}. Got None. Pass it to HookedModel.")


def _texts(
    model: HookedModel, logits: mx.array, held: list[Any], metric: GenerateMatches, sample: int
) -> tuple[list[str], int]:
    """What is written after each prompt, as far as it matters for the metric, and after how many more passes."""
    ends = _end_tokens(model.tokenizer)
    written: list[list[int]] = [[] for _ in range(logits.shape[0])]
    texts, open_rows = [""] * len(written), set(range(len(written)))
    key = mx.random.split(mx.random.key(metric.seed), max(1, metric.samples))[sample]
    step = 0
    for step in range(metric.max_tokens):
        chosen = _chosen(logits, metric, mx.random.split(key, metric.max_tokens)[step])
        ids = np.array(chosen).tolist()
        for row in sorted(open_rows):
            if ids[row] in ends:
                open_rows.discard(row)
                continue
            written[row].append(ids[row])
            texts[row] = model.tokenizer.decode(written[row])
            if metric.decided(texts[row]):
                open_rows.discard(row)
        if not open_rows or step + 1 == metric.max_tokens:
            break
        logits = model.model(chosen[:, None], cache=held)[:, -1]
        mx.eval(logits)
    return texts, step


def _chosen(logits: mx.array, metric: GenerateMatches, key: mx.array) -> mx.array:
    if not metric.samples:  # of log-probabilities, as mlx_lm does: in bfloat16 they may tie where logits do not
        return mx.argmax(logits - mx.logsumexp(logits, axis=-1, keepdims=True), axis=-1)
    return mx.random.categorical(logits.astype(mx.float32) / metric.temperature, key=key)


def _end_tokens(tokenizer: Any) -> set[int]:
    """The tokens that end a text, as mlx_lm's tokenizers or Hugging Face's say it."""
    several = getattr(tokenizer, "eos_token_ids", None)
    own = several if several is not None else [getattr(tokenizer, "eos_token_id", None)]
    return {int(token) for token in own if token is not None}
