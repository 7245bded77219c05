"""Laws 8 and 10 of sweeps on every architecture: they give what plain runs give, at the cost that their plan names.

Law 8 is held on two architectures in three, and what the last MLP is given is looked at on one. With `EVERY_MODEL=1`
both are on all.
"""

import os
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models.cache import ChunkedKVCache, RotatingKVCache, make_prompt_cache

import mlx_patch as mp
from mlx_patch.architectures import Stream
from mlx_patch.errors import ShapeError
from mlx_patch.execution import _execute
from mlx_patch.execution.passes import PassRun, _last_block
from mlx_patch.execution.plan import bounds_of
from mlx_patch.laws import bench_of
from mlx_patch.sites import Site
from mlx_patch.sweeps import pieces_of
from mlx_patch.sweeps._law_cells import everywhere, spread_evenly
from mlx_patch.testing import EXCEPTIONS, LAWS, ZOO, check_laws, check_sweeps, exact_sweeps
from mlx_patch.testing.zoo import CLASSICS

RUN = [name for name in ZOO if name not in EXCEPTIONS]
EVERY = bool(os.environ.get("EVERY_MODEL"))
SOME = RUN if EVERY else RUN[::3]
SWEPT = [name for number, name in enumerate(RUN) if EVERY or number % 3 != 1]
LONG = mx.array([[(11 + 37 * (i + 20 * row)) % 96 for i in range(20)] for row in (0, 1)])
"""Two prompts, five times as long as the windows of the zoo; one patch is behind the first window's end."""

MORE_THAN_THE_STREAM = {
    *("afm7", "deepseek_v41", "gemma3n", "gemma4", "gemma4_text", "gemma4_text-experts", "hunyuan", "hunyuan-dense"),
    *("iquestloopcoder", "kimi_k3", "longcat_flash", "longcat_flash_ngram", "rwkv7", "talkie"),
}
"""Where rows cannot begin in the middle of the model, because later blocks read more than the stream."""

WINDOWED = ("llama-sliding", "gemma3_text", "gpt_oss", "baichuan_m1", "gear", "recurrent_gemma", "llama4", "plamo3")
DENSE = ("llama", "gemma2", "gpt_neox-parallel", "hunyuan-dense", "mamba2", "qwen3_5")
CUT = (
    "llama-sliding",
    "gpt_oss",
    "recurrent_gemma",
    "llama4",
    "plamo3",
    "gemma2",
    "hunyuan-dense",
    "mamba2",
    "qwen3_5",
)
EXPERTS = ("mixtral", "deepseek_v3")  # which MLX's CPU backend multiplies in float32 alone
COARSER = [*((name, p) for name in DENSE for p in ("bfloat16", "4bit")), *((name, "4bit") for name in EXPERTS)]


def windowed(model) -> bool:
    parts = [part for entry in make_prompt_cache(model) for part in getattr(entry, "caches", (entry,))]
    return any(isinstance(part, RotatingKVCache | ChunkedKVCache) for part in parts)


def grown(report) -> bool:
    return any("grow in smaller passes" in finding.what for finding in report.findings)


@pytest.mark.parametrize("name", SWEPT)
def test_a_fast_sweep_equals_the_reference_sweep(name, tiny):
    model = tiny(name)
    report = check_sweeps(model, LONG if windowed(model.model) else None)
    assert report.ok, report
    assert {finding.law for finding in report.findings} == {8, 10}
    assert grown(report) == (name not in MORE_THAN_THE_STREAM)
    if not model.layout.family.rounds:
        assert all(finding.tolerance <= 1e-5 for finding in report.findings)


@pytest.mark.parametrize("name", WINDOWED)
def test_a_patch_within_the_first_window(name, tiny):
    report = check_sweeps(tiny(name))
    assert report.ok, report


@pytest.mark.parametrize(("name", "precision"), COARSER)
def test_in_coarser_precision(name, precision, tiny):
    report = check_sweeps(tiny(name, precision))
    assert report.ok, report


