"""`LinearMap`: from the stream of one model to that of another, by ordinary least squares."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np
from typing_extensions import override

from mlx_patch.cross._layer_map import LayerMap
from mlx_patch.errors import KindError, ShapeError, ValueRefusedError
from mlx_patch.model import HookedModel, require_hooked


@dataclass(frozen=True, eq=False, repr=False)
class LinearMap:
    """`x @ weight + bias`: what an activation of the donor is in the target's coordinates.

    Args:
        weight: Shape `(d_donor, d_target)`.
        bias: Shape `(d_target,)`; None is 0.
        r2: The share of the variance of held-out rows that it explains; None where it was given and not learnt.
        rows: The rows that it was learnt from.

    Raises:
        ShapeError: The shapes do not fit.
        ValueRefusedError: NaN.
    Source:
        Bansal et al. 2021, https://arxiv.org/abs/2106.07682, for joining networks by a linear map.
    """

    weight: np.ndarray
    bias: np.ndarray
    r2: float | None = None
    rows: int = field(default=0)

    def __init__(self, weight: Any, bias: Any = None, r2: float | None = None, rows: int = 0) -> None:
        matrix = np.array(weight, dtype=np.float32)
        if matrix.ndim != 2:
            raise ShapeError(f"`weight` must have the shape (d_donor, d_target). Got {matrix.shape}.")
        added = np.zeros(matrix.shape[1], np.float32) if bias is None else np.array(bias, dtype=np.float32)
        if added.shape != (matrix.shape[1],):
            raise ShapeError(f"`bias` must have the shape ({matrix.shape[1]},). Got {added.shape}.")
        if not (np.isfinite(matrix).all() and np.isfinite(added).all()):
            raise ValueRefusedError("`weight` and `bias` must be finite. Got NaN or infinity.")
        for name, value in {"weight": matrix, "bias": added, "r2": r2, "rows": rows}.items():
            object.__setattr__(self, name, value)

    @classmethod
    def fit(cls, x: Any, y: Any, held_out: float = 0.2, seed: int = 0, groups: Any = None) -> "LinearMap":
        """The map of least squares from the rows of one array to those of another, in float64.

        A share of the rows, chosen by the seed, is held out; `r2` is 1 minus their summed squared error over their
        summed squared distance from the mean of the others, over all coordinates together. It can be negative. Rows
        that are not independent, such as the positions of one prompt, belong to one group, and are held out together.

        Args:
            x: The donor's activations. Shape `(..., d_donor)`.
            y: The target's, for the same rows. Shape `(..., d_target)`.
            held_out: The share of rows that is held out, above 0 and below 1.
            seed: Which.
            groups: A label for each row; whole groups are held out, a share `held_out` of them. None is a group a row.
        Raises:
            ShapeError: The rows, or the labels, differ in number, or are none.
            ValueRefusedError: There are too few rows for one answer, or they lie in too few directions; there is one
                group; NaN; what is held out of `y` does not vary, so that no share of its variance is defined.
        """
        x, y = (np.array(a if not isinstance(a, mx.array) else a.astype(mx.float32), np.float64) for a in (x, y))
        if x.ndim < 2 or y.ndim < 2:
            raise ShapeError(f"`x` and `y` must have rows and columns. Got the shapes {x.shape} and {y.shape}.")
        x, y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        if len(x) != len(y):
            raise ShapeError(f"`x` and `y` must have the same rows. Got {len(x)} and {len(y)}.")
        if not 0 < held_out < 1:
            raise ValueRefusedError(f"`held_out` must lie between 0 and 1. Got {held_out}.")
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise ValueRefusedError("`x` and `y` must be finite. Got NaN or infinity. Look at the runs they came from.")
        held, own = _halves(np.arange(len(x)) if groups is None else np.asarray(groups), len(x), held_out, seed)
        design = np.hstack([x[own], np.ones((len(own), 1))])
        rank = np.linalg.matrix_rank(design) if len(own) >= design.shape[1] else len(own)
        if rank < design.shape[1]:
            raise ValueRefusedError(
                f"`x` must have rows in {design.shape[1]} directions, its width and the bias. Got {len(own)} rows in "
                f"{rank}, with {len(held)} held out. Capture more prompts."
            )
        solution = np.linalg.lstsq(design, y[own], rcond=None)[0]
        error = y[held] - np.hstack([x[held], np.ones((len(held), 1))]) @ solution
        spread = y[held] - y[own].mean(axis=0)
        total = (spread**2).sum()
        if total <= 1e-24 * (y[held] ** 2).sum():
            raise ValueRefusedError(f"`y` must vary, for R2 to be defined. Got {len(held)} equal rows held out.")
        r2 = 1 - float((error**2).sum() / total)
        return cls(solution[:-1], solution[-1], r2, len(own))

    def __call__(self, activation: mx.array) -> mx.array:
        """The activation in the target's coordinates, in float32. `(..., d_donor)` to `(..., d_target)`.

        Raises:
            ShapeError: The last axis is another.
        """
        if activation.shape[-1] != self.weight.shape[0]:
            raise ShapeError(
                f"`linear_map` must be of activations {activation.shape[-1]} wide. Got one of {self.weight.shape[0]}."
            )
        return activation.astype(mx.float32) @ mx.array(self.weight) + mx.array(self.bias)

    @override
    def __repr__(self) -> str:
        learnt = "" if self.r2 is None else f", held-out R2 {self.r2:.3f} after {self.rows} rows"
        return f"LinearMap({self.weight.shape[0]} to {self.weight.shape[1]}{learnt})"


def _halves(groups: np.ndarray, n_rows: int, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the groups that are held out, and the others; each in no order that means something."""
    if groups.shape != (n_rows,):
        raise ShapeError(f"`groups` must have a label for each of {n_rows} rows. Got the shape {groups.shape}.")
    labels = np.unique(groups)
    if len(labels) == 1 < n_rows:
        raise ValueRefusedError("`groups` must be 2 or more, one of them to be held out. Got 1. Give more prompts.")
    n_held = max(1, round(held_out * len(labels)))
    held = np.isin(groups, np.random.default_rng(seed).permutation(labels)[:n_held])
    return np.flatnonzero(held), np.flatnonzero(~held)


