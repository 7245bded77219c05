"""Prompts of any lengths: each as if it ran by itself, in the order given."""

import mlx.core as mx
import numpy as np
import pytest
from rounding import same, tolerance

from mlx_patch import Ablate, Add, Apply, HookedModel, Interpolate, Replace, Scale
from mlx_patch.errors import (
    EditNotUsedError,
    KindError,
    MissingSiteError,
    SelectionError,
    ShapeError,
    TokenError,
    ValueRefusedError,
)
from mlx_patch.interventions import Edit, prompt_edits
from mlx_patch.model import _each, prompts_of

NAMES = ("llama", "gemma2", "gpt2", "qwen3_next", "mamba", "mixtral", "gemma3n")
SITES = ("embed", "resid_pre", "resid_post", "mixer_out", "z", "pattern", "mlp_post", "final_norm")
PROMPTS = [[11, 48, 85], [26, 63, 4, 41, 78], [5, 6, 7], [9], [1, 2, 3, 4, 5], [44, 45, 46]]


def sites_of(model):
    return tuple(site for site in model.sites if site.name in SITES)


def equal(one, other):
    return one.shape == other.shape and one.dtype == other.dtype and mx.array_equal(one, other).item()


@pytest.fixture
def passes(monkeypatch):
    """The shapes of the tokens of every forward pass."""
    seen, run = [], _each.run

    def counting(layout, tokens, *args, **kwargs):
        seen.append(tokens.shape)
        return run(layout, tokens, *args, **kwargs)

    monkeypatch.setattr(_each, "run", counting)
    return seen


@pytest.mark.parametrize("name", NAMES)
def test_each_prompt_gives_what_its_own_run_gives(tiny, name):
    model = tiny(name)
    sites = sites_of(model)
    logits, caches = model.run_each_with_cache(PROMPTS, sites=sites)
    only = model.run_each(PROMPTS, logits_at=-1)
    for prompt, own, last, cache in zip(PROMPTS, logits, only, caches, strict=True):
        alone, captured = model.run_with_cache(mx.array([prompt]), sites=sites)
        assert same(own, alone, model)
        allowed = max(1e-5, tolerance(model) * mx.max(mx.abs(alone)).item())
        assert mx.allclose(last, alone[:, -1:], atol=allowed).item()
        assert list(cache) == list(captured)
        assert all(same(cache[site], captured[site], model) for site in captured)
        assert (cache.tokens.tolist(), cache.positions) == ([prompt], captured.positions)
        assert (cache.n_positions, cache.n_layers, cache.model) == (len(prompt), model.n_layers, model.identity)


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3_next"])
@pytest.mark.parametrize(
    "edit",
    [
        Scale(0.5).at("resid_post", layer=0, pos=-1),
        Ablate("noise", seed=3).at("resid_pre", layer=1),
        Ablate("zero").at("mlp_out", pos=0),
        Apply(lambda own, site: own - mx.mean(own, axis=0)).at("resid_post", layer=1),
        Apply(lambda own, site: own / mx.max(mx.abs(own))).at("embed", batch=0),
    ],
    ids=["last", "noise", "zero", "own mean", "own largest"],
)
def test_an_edit_sees_one_prompt_at_a_time(tiny, name, edit):
    model = tiny(name)
    for prompt, own in zip(PROMPTS, model.run_each(PROMPTS, [edit]), strict=True):
        assert same(own, model.run([prompt], [edit]), model)


@pytest.mark.parametrize("name", ["llama", "gemma2", "mamba"])
def test_each_prompt_may_have_its_own_edits(tiny, name):
    model = tiny(name)
    _, sources = model.run_each_with_cache([prompt[::-1] for prompt in PROMPTS])
    edits = [
        [Replace(source).at("resid_post", layer=0, pos=-1), Interpolate(source, 0.3).at("resid_post", layer=1)]
        for source in sources
    ]
    edits[3] = []
    found = model.run_each(PROMPTS, edits)
    for prompt, own, edited in zip(PROMPTS, edits, found, strict=True):
        assert same(edited, model.run([prompt], own), model)
        assert (mx.max(mx.abs(edited - model.run([prompt]))).item() > 1e-4) == bool(own)


