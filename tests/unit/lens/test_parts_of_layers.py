"""Heads sum to what attention adds, and experts to what a mixture adds, with a rest that is stated."""

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.errors import ArchitectureError, KindError, MissingSiteError

TOKENS = mx.array([[11, 48, 85, 26, 63], [5, 9, 48, 77, 31]])


@pytest.mark.parametrize(
    "name", ["llama", "qwen2", "gpt2", "gemma2", "granite", "cohere", "gpt_neox-parallel", "olmo2", "mixtral"]
)
def test_a_head_s_part_is_its_own_direct_effect(tiny, name):
    """What `attn_out` loses without a head; behind a norm, with the norm's scale as it was: `direct_logits` of it."""
    model, layer = tiny(name), 1
    _, cache = model.run_with_cache(TOKENS, ("z", "attn_out"))
    parts = mp.lens.head_parts(model, cache, layer)
    np.testing.assert_allclose(parts.values.sum(axis=2) + parts.rest, cache["attn_out", layer], atol=1e-5)
    n_heads = cache["z", layer].shape[2]
    assert parts.values.shape == (2, 5, n_heads, model.d_model)
    if name in ("gemma2", "olmo2"):  # a norm follows, which without a head has another scale
        return
    for head in range(n_heads):
        edit = mp.Ablate("zero").at("z", layer=layer, head=head)
        _, without = model.run_with_cache(TOKENS, ("attn_out",), [edit])
        np.testing.assert_allclose(
            parts.values[:, :, head], cache["attn_out", layer] - without["attn_out", layer], atol=1e-5
        )


@pytest.mark.parametrize("name", ["llama", "gemma2", "olmo2"])
def test_heads_have_the_logits_of_direct_logits(tiny, name):
    """By the last norm's scale and gain, on one position."""
    model = tiny(name)
    _, cache = model.run_with_cache(TOKENS, ("z", "attn_out"))
    direct = mp.lens.direct_logits(model, TOKENS, 3, 5, by="head")
    _, norms = model.run_with_cache(TOKENS, ("resid_post", "final_norm"), pos=-1)
    stream, normed = norms["resid_post", model.n_layers - 1][:, 0], norms["final_norm"][:, 0]
    rows = model.directions([3, 5])
    direction = normed / stream * (rows[0] - rows[1])  # an RMS norm: scale times weight, entry by entry
    for layer in range(model.n_layers):
        values = mp.lens.head_parts(model, cache, layer).values[:, -1]
        found = np.array((values * direction[:, None]).sum(axis=-1)).T
        np.testing.assert_allclose(direct.values[layer], found, atol=1e-4)


def test_a_norm_without_its_scale_turns_it_red(tiny, monkeypatch):
    monkeypatch.setattr("mlx_patch.lens._frozen_norm.FrozenNorm.through", lambda self, part: part * self.gain)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        test_heads_have_the_logits_of_direct_logits(tiny, "gemma2")


def test_the_rest_is_the_projection_s_bias(tiny):
    model = tiny("gpt2")
    _, cache = model.run_with_cache(TOKENS, ("z", "attn_out"))
    bias = model.model.model.h[1].attn.c_proj.bias
    np.testing.assert_allclose(mp.lens.head_parts(model, cache, 1).rest[0, 0], bias, atol=1e-6)


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "deepseek_v3", "granitemoe"])
def test_experts_sum_to_the_mixture(tiny, name):
    model = tiny(name)
    layer = model.layout.select("expert_weights", None)[-1].layer
    _, cache = model.run_with_cache(TOKENS, ("mlp_out", "expert_weights"))
    parts = mp.lens.expert_parts(model, TOKENS, layer)
    np.testing.assert_allclose(parts.values.sum(axis=2) + parts.rest, cache["mlp_out", layer], atol=1e-5)
    is_chosen = np.array(cache["expert_weights", layer]) != 0
    sizes = np.abs(np.array(parts.values)).max(axis=-1)
    assert (sizes[is_chosen] > 0).all()
    assert not sizes[~is_chosen].any()


def test_an_expert_s_part_is_its_output_times_its_weight(tiny):
    model, layer = tiny("mixtral"), 1
    _, cache = model.run_with_cache(TOKENS, ("expert_weights", "resid_mid"))
    block = model.model.model.layers[layer]
    stream = block.post_attention_layernorm(cache["resid_mid", layer])
    parts, experts = mp.lens.expert_parts(model, TOKENS, layer), block.block_sparse_moe.switch_mlp
    for expert in range(cache["expert_weights", layer].shape[-1]):
        alone = experts(stream, mx.full((2, 5, 1), expert))[:, :, 0]
        weight = cache["expert_weights", layer][..., expert : expert + 1]
        np.testing.assert_allclose(parts.values[:, :, expert], weight * alone, atol=1e-5)
    np.testing.assert_allclose(parts.rest, mx.zeros_like(parts.rest), atol=1e-5)


def test_what_has_no_such_parts_is_refused(tiny):
    model = tiny("llama")
    _, cache = model.run_with_cache(TOKENS, ("z",))
    with pytest.raises(MissingSiteError, match=r"The cache must hold blocks\.1\.hook_attn_out"):
        mp.lens.head_parts(model, cache, 1)
    with pytest.raises(MissingSiteError, match="experts"):
        mp.lens.expert_parts(model, TOKENS, 1)
    with pytest.raises(KindError, match="`model` must be a HookedModel"):
        mp.lens.head_parts(model.model, cache, 1)


def test_a_norm_behind_the_mixture_is_refused(tiny, monkeypatch):
    """As where an expert's weight did more than weigh it."""
    model = tiny("mixtral")
    block = type(model.model.model.layers[1].block_sparse_moe)
    plain = block.__call__
    monkeypatch.setattr(block, "__call__", lambda self, x: mx.fast.rms_norm(plain(self, x), None, 1e-5))
    with pytest.raises(ArchitectureError, match="`model` must add what its experts give, each times its weight"):
        mp.lens.expert_parts(model, TOKENS, 1)
