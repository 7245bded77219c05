"""Blocks that norm, add and norm again in one kernel, `norm_add_norm`, and hand on a normed stream beside the stream.

Nothing in the stream passes from module to module, so all of it is found inside the block's call. Where no one edits,
the kernel's own results go on; where someone does, what is not edited stays bit for bit, and the norms are made again.
"""

from typing import Any

import mlx.core as mx

from mlx_patch.engine._scope import Call, Listener, Scope

_SUMS = ((("attn_out", "mixer_out"), "resid_mid"), (("mlp_out",), "resid_post"))


def fused_sums(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """A block of Muse Spark, called as `(stream, mask=, cache=, attn_input=, next_norm=)`."""
    sums = iter(_SUMS)

    def norm_add_norm(branch, stream, *, alpha, beta, next_norm, **post):
        parts, name = next(sums)
        out, normed = scope["norm_add_norm"](branch, stream, alpha=alpha, beta=beta, next_norm=next_norm, **post)
        new = out
        if any(map(listener.wants, parts)):
            nothing = mx.zeros_like(stream)
            kernel = scope["norm_add_norm"]
            added, _ = kernel(branch, nothing, alpha=mx.zeros_like(alpha), beta=beta, next_norm=None, **post)
            edited = _emitted(listener, parts, added)
            if edited is not added:
                new = mx.where(edited == added, out, alpha * stream + edited)
        new = _emitted(listener, (name,), new)
        if new is not out and next_norm is not None:
            normed = scope["pre_norm"](new, next_norm, dtype=branch.dtype)
        return new, normed

    return {"norm_add_norm": norm_add_norm}, _entered(listener, scope, call)


def _entered(listener: Listener, scope: Scope, call: Call) -> Call:
    """The block's arguments, with what attention reads made again where the stream is edited."""
    (stream, *others), kwargs = call
    new = _emitted(listener, ("embed", "resid_pre"), stream)
    if new is not stream and kwargs.get("attn_input") is not None:
        norm: Any = listener.module.input_layernorm
        kwargs = {**kwargs, "attn_input": scope["pre_norm"](new, norm, dtype=kwargs["attn_input"].dtype)}
    return (new, *others), kwargs


def _emitted(listener: Listener, names: tuple[str, ...], array: mx.array) -> mx.array:
    for name in names:
        array = listener.emit(name, array) if listener.wants(name) else array
    return array
