"""Text generated after an edited prompt, for `GenerateMatches`: one run per cell, then token by token."""

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
        metric: The pattern, and the number of tokens to generate.
        edits: At absolute positions.
        past: A prompt cache with the first positions of the prompts; None runs all positions.
    Raises:
        KindError: The model has no tokenizer.
        PatchError: As `run` says.
    """
    require_tokenizer(model, metric)
    refuse_unlearned(model.layout, tokens.shape[1] + metric.max_tokens - 1)
    if past is None:
        new_tokens = tokens
        cache = make_prompt_cache(model.model)
    else:
        new_tokens = tokens[:, past.length :]
        cache = _reopen_cache(past)
    logits = run(model.layout, new_tokens, edits, logits_at=-1, prompt_cache=cache, tokenizer=model.tokenizer).logits
    next_logits = logits[:, -1]
    n_matches = np.zeros(tokens.shape[0], np.float32)
    positions = new_tokens.size
    n_samples = max(1, metric.samples)
    for sample in range(n_samples):
        sample_cache = cache if n_samples == 1 else deepcopy(cache)
        texts, steps = _generate_texts(model, next_logits, sample_cache, metric, sample)
        positions += steps * len(texts)
        n_matches += np.array([metric.matches(text) for text in texts], np.float32)
    token_layers = positions * len(model.layout.blocks)
    return n_matches / n_samples, token_layers


def _reopen_cache(past: Snapshot) -> list[Any]:
    """A prompt cache that holds a past and can be extended."""
    opened = past.opened()
    opened.rows(1)
    return opened.caches


def match_rates(
    model: HookedModel,
    tokens: mx.array,
    metrics: Sequence[Metric],
    edits: Sequence[Edit] = (),
    past: Snapshot | None = None,
) -> tuple[mx.array, int]:
    """The rates of matches of all metrics of generated text, shape `(metric, batch)`; and their token-layers."""
    rates, token_layers = [], 0
    for metric in metrics:
        if isinstance(metric, GenerateMatches):
            rate, cost = match_rate(model, tokens, metric, edits, past)
            rates.append(rate)
            token_layers += cost
    return mx.array(np.stack(rates)), token_layers


def require_tokenizer(model: HookedModel, metric: GenerateMatches) -> None:
    """Refuse a model without a tokenizer, which cannot turn tokens into text.

    Raises:
        KindError: It has none.
    """
    if model.tokenizer is None:
        raise KindError(f"`tokenizer` must be given for {metric.name}. Got None. Pass it to HookedModel.")


def _generate_texts(
    model: HookedModel, logits: mx.array, cache: list[Any], metric: GenerateMatches, sample: int
) -> tuple[list[str], int]:
    """The generated text of each prompt, as far as it matters for the metric; and the number of further passes."""
    end_tokens = _end_tokens(model.tokenizer)
    n_rows = logits.shape[0]
    generated: list[list[int]] = [[] for _ in range(n_rows)]
    texts = [""] * n_rows
    open_rows = set(range(n_rows))
    sample_keys = mx.random.split(mx.random.key(metric.seed), max(1, metric.samples))
    step_keys = mx.random.split(sample_keys[sample], metric.max_tokens)
    step = 0
    for step in range(metric.max_tokens):
        next_tokens = _choose_tokens(logits, metric, step_keys[step])
        ids = np.array(next_tokens).tolist()
        for row in sorted(open_rows):
            if ids[row] in end_tokens:
                open_rows.discard(row)
                continue
            generated[row].append(ids[row])
            texts[row] = model.tokenizer.decode(generated[row])
            if metric.decided(texts[row]):
                open_rows.discard(row)
        if not open_rows or step + 1 == metric.max_tokens:
            break
        logits = model.model(next_tokens[:, None], cache=cache)[:, -1]
        mx.eval(logits)
    return texts, step


def _choose_tokens(logits: mx.array, metric: GenerateMatches, key: mx.array) -> mx.array:
    """The next token of each row: the most probable one, or a sample."""
    if metric.samples:
        scaled = logits.astype(mx.float32) / metric.temperature
        return mx.random.categorical(scaled, key=key)
    # Of log-probabilities, as mlx_lm does: in bfloat16 they may tie where logits do not.
    log_probs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    return mx.argmax(log_probs, axis=-1)


def _end_tokens(tokenizer: Any) -> set[int]:
    """The tokens that end a text, as a tokenizer of mlx_lm or of Hugging Face names them."""
    tokens = getattr(tokenizer, "eos_token_ids", None)
    if tokens is None:
        tokens = [getattr(tokenizer, "eos_token_id", None)]
    return {int(token) for token in tokens if token is not None}