@pytest.fixture
def pieces(monkeypatch):
    """Prompts run three positions at once at most. How many passes did so in more than one piece."""
    bounds, run, cut = _execute.bounds_of, PassRun.run, []

    def noted(self, *given, grow):
        values = run(self, *given, grow=grow)
        cut.append(self.in_pieces)
        return values

    monkeypatch.setattr(_execute, "bounds_of", lambda memory: replace(bounds(memory), piece=3))
    monkeypatch.setattr(PassRun, "run", noted)
    return cut


@pytest.mark.parametrize("name", [*CUT, "gemma3n", "rwkv7", *EXPERTS])
def test_prompts_that_run_in_pieces(name, tiny, pieces):
    model = tiny(name)
    report = check_sweeps(model, LONG if windowed(model.model) else None)
    assert report.ok, report
    assert any(pieces) == (not model.layout.family.uncut)


@pytest.mark.parametrize("executor", ["grow", "rows"])
def test_an_edit_on_both_sides_of_an_early_reading_is_not_cut(tiny, monkeypatch, executor):
    """The first piece ends where a metric first reads, which may be before a whole piece is full."""
    bounds, model = _execute.bounds_of, tiny("llama")
    monkeypatch.setattr(_execute, "bounds_of", lambda memory: replace(bounds(memory), piece=6))
    over = [mp.Replace(mx.random.normal((1, 2, model.d_model))).at("resid_post", layer=0, pos=[1, 4])]
    metric = [mp.metrics.LogProb(3, pos=2), mp.metrics.LogProb(3)]
    got, wanted = (mp.sweep(model, LONG[:1], over=over, metric=metric, executor=how) for how in (executor, "reference"))
    assert abs(got.values - wanted.values).max() < 1e-4
    assert abs(wanted.values - wanted.baseline).max() > 1e-2


