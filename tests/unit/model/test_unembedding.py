"""From the stream to logits, and the rows of the unembedding, against the models' own weights."""

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.errors import ArchitectureError
from mlx_patch.model import find_head

BATCH = mx.array([[11, 48, 85, 26], [5, 9, 2, 77]])


@pytest.mark.parametrize("shape", [(32,), (4, 32), (2, 4, 32), (2, 1, 4, 32)])
def test_a_stream_of_any_axes_is_unembedded(tiny, shape):
    model = tiny()
    stream = mx.random.normal((*shape[:-1], model.d_model), key=mx.random.key(0))
    expected = model.model.lm_head(model.model.model.norm(stream))
    logits = model.unembed(model.final_norm(stream))
    assert logits.shape == (*shape[:-1], 96)
    np.testing.assert_allclose(np.array(logits), np.array(expected), atol=1e-5)


def test_caps_and_scales_are_the_model_s(tiny):
    for name in ("gemma2", "granite", "cohere"):
        model = tiny(name)
        logits, cache = model.run_with_cache(BATCH, "final_norm")
        assert mx.array_equal(model.unembed(cache["final_norm"]), logits).item(), name


@pytest.mark.parametrize("precision", ["float32", "4bit"])
@pytest.mark.parametrize(("name", "scale"), [("llama", 1.0), ("granite", 0.5), ("cohere", 0.5), ("talkie", None)])
def test_a_logit_is_a_row_times_the_stream(tiny, name, scale, precision):
    model = tiny(name, precision)
    logits, cache = model.run_with_cache(BATCH, "final_norm")
    rows = model.directions([7, 30])
    found = cache["final_norm"].astype(mx.float32) @ rows.T
    factor = find_head(model.layout).scale
    if scale is not None:
        assert factor == pytest.approx(scale, rel=1e-4)
    np.testing.assert_allclose(np.array(found * factor), np.array(logits[..., [7, 30]]), atol=1e-3)
    assert mx.array_equal(model.directions(30), rows[1]).item()


def test_a_bias_is_beside_the_rows(tiny):
    model = tiny("phi")
    head = find_head(model.layout)
    assert mx.array_equal(head.bias(mx.array([7])), model.model.lm_head.bias[7:8]).item()
    assert find_head(tiny().layout).bias(mx.array([7])).item() == 0.0


def test_an_adapter_on_the_head_is_refused(tiny):
    from mlx_lm.tuner.lora import LoRALinear

    from mlx_patch.testing import tiny_model

    raw = tiny_model("llama")
    raw.lm_head = LoRALinear.from_base(raw.lm_head, r=4)
    raw.lm_head.lora_b = mx.ones_like(raw.lm_head.lora_b)
    raw.eval()
    with pytest.raises(ArchitectureError, match="fuse it first"):
        mp.HookedModel(raw).directions(7)


def test_sizes_of_heads(tiny):
    llama = tiny("llama")
    assert (llama.n_heads, llama.n_kv_heads) == (
        llama.model.args.num_attention_heads,
        llama.model.args.num_key_value_heads,
    )
    assert llama.d_head == llama.model.args.head_dim
    assert (tiny("mamba").n_heads, tiny("mamba").n_kv_heads, tiny("mamba").d_head) == (None, None, None)
    assert tiny("openelm").n_heads is None


@pytest.mark.parametrize(("precision", "dtype"), [("float32", mx.float32), ("bfloat16", mx.bfloat16)])
def test_the_dtype_of_the_stream(tiny, precision, dtype):
    assert tiny("llama", precision).dtype == dtype


def test_tokens_as_text(tiny, word_tokenizer):
    model = mp.HookedModel(tiny().model, word_tokenizer)
    assert model.str_tokens([11, 48]) == ["w11", "w48"]
    assert model.str_tokens(BATCH) == [["w11", "w48", "w85", "w26"], ["w05", "w09", "w02", "w77"]]
    assert model.str_tokens("w11 w48")[-2:] == ["w11", "w48"]


def test_parts_of_a_cache_add_up(tiny):
    _, cache = tiny().run_with_cache(BATCH, ("embed", "attn_out", "mlp_out", "resid_post"))
    parts = cache.parts()
    assert [str(site) for site in parts][:3] == ["hook_embed", "blocks.0.hook_attn_out", "blocks.0.hook_mlp_out"]
    np.testing.assert_allclose(np.array(sum(parts.values())), np.array(cache["resid_post", -1]), atol=1e-5)
    sums = cache.accumulated()
    for layer in range(3):
        stream = sums[mp.Site("mlp_out", layer)]
        np.testing.assert_allclose(np.array(stream), np.array(cache["resid_post", layer]), atol=1e-5)


def test_a_cache_without_all_parts_is_refused(tiny):
    model = tiny("qwen3_next")
    _, cache = model.run_with_cache(BATCH, ("embed", "attn_out", "mlp_out"))
    if cache.layers("attn_out") != tuple(range(model.n_layers)) and not cache.layers("mlp_out"):
        pytest.fail("the zoo's qwen3_next has changed")
    _, llama = tiny().run_with_cache(BATCH, "mlp_out")
    with pytest.raises(mp.errors.MissingSiteError, match="must hold the parts of the stream"):
        llama.parts()
    _, some = tiny().run_with_cache(BATCH, ("embed", "blocks.0.hook_attn_out", "blocks.0.hook_mlp_out"))
    with pytest.raises(mp.errors.MissingSiteError, match="all 3 layers"):
        some.parts()
