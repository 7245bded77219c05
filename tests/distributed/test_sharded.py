"""Models that are split over two ranks, by heads or by layers."""

import pytest

TOLERANCE = 1e-5
"""Relative to the largest number, in float32: a sum over ranks is the same sum in another order."""


@pytest.mark.parametrize("model", ["llama float32", "gpt_oss float32", "llama-wide 4bit"])
def test_whole_sites_read_and_edit_as_in_the_whole_model(two_ranks, model: str):
    first, second = (rank[model] for rank in two_ranks("sharded"))
    assert max(first["apart"], second["apart"]) < TOLERANCE
    assert first["bits"] == second["bits"]


@pytest.mark.parametrize("site", ["resid_post", "attn_out", "mlp_out"])
def test_a_sweep_of_a_sharded_model_is_that_of_the_whole_one(two_ranks, site: str):
    first, second = (rank[f"sweep {site}"] for rank in two_ranks("sharded"))
    assert first["size"] > 0.1
    assert max(first["apart"], second["apart"]) < TOLERANCE
    assert first["bits"] == second["bits"]


PARTS = (
    "head", "neuron", "captured", "editing", "sweep", "raw sweep",
    "self_attn.o_proj:input", "self_attn.q_proj:output", "mlp.down_proj:input",
)  # fmt: skip


@pytest.mark.parametrize("what", PARTS)
def test_places_of_which_a_rank_has_a_part_are_refused(two_ranks, what: str):
    for number, rank in enumerate(two_ranks("sharded")):
        kind, message = rank["refused"][what]
        assert kind == "MissingSiteError"
        assert f"so rank {number} of 2 may hold only a part" in message
        assert "For other sites, load the model unsharded." in message


def test_passes_of_a_sharded_model_are_not_divided(two_ranks):
    for rank in two_ranks("sharded"):
        kind, message = rank["refused"]["group"]
        assert kind == "ArchitectureError"
        assert "`group` must be None if the model is sharded: every rank takes part in every pass." in message


def test_what_is_refused_is_refused_before_the_model_runs(two_ranks):
    assert [rank["runs"] for rank in two_ranks("sharded")] == [0, 0]


def test_raw_paths_of_whole_sites_work(two_ranks):
    assert max(rank["raw apart"] for rank in two_ranks("sharded")) < TOLERANCE


def test_a_model_that_is_split_by_layers_is_refused(two_ranks):
    for rank in two_ranks("sharded"):
        kind, message = rank["pipeline"]
        assert kind == "ArchitectureError"
        assert "Got one that `pipeline` split by layers over 2 ranks." in message