def test_prompts_of_one_length_share_passes_of_at_most_so_many(tiny, passes):
    tiny().run_each(PROMPTS, batch_size=2)
    assert sorted(passes) == [(1, 1), (1, 3), (2, 3), (2, 5)]
    passes.clear()
    tiny().run_each(PROMPTS)
    assert sorted(passes) == [(1, 1), (2, 5), (3, 3)]


def test_raw_sites_run_one_prompt_at_a_time(tiny, passes):
    """Only named sites are known to have the batch first."""
    model, site = tiny(), "model.layers.0.mlp.down_proj:input"
    _, caches = model.run_each_with_cache(PROMPTS, sites=site)
    assert {shape[0] for shape in passes} == {1}
    assert equal(caches[2][site], model.run_with_cache([PROMPTS[2]], sites=site)[1][site])
    passes.clear()
    model.run_each(PROMPTS, [Scale(0.5).at(site)])
    assert {shape[0] for shape in passes} == {1}


def test_positions_are_those_of_each_prompt(tiny):
    _, caches = tiny().run_each_with_cache(PROMPTS, pos=-1)
    assert [cache.positions for cache in caches] == [(2,), (4,), (2,), (0,), (4,), (2,)]


def test_what_is_kept_of_one_prompt_does_not_hold_the_others(tiny):
    prompts = [[n % 90 + 1] * 64 for n in range(16)]
    mx.clear_cache()
    before = mx.get_active_memory()
    _, caches = tiny().run_each_with_cache(prompts, batch_size=16)
    many = mx.get_active_memory() - before
    del caches[1:], _
    assert mx.get_active_memory() - before < many / 8


def test_texts_chats_and_arrays_are_prompts(tiny, word_tokenizer):
    model = HookedModel(tiny().model, word_tokenizer)
    found = model.run_each(["w11 w48", [26, 63, 4], mx.array([5, 6]), np.array([[9]])])
    assert [own.shape[1] for own in found] == [2, 3, 2, 1]
    assert equal(found[0], model.run([[11, 48]]))
    assert [own.shape for own in model.run_each(mx.array([[1, 2], [3, 4]]))] == [(1, 2, 96)] * 2
    assert model.run_each([]) == []
    assert len(model.run_each(prompt for prompt in PROMPTS)) == 6


def test_ragged_rows_are_refused_with_the_remedy(tiny):
    with pytest.raises(ShapeError, match=r"`tokens` must have the same number .*row\. .*Pass them as a list to `mod"):
        tiny().run(PROMPTS)
    assert len(tiny().run_each(PROMPTS)) == 6


@pytest.mark.parametrize(
    ("prompts", "error", "message"),
    [
        ("w11 w48", KindError, r"`prompts` must be a list of prompts\. Got str\. Put it into a list"),
        ({"role": "user"}, KindError, r"`prompts` must be a list of prompts\. Got dict"),
        (3, KindError, r"`prompts` must be a list of prompts\. Got int"),
        ([1, 2, 3], KindError, r"`prompts` must hold texts, chats or token ids, one per entry\. Got int in entry 0"),
        (mx.array([1, 2]), KindError, r"Got array in entry 0\. Put the prompt into a list"),
        ([[1], {"role": "user"}], KindError, r"Got dict in entry 1"),
        ([[1], [[1], [2]]], ShapeError, r"`tokens` must hold one prompt per entry\. Got 2 in entry 1"),
        ([[1], []], (KindError, ShapeError), r"`tokens` must"),
        ([[1], [1, 96]], SelectionError, r"`tokens` must lie in 0 to 95\. Got 96\. .* This is entry 1 of `prompts`\."),
        ([[1], "w11"], TokenError, r"`tokenizer` must be given"),
    ],
)
def test_what_is_no_list_of_prompts_is_refused(tiny, prompts, error, message):
    with pytest.raises(error, match=message):
        tiny().run_each(prompts)


