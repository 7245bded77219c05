"""What attention looks at: numbers for each head, the picture of one, and a page of all heads of a layer."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.cache import ActivationCache
from mlx_patch.errors import MissingSiteError, SelectionError
from mlx_patch.files import text_written
from mlx_patch.lens._pages import attention_page
from mlx_patch.plot import pattern_map

if TYPE_CHECKING:
    import matplotlib.axes

_COLUMNS = ("entropy", "to_previous", "to_first", "to_self", "induction")


@dataclass(frozen=True, eq=False, repr=False)
class AttentionSummary:
    """Where each head looks, as means over prompts and queries. Each of shape `(layer, head)`.

    Attributes:
        layers: The layers.
        entropy: Of the pattern, in nats: 0 is one key, the logarithm of the number of keys is all alike.
        to_previous: The weight of the key just before the query. Over queries behind position 0.
        to_first: The weight of position 0. Over queries behind it.
        to_self: The weight of the query's own position.
        induction: The weight of the keys that follow earlier copies of the query's token. Over queries whose token has
            stood before; NaN where no token comes again.
    """

    layers: tuple[int, ...]
    entropy: np.ndarray
    to_previous: np.ndarray
    to_first: np.ndarray
    to_self: np.ndarray
    induction: np.ndarray

    def strongest(self, kind: str, k: int = 5) -> list[tuple[int, int, float]]:
        """The heads with the largest number of a kind: layer, head, number.

        Raises:
            SelectionError: There is no such kind.
        """
        kind = arguments.choice("kind", kind, _COLUMNS, error=SelectionError)
        k = arguments.whole_number("k", k, 1, error=SelectionError)
        numbers = getattr(self, kind)
        order = np.argsort(-np.nan_to_num(numbers, nan=-1.0), axis=None)[:k]
        rows, heads = np.unravel_index(order, numbers.shape)
        return [(self.layers[row], int(head), float(numbers[row, head])) for row, head in zip(rows, heads, strict=True)]

    @override
    def __repr__(self) -> str:
        return f"AttentionSummary({len(self.layers)} layers, {self.entropy.shape[1]} heads)"

    @override
    def __str__(self) -> str:
        lines = [repr(self)]
        for kind in _COLUMNS[1:]:
            heads = ", ".join(f"{layer}.{head} ({number:.2f})" for layer, head, number in self.strongest(kind))
            lines.append(f"  {kind:<12} layer.head {heads}")
        return "\n".join(lines)


def attention_summary(cache: ActivationCache) -> AttentionSummary:
    """Where each head of a run looks: entropy, and weight on the previous token, the first, itself, and by induction.

    Args:
        cache: With `pattern` at all positions, of layers with the same number of heads.
    Raises:
        MissingSiteError: It has no `pattern`.
        SelectionError: It has some positions only.
    Source:
        Olsson et al. 2022, "In-context Learning and Induction Heads", for induction.
    """
    arguments.instance("cache", cache, ActivationCache)
    layers = cache.layers("pattern")
    if not layers:
        raise MissingSiteError("The cache must hold `pattern`. Capture it: `run_with_cache(tokens, 'pattern')`.")
    if cache.positions != tuple(range(cache.n_positions)):
        raise SelectionError(
            f"The cache must hold all {cache.n_positions} positions. It has {len(cache.positions)}. "
            "Capture without `pos`."
        )
    patterns = np.stack([_as_float(cache["pattern", layer]) for layer in layers])
    patterns = patterns[..., : cache.n_positions]
    tokens = np.array(cache.tokens)
    return AttentionSummary(layers, *_numbers(patterns, tokens))


def _numbers(patterns: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, ...]:
    """The columns of a summary. `patterns` has shape `(layer, batch, head, query, key)`."""
    n_positions = patterns.shape[-1]
    weights = np.where(patterns > 0, patterns, 1.0)
    entropy = -(patterns * np.log(weights)).sum(axis=-1).mean(axis=(1, 3))
    to_previous = _mean_of(np.diagonal(patterns, offset=-1, axis1=3, axis2=4))
    to_first = _mean_of(patterns[..., 1:, 0])
    to_self = _mean_of(np.diagonal(patterns, axis1=3, axis2=4))
    follows = np.zeros((tokens.shape[0], n_positions, n_positions), bool)
    follows[:, :, 1:] = np.equal(tokens[:, :, None], tokens[:, None, :-1])
    follows &= np.tri(n_positions, dtype=bool)
    comes_again = np.any(follows, axis=-1)
    on_followers = (patterns * follows[None, :, None]).sum(axis=-1)
    count = comes_again.sum()
    induction = np.full(entropy.shape, np.nan)
    if count:
        induction = (on_followers * comes_again[None, :, None]).sum(axis=(1, 3)) / count
    return entropy, to_previous, to_first, to_self, induction


def _mean_of(weights: np.ndarray) -> np.ndarray:
    """The mean over prompts and queries; NaN where there are none. From `(layer, batch, head, query)`."""
    n_layers, _, n_heads, n_queries = weights.shape
    if not n_queries:
        return np.full((n_layers, n_heads), np.nan)
    return weights.mean(axis=(1, 3))


def plot_pattern(
    cache: ActivationCache,
    layer: int,
    head: int,
    example: int = 0,
    *,
    tokens: Sequence[str] | None = None,
    ax: object = None,
) -> "matplotlib.axes.Axes":
    """The pattern of one head: queries down, keys across, from 0, white, to 1, dark.

    Args:
        cache: With `pattern`.
        layer: The layer.
        head: The query head.
        example: The prompt.
        tokens: The token string of each position of the prompt, as `model.str_tokens` gives them.
        ax: Where to draw; by default on a new figure.
    Raises:
        MissingExtraError: matplotlib is not installed.
        MissingSiteError: The cache has no `pattern` there.
        SelectionError: There is no such head or prompt.
    """
    patterns = _patterns_of(cache, layer)
    _refuse_outside("example", example, patterns.shape[0])
    _refuse_outside("head", head, patterns.shape[1])
    keys = range(patterns.shape[-1])
    key_tokens, query_tokens, tokens = None, None, _texts_of(tokens)
    if tokens is not None and len(tokens) == len(keys):
        key_tokens, query_tokens = list(tokens), [tokens[position] for position in cache.positions]
    return pattern_map(
        patterns[example, head],
        cache.positions,
        keys,
        query_tokens=query_tokens,
        key_tokens=key_tokens,
        title=f"layer {layer}, head {head}",
        ax=ax,
    )


def pattern_page(
    cache: ActivationCache,
    layer: int,
    path: str | os.PathLike[str] | None = None,
    example: int = 0,
    *,
    tokens: Sequence[str] | None = None,
) -> str:
    """The patterns of all heads of a layer, as one HTML page without scripts or links.

    Args:
        cache: With `pattern`.
        layer: The layer.
        path: Where to write it as well, whole or not at all; None writes nothing.
        example: The prompt.
        tokens: The token string of each position, shown where you point.
    """
    patterns = _patterns_of(cache, layer)
    _refuse_outside("example", example, patterns.shape[0])
    tokens = _texts_of(tokens)
    page = attention_page(patterns[example], cache.positions, tokens, f"attention patterns of layer {layer}")
    return text_written(page, path)


def _refuse_outside(argument: str, index: int, count: int) -> None:
    if not 0 <= arguments.whole_number(argument, index) < count:
        raise SelectionError(f"`{argument}` must lie in 0 to {count - 1}. Got {index}.")


def _patterns_of(cache: ActivationCache, layer: int) -> np.ndarray:
    """The patterns of a layer. Shape `(batch, head, query, key)`."""
    arguments.instance("cache", cache, ActivationCache)
    return _as_float(cache["pattern", arguments.whole_number("layer", layer)])


def _texts_of(tokens: Any) -> tuple[str, ...] | None:
    if tokens is None:
        return None
    texts = arguments.entries("tokens", tokens, "a list of texts, one a position")
    return tuple(arguments.string("tokens", text) for text in texts)


def _as_float(array: mx.array) -> np.ndarray:
    return np.array(array.astype(mx.float32))
