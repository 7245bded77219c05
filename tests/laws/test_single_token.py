"""A single token over a prompt cache, which many attentions and caches take on another way than a prompt."""

from copy import deepcopy

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache

import mlx_patch as mp
from mlx_patch.laws import bench_of, largest_deviation
from mlx_patch.testing import tiny_model

ROTATING = ("llama-sliding", "gpt_oss", "gemma4_text", "baichuan_m1", "muse_spark")
PICKED = ("deepseek_v32", "deepseek_v41")
FOLDED = ("deepseek_v3", "mistral4", "bailing_moe_v3", "longcat_flash")
LOOPED = ("iquestloopcoder",)


def _shown(array: mx.array) -> mx.array:
    return mx.where(array > 0.9 * float(mx.finfo(array.dtype).min), array, 0)


def _last(array: mx.array, name: str, keys: int) -> mx.array:
    """The last position, over the last keys where there are keys."""
    return _shown(array[:, :, -1:, -keys:]) if name in ("attn_scores", "pattern") else array[:, -1:]


@pytest.mark.parametrize("name", [*ROTATING, *PICKED, *FOLDED, *LOOPED])
def test_the_last_token_alone_is_as_in_the_whole(name):
    model = mp.HookedModel(tiny_model(name))
    bench = bench_of(model)
    tokens, whole, prompt_cache = bench.tokens, bench.captured_run[1], bench.prompt_cache()
    model.run(tokens[:, :-1], prompt_cache=prompt_cache)
    bare = model.model(tokens[:, -1:], cache=deepcopy(prompt_cache))
    own = largest_deviation(bare, bench.plain[:, -1:])
    assert own <= bench.scale.half_the_digits
    logits, alone = model.run_with_cache(tokens[:, -1:], sites=model.sites, prompt_cache=prompt_cache)
    assert largest_deviation(logits, bare) <= bench.exactly("pattern")
    for site in model.sites:
        keys = alone[site].shape[-1]
        got, wanted = (_last(array, site.name, keys) for array in (alone[site], whole[site]))
        assert largest_deviation(got, wanted) <= bench.scale.beside(own), site


@pytest.mark.parametrize("name", PICKED)
def test_a_token_can_be_made_to_see_keys_it_did_not_pick(name):
    """Made to see all keys by an edit of its pattern, behind a cache as in a whole prompt."""
    model = mp.HookedModel(tiny_model(name))
    tokens, newest = bench_of(model).tokens, 8

    def spread(pattern, site):
        last = mx.arange(pattern.shape[-1]) >= pattern.shape[-1] - newest
        return mx.broadcast_to(last / newest, pattern.shape)

    edit = mp.Apply(spread).at("pattern", layer=-1, pos=tokens.shape[1] - 1)
    wanted = model.run(tokens, [edit], logits_at=-1)
    prompt_cache = make_prompt_cache(model.model)
    model.run(tokens[:, :-1], prompt_cache=prompt_cache)
    got = model.run(tokens[:, -1:], [edit], prompt_cache=prompt_cache)
    assert mx.allclose(got, wanted, rtol=0, atol=1e-5).item()
    assert not mx.allclose(got, model.run(tokens, logits_at=-1), rtol=0, atol=1e-3).item()


def test_an_edit_of_one_key_over_a_rotating_cache_finds_that_key():
    model = mp.HookedModel(tiny_model("llama-sliding"))
    tokens = bench_of(model).tokens

    def first_shown_zeroed(pattern, site):
        newest_four = mx.arange(pattern.shape[-1]) != pattern.shape[-1] - 4
        return pattern * newest_four

    edit = mp.Apply(first_shown_zeroed).at("pattern", layer=0, pos=tokens.shape[1] - 1)
    wanted = model.run(tokens, [edit], logits_at=-1)
    prompt_cache = make_prompt_cache(model.model)
    model.run(tokens[:, :-1], prompt_cache=prompt_cache)
    got = model.run(tokens[:, -1:], [edit], prompt_cache=prompt_cache)
    assert mx.allclose(got, wanted, rtol=0, atol=1e-5).item()
    assert not mx.allclose(got, model.run(tokens, logits_at=-1), rtol=0, atol=1e-3).item()