def fit_maps(
    target: HookedModel,
    donor: HookedModel,
    prompts: Iterable[Any],
    at: str = "resid_post",
    layer_map: LayerMap | None = None,
    skip: int = 1,
    held_out: float = 0.2,
    seed: int = 0,
) -> dict[int, LinearMap]:
    """For each layer of the target, the map from the donor's stream, learnt on prompts that both read.

    Whole prompts are held out, the same for every layer. The activations of both models on all prompts are in memory
    meanwhile, of every layer that is mapped.

    Args:
        target: The model that is patched.
        donor: The model whose activations are put in.
        prompts: Two or more texts, chats or token ids, which both must cut into the same tokens.
        at: A site as wide as the stream.
        layer_map: Which layers stand for each other; None where both have equally many.
        skip: How many first positions are left out. The first one's stream is so long in most models that it would
            decide the fit.
        held_out: The share of prompts that is held out, above 0 and below 1.
        seed: Which.
    Returns:
        Maps by target layer; what `cross_patch(linear_map=)` takes.
    Raises:
        KindError: Both cut a prompt otherwise.
        PatchError: As `LinearMap.fit` and `HookedModel.run_each`.
    """
    require_hooked("target", target)
    require_hooked("donor", donor)
    given = list(prompts)
    layers = layer_map or LayerMap((n, n) for n in range(min(target.n_layers, donor.n_layers)))
    layers.require(target.n_layers, donor.n_layers)
    ours = target.run_each_with_cache(given, sites=(at,), logits_at=-1)[1]
    theirs = donor.run_each_with_cache(given, sites=(at,), logits_at=-1)[1]
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        if not mx.array_equal(one.tokens, other.tokens).item():
            raise KindError(
                f"`prompts` must be cut alike by both models. Got other tokens for prompt {number}. Pass token ids."
            )
    counts = [max(0, one.tokens.shape[1] - skip) for one in ours]
    groups = np.repeat(np.arange(len(counts)), counts)
    return {
        layer: LinearMap.fit(
            _rows(theirs, at, layers.donor_of(layer), skip), _rows(ours, at, layer, skip), held_out, seed, groups
        )
        for layer in layers.targets
    }


def _rows(caches: Sequence[Any], at: str, layer: int, skip: int) -> np.ndarray:
    return np.concatenate([np.array(cache[at, layer][0, skip:].astype(mx.float32)) for cache in caches])
