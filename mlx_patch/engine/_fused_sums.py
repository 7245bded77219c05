"""Blocks that norm, add and norm again in one kernel, `norm_add_norm`, and pass on a normed stream beside the stream.

The stream never passes from module to module, so it is read inside the block's call. Without an edit the kernel's own
results go on. With one, values that the edit leaves alone stay bit for bit, and the norms are computed again.
"""

from typing import Any

import mlx.core as mx

from mlx_patch.architectures import keep_bits
from mlx_patch.engine._scope import Call, Listener, Scope

_SUMS = ((("attn_out", "mixer_out"), "resid_mid"), (("mlp_out",), "resid_post"))


def fused_sums(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """A block of Muse Spark, called as `(stream, mask=, cache=, attn_input=, next_norm=)`."""
    sums = iter(_SUMS)

    def norm_add_norm(branch, stream, *, alpha, beta, next_norm, **post):
        branch_sites, stream_site = next(sums)
        kernel = scope["norm_add_norm"]
        out, normed = kernel(branch, stream, alpha=alpha, beta=beta, next_norm=next_norm, **post)
        new = out
        if any(map(listener.wants, branch_sites)):
            # The kernel returns only the sum: over a stream of zeros, that is what the branch adds.
            nothing = mx.zeros_like(stream)
            added, _ = kernel(branch, nothing, alpha=mx.zeros_like(alpha), beta=beta, next_norm=None, **post)
            edited = _emit_each(listener, branch_sites, added)
            if edited is not added:
                new = keep_bits(out, alpha * stream + edited, edited == added)
        new = _emit_each(listener, (stream_site,), new)
        if new is not out and next_norm is not None:
            normed = scope["pre_norm"](new, next_norm, dtype=branch.dtype)
        return new, normed

    return {"norm_add_norm": norm_add_norm}, _emit_entry(listener, scope, call)


def _emit_entry(listener: Listener, scope: Scope, call: Call) -> Call:
    """The block's arguments after the listener; an edited stream is normed again for attention."""
    (stream, *further_args), kwargs = call
    new = _emit_each(listener, ("embed", "resid_pre"), stream)
    attention_input = kwargs.get("attn_input")
    if new is not stream and attention_input is not None:
        norm: Any = listener.module.input_layernorm
        normed = scope["pre_norm"](new, norm, dtype=attention_input.dtype)
        kwargs = {**kwargs, "attn_input": normed}
    return (new, *further_args), kwargs


def _emit_each(listener: Listener, names: tuple[str, ...], array: mx.array) -> mx.array:
    for name in names:
        if listener.wants(name):
            array = listener.emit(name, array)
    return array
