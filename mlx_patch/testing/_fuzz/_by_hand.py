"""A llama's forward pass written out over its raw modules, with edits between them, without the engine.

Executors may agree because they share a fault. So this is written from the meaning of sites and interventions alone.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.activations import swiglu

from mlx_patch.interventions import Edit
from mlx_patch.model import HookedModel
from mlx_patch.sites import SITES, Site
from mlx_patch.testing._fuzz._by_hand_edits import apply_edits, is_known

LLAMAS = ("llama", "llama-sliding", "llama-biased", "qwen2", "qwen3")
"""Models of the zoo whose blocks are those of a llama, with a norm of queries and keys or without."""

At = Callable[[str, int | None, mx.array], mx.array]
"""From the names of a place, its layer and its value to the edited value. Edits of one place act in order."""


def can_be_written_out(name: str, edits: list[tuple[Edit, ...]]) -> bool:
    """Whether the model is a llama, and all edits are written out here."""
    if name not in LLAMAS:
        return False
    return all(edit.site in SITES and is_known(edit.intervention) for row in edits for edit in row)


def logits_by_hand(model: HookedModel, prompts: tuple[tuple[int, ...], ...], rows: list[tuple[Edit, ...]]) -> mx.array:
    """The logits of a batch, with edits of each row. Shape `(batch, pos, d_vocab)`."""

    def at(names: str, layer: int | None, value: mx.array) -> mx.array:
        for row_edits in zip(*rows, strict=True):
            name = row_edits[0].site
            if name in names.split() and _is_at(row_edits[0], layer, model.n_layers):
                if SITES[name].layered:
                    site = Site(name, layer)
                else:
                    site = Site(name)
                value = mx.array(apply_edits(np.array(value), site, row_edits, prompts))
        return value

    return _forward(model.model, mx.array(prompts), at)


def _is_at(edit: Edit, layer: int | None, n_layers: int) -> bool:
    if not SITES[edit.site].layered or edit.layer is None:
        return True
    return layer in {index % n_layers for index in edit.layer}


def _forward(model: Any, tokens: mx.array, at: At) -> mx.array:
    inner = model.model
    stream = inner.embed_tokens(tokens)
    for layer, block in enumerate(inner.layers):
        names = "resid_pre"
        if layer == 0:
            names = "embed resid_pre"
        stream = at(names, layer, stream)
        window = None
        if getattr(block, "use_sliding", False):
            window = inner.sliding_window
        attn_out = _attention(block.self_attn, block.input_layernorm(stream), window, layer, at)
        stream = at("resid_mid", layer, stream + at("attn_out mixer_out", layer, attn_out))
        mlp_out = _mlp(block.mlp, block.post_attention_layernorm(stream), layer, at)
        stream = at("resid_post", layer, stream + at("mlp_out", layer, mlp_out))
    normed = at("final_norm", None, inner.norm(stream))
    if model.args.tie_word_embeddings:
        return inner.embed_tokens.as_linear(normed)
    return model.lm_head(normed)


def _mlp(module: Any, stream: mx.array, layer: int, at: At) -> mx.array:
    neurons = swiglu(module.gate_proj(stream), module.up_proj(stream))
    return module.down_proj(at("mlp_post", layer, neurons))


def _attention(module: Any, stream: mx.array, window: int | None, layer: int, at: At) -> mx.array:
    batch, length, _ = stream.shape
    q = module.q_proj(stream).reshape(batch, length, module.n_heads, -1)
    k = module.k_proj(stream).reshape(batch, length, module.n_kv_heads, -1)
    v = module.v_proj(stream).reshape(batch, length, module.n_kv_heads, -1)
    q, k, v = at("q", layer, q), at("k", layer, k), at("v", layer, v)
    if "q_norm" in module:
        q = module.q_norm(q)
    if "k_norm" in module:
        k = module.k_norm(k)
    q = at("rot_q", layer, module.rope(q.swapaxes(1, 2)).swapaxes(1, 2))
    k = at("rot_k", layer, module.rope(k.swapaxes(1, 2)).swapaxes(1, 2))
    repeats = module.n_heads // module.n_kv_heads
    keys = mx.repeat(k, repeats, axis=2).swapaxes(1, 2)
    values = mx.repeat(v, repeats, axis=2).swapaxes(1, 2)
    scores = module.scale * (q.swapaxes(1, 2) @ keys.swapaxes(2, 3))
    lowest = mx.finfo(scores.dtype).min
    scores = mx.where(_is_visible(length, window), scores, lowest)
    pattern = mx.softmax(at("attn_scores", layer, scores), axis=-1)
    pattern = at("pattern", layer, pattern)
    z = at("z", layer, (pattern @ values).swapaxes(1, 2))
    return module.o_proj(z.reshape(batch, length, -1))


def _is_visible(length: int, window: int | None) -> mx.array:
    """Whether each query may attend to each key. Shape `(query, key)`."""
    query = mx.arange(length)[:, None]
    key = mx.arange(length)
    return (key <= query) & (key > query - (window or length))
