"""Models that are split over two ranks, by heads or by layers."""

import pytest

SPLIT = (("llama", "float32"), ("qwen3", "float32"), ("gpt_oss", "float32"), ("llama-wide", "4bit"))

TOLERANCE = 1e-5
"""Relative to the largest number, in float32: a sum over ranks is the same sum in another order."""


@pytest.mark.parametrize("model", [" ".join(split) for split in SPLIT])
def test_every_site_reads_and_edits_as_in_the_whole_model(two_ranks, model: str):
    """Sites that each rank has, and those of which it has some heads or neurons, of which also some."""
    first, second = (rank[model] for rank in two_ranks("sharded"))
    assert {key: far for rank in (first, second) for key, far in rank["apart"].items() if far > TOLERANCE} == {}
    assert {"z", "q", "k", "v", "rot_q", "rot_k", "pattern", "attn_scores"} <= {short(key) for key in first["apart"]}
    assert first["bits"] == second["bits"]


def short(key: str) -> str:
    return key.split(maxsplit=1)[0].rpartition("hook_")[2]


@pytest.mark.parametrize("model", [" ".join(split) for split in SPLIT])
def test_heads_are_counted_over_ranks(two_ranks, model: str):
    assert [rank[model]["heads"] for rank in two_ranks("sharded")] == [True, True]


SWEEPS = (
    "resid_post", "attn_out", "mlp_out", "z", "z reference", "z rows", "z positions", "z noise",
    "z standing", "z path", "q", "v", "pattern", "neurons", "pairs", "attribute z", "attribute q", "attribute mlp_out",
    "edges", "jacobian", "direct",
)  # fmt: skip


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_sweep_of_a_sharded_model_is_that_of_the_whole_one(two_ranks, sweep: str):
    """And so are attributions, edges of a circuit, a fitted lens, and what heads write to logits."""
    first, second = (rank[f"sweep {sweep}"] for rank in two_ranks("sharded_llama"))
    assert first["size"] > 0.1
    assert max(first["apart"], second["apart"]) < TOLERANCE
    assert first["bits"] == second["bits"]


def test_a_plan_on_a_sharded_model_finds_what_single_runs_find(two_ranks):
    """With a donor of the sharded model itself."""
    assert max(rank["own donor"] for rank in two_ranks("sharded_llama")) < TOLERANCE


PARTS = (
    "captured", "editing", "raw sweep",
    "self_attn.o_proj:input", "self_attn.q_proj:output", "mlp.down_proj:input",
)  # fmt: skip


@pytest.mark.parametrize("what", PARTS)
def test_places_of_which_a_rank_has_a_part_are_refused(two_ranks, what: str):
    """Raw paths: no table says how they are split."""
    for number, rank in enumerate(two_ranks("sharded_llama")):
        kind, message = rank["refused"][what]
        assert kind == "MissingSiteError"
        assert f"so rank {number} of 2 may hold only a part. There are: embed, resid_pre, q, k, v," in message
        assert "For other sites, load the model unsharded." in message


@pytest.mark.parametrize("site", ["k", "v", "rot_k"])
def test_heads_that_two_ranks_have_are_refused(two_ranks, site: str):
    """Where there are fewer KV heads than ranks, a model repeats them: an edit of one would have to be made on both."""
    for number, rank in enumerate(two_ranks("sharded_llama")):
        kind, message = rank["repeated"][site]
        assert kind == "MissingSiteError"
        assert f"so rank {number} of 2 may hold only a part." in message
        assert rank["repeated apart"] < TOLERANCE


def test_gradients_that_are_not_summed_over_ranks_are_refused(two_ranks):
    for rank in two_ranks("sharded_llama"):
        kind, message = rank["gradients"]
        assert kind == "ArchitectureError"
        assert message.startswith("`model` must sum its gradients over ranks. Got deepseek_v3, split over 2 ranks, ")


def test_passes_of_a_sharded_model_are_not_divided(two_ranks):
    for rank in two_ranks("sharded_llama"):
        kind, message = rank["refused"]["group"]
        assert kind == "ArchitectureError"
        assert "`group` must be None if the model is sharded: every rank takes part in every pass." in message


def test_what_is_refused_is_refused_before_the_model_runs(two_ranks):
    assert [rank["runs"] for rank in two_ranks("sharded_llama")] == [0, 0]


def test_raw_paths_of_whole_sites_work(two_ranks):
    assert max(rank["raw apart"] for rank in two_ranks("sharded_llama")) < TOLERANCE


def test_a_model_that_is_split_by_layers_is_refused(two_ranks):
    for rank in two_ranks("sharded_llama"):
        kind, message = rank["pipeline"]
        assert kind == "ArchitectureError"
        assert "Got one that `pipeline` split by layers over 2 ranks." in message
