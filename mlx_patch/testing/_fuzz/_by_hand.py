"""A llama's forward pass written out over its raw modules, with edits between them: nothing of the engine is in it.

Executors that agree prove nothing where they share a fault. So this is written from what sites and interventions mean.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.activations import swiglu

from mlx_patch.interventions import Edit
from mlx_patch.model import HookedModel
from mlx_patch.sites import SITES
from mlx_patch.testing._fuzz._by_hand_edits import edited, is_known

LLAMAS = ("llama", "llama-sliding", "llama-biased", "qwen2", "qwen3")
"""Models of the zoo whose blocks are those of a llama, with a norm of queries and keys or without."""

At = Callable[[str, int | None, mx.array], mx.array]
"""From the names of a place, its layer and its value to the value that goes on. Edits of one place act in order."""


def can_be_written_out(name: str, edits: list[tuple[Edit, ...]]) -> bool:
    """Whether the model is a llama, and the edits are such as are written out here."""
    return name in LLAMAS and all(edit.site in SITES and is_known(edit.intervention) for row in edits for edit in row)


def logits_by_hand(model: HookedModel, prompts: tuple[tuple[int, ...], ...], rows: list[tuple[Edit, ...]]) -> mx.array:
    """The logits of a batch, with edits of each row. Shape `(batch, pos, d_vocab)`."""

    def at(names: str, layer: int | None, value: mx.array) -> mx.array:
        for of_rows in zip(*rows, strict=True):
            name = of_rows[0].site
            if name in names.split() and _is_at(of_rows[0], layer, model.n_layers):
                value = mx.array(
                    edited(np.array(value), name, of_rows, layer if SITES[name].layered else None, prompts)
                )
        return value

    return _forward(model.model, mx.array(prompts), at)


def _is_at(edit: Edit, layer: int | None, n_layers: int) -> bool:
    return not SITES[edit.site].layered or edit.layer is None or layer in {n % n_layers for n in edit.layer}


def _forward(model: Any, tokens: mx.array, at: At) -> mx.array:
    inner = model.model
    stream = inner.embed_tokens(tokens)
    for layer, block in enumerate(inner.layers):
        stream = at("resid_pre" if layer else "embed resid_pre", layer, stream)
        window = inner.sliding_window if getattr(block, "use_sliding", False) else None
        added = _attention(block.self_attn, block.input_layernorm(stream), window, layer, at)
        stream = at("resid_mid", layer, stream + at("attn_out mixer_out", layer, added))
        read, mlp = block.post_attention_layernorm(stream), block.mlp
        hidden = at("mlp_post", layer, swiglu(mlp.gate_proj(read), mlp.up_proj(read)))
        stream = at("resid_post", layer, stream + at("mlp_out", layer, mlp.down_proj(hidden)))
    normed = at("final_norm", None, inner.norm(stream))
    return inner.embed_tokens.as_linear(normed) if model.args.tie_word_embeddings else model.lm_head(normed)


def _attention(module: Any, stream: mx.array, window: int | None, layer: int, at: At) -> mx.array:
    batch, length, _ = stream.shape
    parts = {"q": module.q_proj, "k": module.k_proj, "v": module.v_proj}
    heads = {"q": module.n_heads, "k": module.n_kv_heads, "v": module.n_kv_heads}
    q, k, v = (at(n, layer, parts[n](stream).reshape(batch, length, heads[n], -1)) for n in ("q", "k", "v"))
    q = module.q_norm(q) if "q_norm" in module else q
    k = module.k_norm(k) if "k_norm" in module else k
    q, k = (module.rope(part.swapaxes(1, 2)).swapaxes(1, 2) for part in (q, k))
    q, k = at("rot_q", layer, q), at("rot_k", layer, k)
    repeats = module.n_heads // module.n_kv_heads
    keys, values = (mx.repeat(part, repeats, axis=2).swapaxes(1, 2) for part in (k, v))
    scores = module.scale * (q.swapaxes(1, 2) @ keys.swapaxes(2, 3))
    scores = mx.where(_seen(length, window), scores, mx.finfo(scores.dtype).min)
    pattern = at("pattern", layer, mx.softmax(at("attn_scores", layer, scores), axis=-1))
    z = at("z", layer, (pattern @ values).swapaxes(1, 2))
    return module.o_proj(z.reshape(batch, length, -1))


def _seen(length: int, window: int | None) -> mx.array:
    """Which keys each query may attend to. Shape `(query, key)`."""
    query, key = mx.arange(length)[:, None], mx.arange(length)
    return (key <= query) & (key > query - (window or length))