@pytest.mark.parametrize(
    ("name", "precision"), [*((name, "float32") for name in SOME), *((name, "4bit") for name in CLASSICS)]
)
def test_the_last_mlp_is_given_what_is_read_alone(name, precision, tiny, monkeypatch):
    """Where nothing behind the last mixer is edited; and the numbers are the reference's."""
    model, lengths = tiny(name, precision), []
    layout, last = model.layout, Site("resid_mid", model.n_layers - 1)

    def noted(*arguments):
        found = _last_block.mlp_hooks(*arguments)
        lengths.append(len(found))
        return found

    monkeypatch.setattr("mlx_patch.execution.passes._pass_run.mlp_hooks", noted)
    layers = sorted({0, model.n_layers // 2, model.n_layers - 1})
    ask = {"intervention": mp.Scale(-0.5), "at": "resid_post", "over": ("layer", "pos"), "layers": layers}
    ask |= {"positions": [2, 5], "metric": [mp.metrics.LogitDiff(3, 5), mp.metrics.Prob(7)]}
    fast, whole = (mp.sweep(model, LONG[:, :8], executor=how, **ask) for how in ("auto", "reference"))
    close = 1e-5 if precision == "float32" and not layout.family.rounds else 3e-2
    assert abs(fast.values - whole.values).max() <= close * max(1, abs(whole.values).max())
    assert abs(whole.values - whole.baseline).max() > 1e-4
    simple = layout.family.stream == Stream() and not layout.family.shared and layout.times * layout.family.parts == 1
    plain = last.name in layout.points[-1] and layout.points[-1]["resid_mid"].side == "input"
    assert any(lengths) == (
        simple and plain and not layout.points[-1]["resid_mid"].boxed and fast.plan.executor == "grow"
    )


@pytest.mark.parametrize(
    "prompt", [[[5, 5, 5, 5, 9]], [[3, 1, 4, 1]], [[i * row for i in range(1, 7)] for row in (1, 2, 3)]]
)
def test_of_other_prompts(prompt, tiny):
    report = check_sweeps(tiny("llama"), mx.array(prompt))
    assert report.ok, report


def test_a_model_that_sees_ahead_is_swept_over_whole_prompts(tiny):
    """It sees what comes later in the prompt."""
    report = check_sweeps(tiny("phi3small"))
    assert report.ok, report


def test_a_prompt_of_three_tokens_is_refused(tiny):
    with pytest.raises(ShapeError, match=r"`prompt` must have 4 tokens or more\. Got 3"):
        check_sweeps(tiny("llama"), [1, 2, 3])


def test_every_site_is_swept(tiny):
    model = tiny("qwen3_5")
    compared = {finding.what for finding in check_sweeps(model).findings}
    for name in ("resid_post", "attn_out", "mixer_out", "mlp_out", "z"):
        for over in ("layer", "layer and pos"):
            assert {f"by {over}, rows, {name}", f"by {over}, grow in smaller passes, {name}"} <= compared
    assert {"by layer and head, rows, z", "by layer and head, grow in smaller passes, z"} <= compared
    for name in {site.name for site in model.sites}:
        assert {f"by site, grow, {name}", f"by site, rows in pieces, {name}"} <= compared
    assert {"by raw path, rows, raw paths", "by final site, grow, raw paths"} <= compared
    assert {"by final site, grow, final_norm", "by final site, rows in pieces, final_norm"} <= compared


def test_rows_are_compared_however_the_batch_is_made(tiny):
    compared = {finding.what for finding in check_sweeps(tiny("llama")).findings if finding.law == 10}
    for over in ("one intervention a prompt", "positions by row", "a list of prompts"):
        for name in ("unpatched", "embed", "resid_post"):
            assert f"by {over}, grow, {name}" in compared
    assert {"by positions by row, grow, pattern", "by a list of prompts, grow, pattern"} <= compared
    assert "measure, a list of prompts, embed" in compared
    assert "a list of prompts, a resample without a source is refused" in compared


def test_cells_are_of_every_kind(tiny):
    """They read one position, several, and keys alone, and there are two edits to a cell as well as one."""
    cells = list(everywhere(bench_of(tiny("llama"))))
    kinds = {repr(edit.intervention) for cell in cells for edit in cell.edits}
    assert {"Ablate('mean')", "Ablate('noise')", "Apply(summed)", "Apply(by key)"} <= kinds
    assert {len(cell.edits) for cell in cells} == {1, 2}
    assert any(edit.pos is not None and "Replace" in repr(edit) for cell in cells for edit in cell.edits)


def test_pieces_are_small_inside_a_block_and_as_before_behind_it():
    before = bounds_of(None).piece
    with pieces_of(3):
        assert bounds_of(None).piece == bounds_of(10**9).piece == 3
    assert bounds_of(None).piece == before


class Decoder(nn.Module):
    """A decoder that is none of mlx_lm's: each block adds a map of the mean of what came before."""

    def __init__(self):
        super().__init__()
        self.embed, self.blocks, self.out = nn.Embedding(96, 8), [Block() for _ in range(3)], nn.Linear(8, 96)

    def __call__(self, tokens):
        stream = self.embed(tokens)
        for block in self.blocks:
            stream = block(stream)
        return self.out(stream)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(8, 8)

    def __call__(self, stream):
        return stream + self.map(mx.cumsum(stream, axis=1) / mx.arange(1, stream.shape[1] + 1)[:, None])


def test_a_model_without_a_table_is_swept_in_rows():
    report = check_sweeps(mp.HookedModel(Decoder()))
    assert report.ok, report
    assert not grown(report)


def test_it_is_a_law_like_the_others(tiny):
    report = check_laws(tiny("llama"), laws=(exact_sweeps,))
    assert report.ok, report
    assert LAWS[8] in str(report)


def test_some_of_many_are_picked_with_both_ends():
    assert spread_evenly(range(30), 5) == [0, 7, 14, 21, 29]
    assert spread_evenly(range(3), 5) == [0, 1, 2]
    assert spread_evenly((4,), 5) == [4]
    assert spread_evenly((), 5) == []
