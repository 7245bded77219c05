"""`LinearMap`: from the stream of one model to that of another, by ordinary least squares."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.cross._layer_map import LayerMap
from mlx_patch.errors import KindError, ShapeError, ValueRefusedError, shown
from mlx_patch.model import HookedModel, require_hooked


@dataclass(frozen=True, eq=False, repr=False)
class LinearMap:
    """`x @ weight + bias`: from an activation of the donor to the target's coordinates.

    Args:
        weight: Shape `(d_donor, d_target)`.
        bias: Shape `(d_target,)`; None is 0.
        r2: The share of the variance of held-out rows that it explains; None if it was not fitted.
        rows: The number of rows that it was fitted to.

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
        matrix = _finite("weight", weight, np.float32)
        if matrix.ndim != 2:
            raise ShapeError(f"`weight` must have the shape (d_donor, d_target). Got {matrix.shape}.")
        d_target = matrix.shape[1]
        if bias is None:
            bias = np.zeros(d_target)
        vector = _finite("bias", bias, np.float32)
        if vector.shape != (d_target,):
            raise ShapeError(f"`bias` must have the shape ({d_target},). Got {vector.shape}.")
        object.__setattr__(self, "weight", matrix)
        object.__setattr__(self, "bias", vector)
        if r2 is not None:
            r2 = arguments.number("r2", r2)
        object.__setattr__(self, "r2", r2)
        object.__setattr__(self, "rows", arguments.whole_number("rows", rows, 0))

    @classmethod
    def fit(cls, x: Any, y: Any, held_out: float = 0.2, seed: int = 0, groups: Any = None) -> "LinearMap":
        """Fit the least-squares map from the rows of one array to the rows of another, in float64.

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
        held_out = arguments.share("held_out", held_out)
        seed = arguments.whole_number("seed", seed, 0)
        x, y = _as_rows(x, y)
        labels = np.arange(len(x))
        if groups is not None:
            labels = _labels(groups)
        test, train = _split_rows(labels, len(x), held_out, seed)
        design = _with_ones(x[train])
        _refuse_low_rank(design, len(test))
        solution = np.linalg.lstsq(design, y[train], rcond=None)[0]
        error = y[test] - _with_ones(x[test]) @ solution
        deviation = y[test] - y[train].mean(axis=0)
        variation = (deviation**2).sum()
        if variation <= 1e-24 * (y[test] ** 2).sum():
            raise ValueRefusedError(f"`y` must vary for R2 to be defined. Got {len(test)} equal held-out rows.")
        r2 = 1 - float((error**2).sum() / variation)
        matrix, bias = solution[:-1], solution[-1]
        return cls(matrix, bias, r2, len(train))

    def __call__(self, activation: mx.array) -> mx.array:
        """The activation in the target's coordinates, in float32. `(..., d_donor)` to `(..., d_target)`.

        Raises:
            ShapeError: The last axis is another.
        """
        activation = arguments.array("activation", activation)
        if activation.shape[-1:] != self.weight.shape[:1]:
            raise ShapeError(
                f"`activation` must have the width of the map, {self.weight.shape[0]}. Got the shape "
                f"{tuple(activation.shape)}."
            )
        return activation.astype(mx.float32) @ mx.array(self.weight) + mx.array(self.bias)

    @override
    def __repr__(self) -> str:
        d_donor, d_target = self.weight.shape
        if self.r2 is None:
            return f"LinearMap({d_donor} to {d_target})"
        return f"LinearMap({d_donor} to {d_target}, held-out R2 {self.r2:.3f} after {self.rows} rows)"


def _as_rows(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both arrays in float64, of shape `(row, width)`, with equally many rows."""
    x, y = _finite("x", x, np.float64), _finite("y", y, np.float64)
    if x.ndim < 2 or y.ndim < 2 or not x.size or not y.size:
        raise ShapeError(f"`x` and `y` must have rows and columns. Got the shapes {x.shape} and {y.shape}.")
    x = x.reshape(-1, x.shape[-1])
    y = y.reshape(-1, y.shape[-1])
    if len(x) != len(y):
        raise ShapeError(f"`x` and `y` must have the same rows. Got {len(x)} and {len(y)}.")
    return x, y