def test_lists_of_edits_that_are_not_one_a_prompt_are_refused(tiny):
    message = r"`edits` must be edits for all prompts, or a list of edits for each of the 6\. Got 2 lists\. Give an unp"
    with pytest.raises(ValueRefusedError, match=message):
        tiny().run_each(PROMPTS, [[], []])
    with pytest.raises(KindError, match=r"`edits` must hold edits"):
        tiny().run_each(PROMPTS, [Scale(2.0).at("embed"), []])


@pytest.mark.parametrize("size", [0, -1, True, 2.0])
def test_a_batch_size_that_is_none_is_refused(tiny, size):
    with pytest.raises(ValueRefusedError, match=r"`batch_size` must be (1 or more|a whole number of) prompts\. Got "):
        tiny().run_each(PROMPTS, batch_size=size)


def test_what_a_single_run_refuses_is_refused(tiny):
    """A source of three prompts is not spread over three prompts that happen to be of one length."""
    model = tiny()
    _, three = model.run_with_cache([[1, 2, 3]] * 3)
    with pytest.raises(ShapeError, match=r"`source` must have a batch of 1\. Got 3"):
        model.run_each(PROMPTS, [Replace(three).at("resid_post", layer=0)])
    with pytest.raises(ShapeError, match="must have the activation's shape"):
        model.run_each([[1, 2, 3], [4, 5, 6]], [Add(mx.ones((2, 3, model.d_model))).at("embed")])
    with pytest.raises(ValueRefusedError, match=r"`source` must be given if the run has one row"):
        model.run_each([[1], [2]], [Ablate("mean").at("resid_post", layer=0)])
    with pytest.raises(SelectionError, match="`pos` must lie in"):
        model.run_each(PROMPTS, [Scale(2.0).at("embed", pos=2)])
    with pytest.raises(EditNotUsedError, match=r"`edits` must each act\. The edit at hook_embed did not"):
        model.run_each([[1, 2], [3, 4]], [Scale(2.0).at("embed", pos=slice(5, None))])
    with pytest.raises(MissingSiteError, match="must hold"):
        model.run_each([[1, 2, 3], [4, 5, 6]], [Replace(three).at("embed")])


def test_prompts_are_taken_one_after_the_other():
    """From an endless iterable as well."""

    def endless():
        n = 0
        while True:
            yield [n % 96]
            n += 1

    taken = prompts_of(endless(), None, 96)
    assert [next(taken).tolist() for _ in range(3)] == [[[0]], [[1]], [[2]]]


def seeded(model):
    """Whether the results are those of the prompts, in order, each with its own edit."""
    edits = [[Scale(float(n)).at("resid_post", layer=0)] for n in range(len(PROMPTS))]
    found = model.run_each(PROMPTS, edits)
    alone = (model.run([prompt], own) for prompt, own in zip(PROMPTS, edits, strict=True))
    return all(same(own, one, model) for own, one in zip(found, alone, strict=True))


def test_results_in_the_order_of_their_groups_would_show(tiny, monkeypatch):
    assert seeded(tiny())
    split = _each._split_batch
    monkeypatch.setattr(_each, "_split_batch", lambda result: split(result)[::-1])
    assert not seeded(tiny())


def test_edits_of_another_row_would_show(tiny, monkeypatch):
    join = _each._join_edits
    monkeypatch.setattr(_each, "_join_edits", lambda edits: join(edits[::-1]))
    assert not seeded(tiny())


def test_an_edit_of_the_whole_batch_would_show(tiny, monkeypatch):
    """As it would be if the edits of all prompts were handed to the run as they are."""
    edit = Ablate("noise", seed=3).at("resid_pre", layer=1)

    def holds():
        found = tiny().run_each(PROMPTS, [edit])
        alone = (tiny().run([prompt], [edit]) for prompt in PROMPTS)
        return all(same(own, one, tiny()) for own, one in zip(found, alone, strict=True))

    assert holds()
    monkeypatch.setattr(_each, "_join_edits", lambda edits: list(edits[0]))
    assert not holds()


def test_an_edit_of_rows_says_what_it_does():
    edit = Scale(0.5).at("embed")
    joined = prompt_edits([edit], [(0, 1)], size=2)
    assert repr(joined) == repr(edit)
    assert isinstance(joined, Edit)
