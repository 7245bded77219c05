"""Every law on drawn configurations of every architecture: one each, or `DRAWS=8` of them from `FIRST_DRAW=100` on."""

import os

import mlx.core as mx
import pytest

from mlx_patch import HookedModel
from mlx_patch.architectures import family_of
from mlx_patch.errors import ArchitectureError, MissingSiteError, UnknownNameError
from mlx_patch.laws import independent
from mlx_patch.testing import ALL, DRAW_EXCEPTIONS, EXCEPTIONS, ZOO, check_laws, draw, drawn_model, tiny_model
from mlx_patch.testing.zoo import built

FIRST, COUNT = int(os.environ.get("FIRST_DRAW", "0")), int(os.environ.get("DRAWS", "1"))
NUMBERS = range(FIRST, FIRST + COUNT)
EVERY = ALL if os.environ.get("DRAWS") else tuple(law for law in ALL if law is not independent)
"""Law 10, of several rows, takes a third of the time: it runs where `DRAWS` is named."""
TOKENS = mx.array([[11, 48, 85, 26, 63, 4, 41, 78]])


def told(drawn) -> str:
    """A draw as a line."""
    return f"{drawn.name} {drawn.number}, {' + '.join(drawn.changes)}: {drawn.config}"


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("name", [name for name in ZOO if name not in EXCEPTIONS])
def test_the_laws_hold_on_a_drawn_configuration(name, number):
    report = check_laws(HookedModel(drawn_model(name, number)), laws=EVERY)
    excepted, _ = DRAW_EXCEPTIONS.get(name, (None, ""))
    assert {finding.law for finding in report.broken} <= {excepted}, f"{told(draw(name, number))}\n{report}"


def test_plamo3_errs_by_itself_where_its_window_is_short():
    """Where this fails, mlx_lm has mended it: take plamo3 out of DRAW_EXCEPTIONS."""
    assert {*DRAW_EXCEPTIONS} == {"plamo3"}
    broken = check_laws(HookedModel(built_with("plamo3", {"window_size": 3}))).broken
    assert {finding.law for finding in broken} == {9}
    assert "logits of the bare model" in {finding.what for finding in broken}


CONFIGURATIONS = {
    "deepseek, all dense": ("deepseek", {"n_routed_experts": None}),
    "deepseek_v2, all dense": ("deepseek_v2", {"first_k_dense_replace": 2}),
    "deepseek_v3, all sparse": ("deepseek_v3", {"first_k_dense_replace": 0}),
    "deepseek_v3, all dense": ("deepseek_v3", {"n_routed_experts": None}),
    "deepseek_v32, all sparse": ("deepseek_v32", {"first_k_dense_replace": 0}),
    "kimi_vl, all sparse": ("kimi_vl", {"text_config": {"first_k_dense_replace": 0}}),
    "kimi_linear, all sparse": ("kimi_linear", {"first_k_dense_replace": 0}),
    "bailing_moe_linear, all sparse": ("bailing_moe_linear", {"first_k_dense_replace": 0}),
    "bailing_moe_linear, all dense": ("bailing_moe_linear", {"first_k_dense_replace": 3}),
    "minimax_m3_vl, all dense": ("minimax_m3_vl", {"text_config": {"moe_layer_freq": [0, 0, 0]}}),
    "gear, no attention": ("gear", {"layer_types": ["conv_mixer"] * 3}),
    "olmo_hybrid, no attention": ("olmo_hybrid", {"layer_types": ["linear_attention"] * 3}),
    "nemotron_h, no attention, so mlx_lm raises over a prompt cache": (
        "nemotron_h",
        {"hybrid_override_pattern": ["M", "E", "M", "-"]},
    ),
    "mixtral, one expert": ("mixtral", {"num_local_experts": 1, "num_experts_per_tok": 1}),
    "nemotron-nas, linear maps only": (
        "nemotron-nas",
        {"block_configs": [{"attention": {"replace_with_linear": True}, "ffn": {"replace_with_linear": True}}] * 5},
    ),
    "olmo2, biases before a norm": ("olmo2", {"mlp_bias": True, "attention_bias": True}),
}
"""Configurations that were refused, or on which a law was too narrow."""


def built_with(name, changes):
    """A tiny model of the zoo's configuration with some fields changed, those of its text tower too."""
    module, config = ZOO[name]
    text = {"text_config": {**config["text_config"], **changes["text_config"]}} if "text_config" in changes else {}
    return built(module, {**config, **changes, **text})


@pytest.mark.parametrize(("name", "changes"), CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_the_laws_hold_on_configurations_of_one_kind(name, changes):
    report = check_laws(HookedModel(built_with(name, changes)))
    assert report.ok, report


@pytest.mark.parametrize(
    ("name", "changes", "site", "reason"),
    [
        ("deepseek_v3", {"first_k_dense_replace": 0}, "mlp_post", "none of its blocks has a dense MLP"),
        ("deepseek_v3", {"n_routed_experts": None}, "expert_weights", "none of its blocks has experts"),
        ("gear", {"layer_types": ["conv_mixer"] * 3}, "pattern", "none of its blocks has 'self_attn' where its table"),
    ],
)
def test_a_site_that_no_block_has_is_refused_with_the_reason(name, changes, site, reason):
    model = HookedModel(built_with(name, changes))
    with pytest.raises(MissingSiteError, match=rf"has no '{site}': {reason}.*\. It has: resid_pre"):
        model.run_with_cache(TOKENS, sites=site)


def test_a_table_of_what_no_block_has_is_still_refused():
    """One that looks for a part that none of the blocks has."""
    raw = tiny_model("mixtral")
    for wrong in ("llama", "qwen2_moe", "deepseek_v3"):
        with pytest.raises(
            ArchitectureError, match=r"Got one that looks for '.*', which no block of mlx_lm\.models\.mix"
        ):
            HookedModel(raw, family=family_of(tiny_model(wrong)))


def test_a_draw_is_another_configuration_the_same_each_time():
    first, second = draw("deepseek_v3", 0), draw("deepseek_v3", 1)
    assert first.config not in (second.config, ZOO["deepseek_v3"][1])
    draw.cache_clear()
    assert draw("deepseek_v3", 0) == first


def test_a_draw_leaves_the_zoo_as_it_is():
    plain = tiny_model("kimi_vl")(TOKENS)
    for number in range(4):
        draw("kimi_vl", number)
    assert mx.array_equal(tiny_model("kimi_vl")(TOKENS), plain).item()


def test_draws_of_a_mixture_make_each_change():
    """All blocks dense, all sparse, one KV head, and the others."""
    made = {change for number in range(24) for change in draw("bailing_moe", number).changes}
    assert {"all_dense", "all_sparse", "one_kv_head", "kv_head_each", "one_layer", "tied", "other_head_width"} <= made


def test_a_model_that_the_zoo_does_not_have_is_refused():
    with pytest.raises(UnknownNameError, match=r"`name` must be a model of the zoo\. Got 'lama'\. Did you mean llama"):
        drawn_model("lama", 0)
