"""The list of seeded faults of keys, rows, lists, final sites and entrances. Each must turn law 8 or 10 red.

Each was a fault of the library once, whose numbers were wrong in silence.
"""

import mlx.core as mx
import pytest
from faults import Fault

from mlx_patch import HookedModel
from mlx_patch.engine import _recipes
from mlx_patch.execution.passes import _last_block, _pass_run
from mlx_patch.interventions import RowEdits
from mlx_patch.laws import bench_of, independent, split
from mlx_patch.model import SelectorResolver, _each
from mlx_patch.sites import Site
from mlx_patch.sweeps import _per_prompt
from mlx_patch.testing import exact_sweeps, independent_in_sweeps, tiny_model

behind, joined = _last_block._is_behind, _each._join_edits


def keys_as_the_cache_has_them(listener, call):
    return listener


def one_after_the_other(self, activation, site, span):
    """Each row's edit sees what the rows before it were made."""
    for member, rows in zip(self.members, self.rows, strict=True):
        edited = member.apply(activation, site, span)
        kept = mx.array([row in rows for row in range(activation.shape[0])])
        activation = mx.where(kept.reshape(-1, *[1] * (activation.ndim - 1)), edited, activation)
    return activation


def as_a_batch(tokens, tokenizer, offset=0, alone=False):
    return SelectorResolver(tokens, tokenizer, offset)


def edits_of_the_batch(own):
    return list(own[0]) if all(edits is own[0] for edits in own) else joined(own)


def final_sites_overlooked(layout, site, last):
    at_the_end = site.name == "final_norm" or (site.is_raw and site.raw[0] == layout.family.final_norm)
    return not at_the_end and behind(layout, site, last)


def always_at_resid_pre(layout, layer):
    return Site("resid_pre", layer)


KEYS = [
    Fault(
        "keys are the window's",
        _recipes,
        "in_order",
        keys_as_the_cache_has_them,
        f"{name} edited by key",
        model,
        law=split,
    )
    for model in ("gemma3_text", "llama-sliding", "gpt_oss")
    for name in ("attn_scores", "pattern")
]
ROWS = [
    Fault("rows are edited one after the other", RowEdits, "apply", one_after_the_other, seen, law=law)
    for law, seen in (
        (independent, "Ablate('noise') of embed by row"),
        (independent, "Ablate('mean') of resid_post by row"),
        (independent, "Ablate('resample') of embed by row"),
        (independent_in_sweeps, "by one intervention a prompt, grow, embed"),
        (independent_in_sweeps, "by one intervention a prompt, grow, resid_post"),
    )
]
LISTS = [
    Fault("a list is swept as a batch", _per_prompt, "SelectorResolver", as_a_batch, seen, law=independent_in_sweeps)
    for seen in ("by a list of prompts, grow, embed", "by a list of prompts, grow, resid_post", "is refused")
]
LISTS += [
    Fault(
        "a list is measured as a batch",
        _per_prompt,
        "SelectorResolver",
        as_a_batch,
        "measure, a list",
        law=independent_in_sweeps,
    ),
    Fault(
        "each of a list is run as a batch",
        _each,
        "_join_edits",
        edits_of_the_batch,
        "in a list, prompt 0",
        law=independent,
    ),
]
ENDS = [
    Fault("what reads all of the final norm's positions is given one", _last_block, "_is_behind",
          final_sites_overlooked, f"by final site, {how}, {name}", law=exact_sweeps)
    for how in ("grow", "rows in pieces") for name in ("final_norm", "raw paths")
]  # fmt: skip
ENDS += [
    Fault("rows enter behind `embed`", _pass_run, "_entrance", always_at_resid_pre,
          "by site, grow, embed", "muse_spark", law=exact_sweeps),
]  # fmt: skip


def is_seen(fault: Fault) -> bool:
    """Whether its law finds it where it should show."""
    prompt = mx.array([[(11 + 37 * (i + 12 * row)) % 96 for i in range(12)] for row in (0, 1)])
    bench = bench_of(HookedModel(tiny_model(fault.model)), prompt)
    return any(fault.seen in finding.what and not finding.held for finding in fault.law(bench))


@pytest.mark.parametrize("fault", [*KEYS, *ROWS, *LISTS, *ENDS], ids=lambda f: f"{f}: {f.seen}, {f.model}")
def test_a_fault_that_was_there_once_is_seen(fault, monkeypatch):
    fault.seed(monkeypatch)
    assert is_seen(fault)


@pytest.mark.parametrize("model", ["gemma3_text", "llama-sliding"])
@pytest.mark.parametrize("how", ["grow", "rows in pieces"])
def test_a_sweep_that_takes_a_window_s_keys_for_all_is_seen(model, how, monkeypatch):
    """It begins behind the window."""
    monkeypatch.setattr("mlx_patch.execution.cells._cell.keeps_all_keys", lambda caches: True)
    for seen in (f"by site, {how}, pattern", f"by site, {how}, attn_scores"):
        fault = Fault("keys", _recipes, "in_order", keys_as_the_cache_has_them, seen, model, law=exact_sweeps)
        fault.seed(monkeypatch)
        assert is_seen(fault)


@pytest.mark.parametrize("law", [split, exact_sweeps, independent, independent_in_sweeps])
def test_without_a_fault_nothing_is_seen(law):
    assert not is_seen(Fault("nothing", None, "", None, "", law=law))
