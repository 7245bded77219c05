"""The list of seeded faults, third part: every table of the registry on every other table's model.

A wrong table is refused, or breaks a law. One that reads and edits whatever it names as the model's own table does is
not wrong: some families differ in nothing that the model has.
"""

from dataclasses import replace
from functools import cache
from zlib import crc32

import mlx.core as mx
import pytest

from mlx_patch import HookedModel, PatchError, Scale
from mlx_patch.architectures import FAMILIES, family_of
from mlx_patch.errors import ArchitectureError
from mlx_patch.laws import bench_of, grounds
from mlx_patch.testing import ALL, EXCEPTIONS, ZOO, tiny_model

UNSEEN = {
    ("gear", "gemma3_text"): "it calls what Gear's convolutions add `attn_out`, which is `mixer_out` there",
    ("gear", "muse_glimmer"): "it calls what Gear's convolutions add `attn_out`, which is `mixer_out` there",
    ("nemotron_h", "mamba"): "each block is one mixer to it, where Nemotron H has blocks that are an MLP alone",
}
"""Tables that call a thing by another name than the model's own, which no law contradicts, with the reason."""

RAISED = {
    ("gemma2", "gear soft-capped"): KeyError,
    ("gemma3_text", "gear soft-capped"): KeyError,
    ("muse_glimmer", "gear soft-capped"): KeyError,
    ("gemma4_text", "gear soft-capped"): KeyError,
    ("muse_spark", "gemma3n"): AttributeError,
    ("bailing_moe", "bailing_hybrid"): ValueError,
    ("bailing_moe", "bailing_moe_linear"): ValueError,
    ("ernie4_5_moe", "olmoe"): ValueError,
}
"""Tables that end a run in an error of Python's or MLX's, and not in one of mlx_patch's."""

SAME = "reads and edits as the model's own"
PLACES = ("blocks", "final_norm", "embed", "width", "vocabulary", "loop", "parts", "boxing", "streams", "cached")


@cache
def models():
    """The name of a tiny model for each table that has one which runs here."""
    of = {}
    for name in ZOO:
        if name not in EXCEPTIONS:
            of.setdefault(id(family_of(tiny_model(name))), name)
    return tuple(of.values())


def label(family):
    return f"{family.name} {family.variant}".strip()


def is_the_same(layout, own):
    """Whether a table finds its sites where the model's own does: it may leave some out."""
    found = zip(layout.points, own.points, strict=True)
    return all(getattr(layout.family, place) == getattr(own.family, place) for place in PLACES) and all(
        points.items() <= known.items() for points, known in found
    )


def does_the_same(hooked, bench):
    """Whether its sites are some of the model's own, with equal activations and edits of equal effect."""
    own, sites = bench.model, hooked.sites
    if not {*sites} <= {*own.sites}:
        return False
    cache = hooked.run_with_cache(bench.tokens, sites=sites)[1]
    edits = [Scale(0.5).at(name) for name in {site.name for site in sites}]
    return all(same(cache[site], bench.captured_run[1][site]) for site in sites) and all(
        same(*(model.run(bench.tokens, edit) for model in (hooked, own))) for edit in edits
    )


def same(one, other):
    return one.dtype == other.dtype and mx.array_equal(one, other).item()


def outcome(bench, family):
    """What becomes of another family's table on a model: the error that refuses it, or the law that it breaks."""
    try:
        hooked = HookedModel(bench.model.model, family=family)
        if is_the_same(hooked.layout, bench.model.layout) or does_the_same(hooked, bench):
            return SAME
        read = bench_of(hooked)
        broken = (finding.law for law in (grounds, *ALL) for finding in law(read) if not finding.held)
        return next(broken, None)
    except (PatchError, AttributeError, KeyError, ValueError) as error:
        return type(error)


def is_tried(name, other):
    """Every fourth pair, and those that are not refused as they should be; all 11,400 take a minute more."""
    return (name, other) in {*UNSEEN, *RAISED} or crc32(f"{name} {other}".encode()) % 4 == 0


@pytest.mark.parametrize("name", models())
def test_another_family_s_table_is_refused_or_breaks_a_law(name):
    raw = tiny_model(name)
    bench, own = bench_of(HookedModel(raw)), family_of(raw)
    others = [family for family in FAMILIES if family is not own and is_tried(name, label(family))]
    outcomes = {(name, label(family)): outcome(bench, family) for family in others}
    assert {pair for pair, found in outcomes.items() if found is None} == {pair for pair in UNSEEN if pair[0] == name}
    raised = {pair: found for pair, found in outcomes.items() if found in (AttributeError, KeyError, ValueError)}
    assert raised == {pair: error for pair, error in RAISED.items() if pair[0] == name}


def test_a_table_whose_blocks_are_no_list_is_refused():
    raw = tiny_model("llama")
    wrong = replace(family_of(raw), blocks="model")
    with pytest.raises(
        ArchitectureError, match=r"Got one whose blocks are 'model', which is not a list of modules in mlx"
    ):
        HookedModel(raw, family=wrong)


def test_a_table_that_looks_for_a_name_in_a_list_is_refused():
    raw = tiny_model("llama")
    wrong = replace(family_of(raw), blocks="model.layers.layers")
    with pytest.raises(
        ArchitectureError, match=r"Got one that looks for 'model\.layers\.layers', which is not in Model"
    ):
        HookedModel(raw, family=wrong)