def _finite(name: str, value: Any, dtype: type) -> np.ndarray:
    with np.errstate(over="ignore"):
        array = arguments.numpy_array(name, value).astype(dtype)
    if not np.isfinite(array).all():
        raise ValueRefusedError(f"`{name}` must be finite. Got NaN or infinity. Check the runs it came from.")
    return array


def _labels(groups: Any) -> np.ndarray:
    """A label for each row: numbers or texts."""
    entries = arguments.entries("groups", groups, "a list of labels, one a row")
    if not all(isinstance(entry, str | int | float | np.generic) or arguments.is_whole(entry) for entry in entries):
        raise KindError(f"`groups` must be numbers or texts, one a row. Got {shown(groups)}.")
    return np.array(entries)


def _with_ones(rows: np.ndarray) -> np.ndarray:
    """The rows with a column of ones, whose weights are the bias."""
    return np.hstack([rows, np.ones((len(rows), 1))])


def _refuse_low_rank(design: np.ndarray, n_test: int) -> None:
    """Refuse rows that allow several solutions."""
    n_rows, width = design.shape
    rank = n_rows
    if n_rows >= width:
        rank = np.linalg.matrix_rank(design)
    if rank < width:
        raise ValueRefusedError(
            f"`x` must have rows in {width} directions: its width plus the bias. Got {n_rows} rows in {rank} "
            f"directions, with {n_test} held out. Capture more prompts."
        )


def _split_rows(groups: np.ndarray, n_rows: int, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the rows whose groups are held out, and of the others."""
    if groups.shape != (n_rows,):
        raise ShapeError(f"`groups` must have a label for each of {n_rows} rows. Got the shape {groups.shape}.")
    labels = np.unique(groups)
    if len(labels) == 1 < n_rows:
        raise ValueRefusedError(
            "`groups` must hold 2 groups or more, so that one can be held out. Got 1. Pass more prompts."
        )
    n_test = max(1, round(held_out * len(labels)))
    test_labels = np.random.default_rng(seed).permutation(labels)[:n_test]
    is_test = np.isin(groups, test_labels)
    return np.flatnonzero(is_test), np.flatnonzero(~is_test)


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
    """For each layer of the target, the map from the donor's stream, fitted on prompts that both models read.

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
    prompts = list(arguments.entries("prompts", prompts, "a list of prompts"))
    skip = arguments.whole_number("skip", skip, 0)
    if layer_map is not None:
        arguments.instance("layer_map", layer_map, LayerMap, "Write mp.LayerMap.proportional(...), say.")
    layers = layer_map or LayerMap((n, n) for n in range(min(target.n_layers, donor.n_layers)))
    layers.require(target.n_layers, donor.n_layers)
    target_caches = target.run_each_with_cache(prompts, sites=(at,), logits_at=-1)[1]
    donor_caches = donor.run_each_with_cache(prompts, sites=(at,), logits_at=-1)[1]
    _refuse_other_tokens(target_caches, donor_caches)
    lengths = [cache.tokens.shape[1] for cache in target_caches]
    counts = [max(0, length - skip) for length in lengths]
    groups = np.repeat(np.arange(len(counts)), counts)
    maps = {}
    for layer in layers.targets:
        x = _rows(donor_caches, at, layers.donor_of(layer), skip)
        y = _rows(target_caches, at, layer, skip)
        maps[layer] = LinearMap.fit(x, y, held_out, seed, groups)
    return maps


def _refuse_other_tokens(target_caches: Sequence[Any], donor_caches: Sequence[Any]) -> None:
    for number, (target_cache, donor_cache) in enumerate(zip(target_caches, donor_caches, strict=True)):
        if not mx.array_equal(target_cache.tokens, donor_cache.tokens).item():
            raise KindError(
                f"`prompts` must have the same tokens in both models. Got different tokens for prompt {number}. Pass "
                "token ids."
            )


def _rows(caches: Sequence[Any], at: str, layer: int, skip: int) -> np.ndarray:
    """One layer's activations of all prompts, without their first positions. Shape `(row, d_model)`."""
    arrays = [cache[at, layer][0, skip:].astype(mx.float32) for cache in caches]
    return np.concatenate(list(map(np.array, arrays)))
