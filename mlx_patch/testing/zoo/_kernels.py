"""Muse Spark's Metal kernels written out in MLX, so that its tiny model runs on machines without Metal.

They take the place of mlx_lm's in a second copy of its module, made for the zoo; mlx_lm's own is not touched. Each does
what the kernel's source says, in float32, and rounds what comes out.
"""

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType

import mlx.core as mx
import mlx.nn as nn


def without_metal(name: str) -> ModuleType:
    """A module of mlx_lm; where there is no Metal, a copy of it in which kernels are written out."""
    if mx.metal.is_available() or name != "muse_spark":
        return import_module(f"mlx_lm.models.{name}")
    spec = find_spec(f"mlx_lm.models.{name}")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    this_module = sys.modules[__name__]
    for kernel in _KERNELS:
        setattr(module, kernel, getattr(this_module, kernel))
    return module


_KERNELS = (
    "expert_routing",
    "norm_add_norm",
    "post_expert_norm_combine",
    "pre_norm",
    "qk_norm",
    "qk_norm_rope",
    "rms_norm_sigmoid_gate",
)


def _rms_norm(x: mx.array, weight: mx.array | None, eps: float) -> mx.array:
    if weight is not None:
        weight = weight.astype(mx.float32)
    return mx.fast.rms_norm(x.astype(mx.float32), weight, eps)


def qk_norm(
    qkvg: mx.array, *, n_heads: int, n_kv_heads: int, head_dim: int, eps: float, query_scale: float
) -> list[mx.array]:
    """Queries, normed by head and scaled, and keys, normed by head. Shape `(batch, pos, head, d_head)`."""
    heads = qkvg.reshape(*qkvg.shape[:-1], -1, head_dim)
    queries_and_keys = heads[..., : n_heads + n_kv_heads, :]
    normed = _rms_norm(queries_and_keys, None, eps).astype(qkvg.dtype)
    queries, keys = mx.split(normed, [n_heads], axis=-2)
    return [queries * query_scale, keys]


def qk_norm_rope(qkvg: mx.array, *, rope_base: float, offset: int, head_dim: int, **norm) -> list[mx.array]:
    """The same, rotated."""

    def rotate(x: mx.array) -> mx.array:
        by_head = x.swapaxes(1, 2)
        rotated = mx.fast.rope(by_head, head_dim, traditional=True, base=rope_base, scale=1.0, offset=offset)
        return rotated.swapaxes(1, 2)

    return [rotate(x) for x in qk_norm(qkvg, head_dim=head_dim, **norm)]


def rms_norm_sigmoid_gate(x: mx.array, gate: mx.array, *, eps: float) -> mx.array:
    """What attention gathered, normed by head and gated. Shape `(batch, pos, head * d_head)`."""
    normed = _rms_norm(x, None, eps).swapaxes(1, 2).flatten(-2)
    return (normed * mx.sigmoid(gate.astype(mx.float32))).astype(x.dtype)


def norm_add_norm(
    branch: mx.array,
    stream: mx.array,
    *,
    alpha: mx.array,
    beta: mx.array,
    post_weight: mx.array | None,
    post_eps: float,
    next_norm: nn.RMSNorm | None,
) -> tuple[mx.array, mx.array | None]:
    """The stream with a normed branch added, and the result normed for the next reader."""
    dtype = branch.dtype
    if post_weight is not None:
        branch = post_weight.astype(dtype) * branch
    normed = _rms_norm(branch, None, post_eps).astype(dtype)
    total = alpha * stream + beta * normed.astype(mx.float32)
    if next_norm is None:
        return total, None
    return total, pre_norm(total, next_norm, dtype=dtype)


def pre_norm(stream: mx.array, norm: nn.RMSNorm, *, dtype: mx.Dtype) -> mx.array:
    """The stream, normed."""
    return _rms_norm(stream, norm.weight, norm.eps).astype(dtype)


def expert_routing(
    logits: mx.array, expert_bias: mx.array, *, top_k: int, multiplier: float, score_eps: float, route_scale: float
) -> list[mx.array]:
    """The chosen experts and their weights. Shape `(batch, pos, chosen)`."""
    scores = mx.sigmoid(logits * multiplier)
    chosen = mx.stop_gradient(mx.argsort(-(scores + expert_bias), axis=-1)[..., :top_k])
    weights = mx.take_along_axis(scores, chosen, axis=-1)
    total = weights.sum(axis=-1, keepdims=True) + score_eps
    return [chosen.astype(mx.uint32), weights / total * route_scale]


def post_expert_norm_combine(experts: mx.array, weights: mx.array, *, norm_weight: mx.array, eps: float) -> mx.array:
    """Each expert's output, scaled and normed, added with its weight. Shape `(batch, pos, d_model)`."""
    scaled = experts.astype(mx.float32) * norm_weight.astype(mx.float32)
    weighted = _rms_norm(scaled, None, eps) * weights[..., None]
    return weighted.sum(axis=-2).astype(experts.dtype)
