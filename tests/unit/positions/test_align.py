"""Alignments: which positions of two prompts belong together, and what is put where by them."""

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.errors import KindError, SelectionError, ShapeError, TokenError, UnknownNameError, ValueRefusedError
from mlx_patch.metrics import LogProb
from mlx_patch.positions import Pieces

SHORT, LONG = mx.array([[11, 48, 85, 26, 63]]), mx.array([[11, 2, 48, 26, 26, 63, 4]])
PAIRS = ((0, 0), (1, 2), (2, 3), (4, 5))
BY_HAND = mp.Alignment(SHORT, LONG, PAIRS)


@pytest.fixture(scope="module")
def embedded():
    return mp.HookedModel.load("examples/models/tiny_instruct_ext")


def test_equal_prompts_are_aligned_one_by_one():
    alignment = mp.align(SHORT, SHORT)
    assert alignment.pairs == tuple((i, i) for i in range(5))
    assert alignment == alignment.inverse


@pytest.mark.parametrize(
    ("source", "target", "changed", "pairs"),
    [
        ([1, 2, 3], [1, 9, 3], "ends", ((0, 0), (1, 1), (2, 2))),
        ([1, 2, 3], [1, 9, 3], "none", ((0, 0), (1, 1), (2, 2))),
        ([1, 2, 3], [1, 8, 9, 3], "ends", ((0, 0), (1, 2), (2, 3))),
        ([1, 2, 3], [1, 8, 9, 3], "none", ((0, 0), (2, 3))),
        ([1, 2, 3], [1, 3], "ends", ((0, 0), (2, 1))),
        ([1, 3], [0, 0, 1, 3], "ends", ((0, 2), (1, 3))),
        ([4, 4, 4, 4], [4, 4], "ends", ((0, 0), (1, 1))),
    ],
)
def test_what_differs_in_length_is_aligned_at_its_end(source, target, changed, pairs):
    assert mp.align(source, target, changed=changed).pairs == pairs


def test_words_are_aligned_and_not_the_letters_that_they_share(embedded):
    tokenizer = embedded.tokenizer
    alignment = mp.align("Mars (planet 4) has 6792 km", "Jupiter (planet 5) has 142984 km", tokenizer)
    source, target = (Pieces(ids, tokenizer) for ids in (alignment.source_tokens, alignment.target_tokens))
    for name, other in (("Mars", "Jupiter"), ("6792", "142984")):
        ours, theirs = (mp.pos.text(t).find(p) for t, p in ((name, source), (other, target)))
        assert len(ours) != len(theirs)
        assert [(a, b) for a, b in alignment.pairs if a in ours or b in theirs] == [(ours[-1], theirs[-1])]
    both = [(source.texts[a], target.texts[b]) for a, b in alignment.pairs]
    assert sum(a != b for a, b in both) == 3  # two words of other length, and the planet's number


def test_printed_it_is_two_lines():
    assert str(BY_HAND).splitlines() == [
        "source | 11 | - | 48 | 85 | 26 | -  | 63 | -",
        "target | 11 | 2 | 48 | 26 | -  | 26 | 63 | 4",
    ]
    rows = [[cell.strip() for cell in line.split("|")[1:]] for line in str(BY_HAND).splitlines()]
    assert [cell for cell in rows[0] if cell != "-"] == ["11", "48", "85", "26", "63"]
    assert [cell for cell in rows[1] if cell != "-"] == ["11", "2", "48", "26", "26", "63", "4"]
    together = [(a, b) for a, b in zip(*rows, strict=False) if "-" not in (a, b)]
    assert together == [("11", "11"), ("48", "48"), ("85", "26"), ("63", "63")]


def test_other_tokenizers_are_aligned_where_tokens_end(embedded, word_tokenizer):
    """Where a token of each ends at the same character."""
    alignment = mp.align("w11 w48 w85", "w11 w48 w85", embedded.tokenizer, corrupted_tokenizer=word_tokenizer)
    texts = Pieces(alignment.source_tokens, embedded.tokenizer).texts
    ended = ["".join(texts[: a + 1]).removeprefix("<s>") for a in alignment.sources]
    assert ended == ["w11", "w11 w48", "w11 w48 w85"]
    assert alignment.targets[-1] == len(alignment.target_tokens) - 1


def test_the_inverse_goes_the_other_way():
    assert BY_HAND.inverse.inverse == BY_HAND
    assert BY_HAND.source_of(2) == 1
    assert BY_HAND.source_of(-2) == 4
    assert BY_HAND.inverse.source_of(4) == 5
    with pytest.raises(SelectionError, match=r"must be a position that the alignment has a source for. Got 1. It has"):
        BY_HAND.source_of(1)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: mp.Alignment([1], [2], []), ValueRefusedError, "must hold a pair of positions. Got none"),
        (lambda: mp.align([1, 2], [3, 4, 5], changed="none"), ValueRefusedError, "nothing in common"),
        (lambda: mp.Alignment([1, 2], [2], [(2, 0)]), SelectionError, r"within the 2 and 1 positions.*Got \(2, 0\)"),
        (
            lambda: mp.Alignment([1, 2], [2, 3], [(1, 0), (0, 1)]),
            ValueRefusedError,
            r"must be in rising order.*Got \(1, 0\), then",
        ),
        (lambda: mp.align([1], [1], changed="all"), UnknownNameError, "must be one of ends, none. Got 'all'"),
        (lambda: mp.align("a", "b"), TokenError, "`tokenizer` must be given to turn text into tokens"),
        (lambda: mp.align([0.5], [1]), KindError, "`clean` must be token ids, a text or chat messages"),
        (lambda: mp.align([1], mx.zeros((2, 3), mx.int32)), ShapeError, "`corrupted` must be one prompt.*one by one"),
    ],
)
def test_what_is_no_alignment_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


# What is put where


def bits(a, b):
    return mx.array_equal(a, b).item()


NAMES = ["llama", "gemma2", "gpt2", "qwen3_next", "mamba"]


@pytest.mark.parametrize("name", NAMES)
def test_rows_go_from_where_to_where_the_alignment_says(tiny, name):
    model, site = tiny(name), "mixer_out"
    cache = model.run_with_cache(SHORT, ("resid_post", site))[1]
    plain = model.run(LONG)
    for where in ("resid_post", site):
        got = model.run(LONG, [mp.Replace(cache, positions=BY_HAND).at(where, layer=0)])
        rows = cache[where, 0][:, mx.array([0, 1, 2, 4])]
        assert bits(got, model.run(LONG, [mp.Replace(rows).at(where, layer=0, pos=[0, 2, 3, 5])]))
        assert not bits(got, plain)
        one = model.run(LONG, [mp.Replace(cache, positions=BY_HAND).at(where, layer=0, pos=-2)])
        assert bits(one, model.run(LONG, [mp.Replace(cache[where, 0][:, 4:]).at(where, layer=0, pos=5)]))


def test_heads_and_halves_go_with_it(tiny):
    model = tiny()
    cache = model.run_with_cache(SHORT, ("z", "mlp_post"))[1]
    got = model.run(LONG, [mp.Interpolate(cache, 0.25, positions=BY_HAND).at("z", layer=1, head=2, pos=5)])
    rows = mp.Interpolate(cache["z", 1][:, 4:, 2:3], 0.25).at("z", layer=1, head=2, pos=5)
    assert bits(got, model.run(LONG, [rows]))
    chain = mp.Replace(cache.aligned(BY_HAND)) | mp.Scale(0.5)
    rows = mp.Replace(cache["mlp_post", 1][:, mx.array(BY_HAND.sources)] * 0.5)
    wanted = model.run(LONG, [rows.at("mlp_post", layer=1, pos=BY_HAND.targets)])
    assert bits(model.run(LONG, [chain.at("mlp_post", layer=1)]), wanted)


def test_an_alignment_of_equals_changes_nothing(tiny, tokens):
    model = tiny("gemma2")
    cache = model.run_with_cache(tokens, "resid_mid")[1]
    edit = mp.Replace(cache, positions=mp.align(tokens, tokens)).at("resid_mid", layer=0)
    assert bits(model.run(tokens, [edit]), model.run(tokens, [mp.Replace(cache).at("resid_mid", layer=0)]))


def test_a_cache_of_some_positions_serves_these(tiny):
    model = tiny()
    cache = model.run_with_cache(SHORT, "resid_post", pos=[1, 4])[1]
    aligned = cache.aligned(BY_HAND)
    assert aligned.positions == (2, 5)
    assert aligned["resid_post", 0].shape == (1, 2, model.d_model)
    assert bits(aligned["resid_post", 0], cache["resid_post", 0])
    with pytest.raises(SelectionError, match="must hold a position that the alignment uses"):
        model.run_with_cache(SHORT, "resid_post", pos=3)[1].aligned(BY_HAND)


def test_other_prompts_are_refused(tiny):
    model = tiny()
    short, long = (model.run_with_cache(t, ("resid_post", "pattern"))[1] for t in (SHORT, LONG))
    with pytest.raises(ShapeError, match=r"the 5 positions of the alignment's source. Got 7. It is the .*inverse"):
        mp.Replace(long, positions=BY_HAND)
    with pytest.raises(
        SelectionError, match=r"must be of the alignment's source tokens. Got others, from position 2 on"
    ):
        mp.Replace(short, positions=mp.Alignment([11, 48, 9, 26, 63], LONG, PAIRS))
    with pytest.raises(
        ShapeError,
        match=r"must have the 3 positions of the .* Got 5. Capture the prompt that the alignment was made from",
    ):
        mp.Replace(short, positions=mp.align([1, 2, 3], [1, 2]).inverse.inverse)
    with pytest.raises(KindError, match=r"must not be aligned at blocks.0.attn.hook_pattern.*Patch 'z'"):
        model.run(LONG, [mp.Replace(short, positions=BY_HAND).at("pattern", layer=0)])
    with pytest.raises(KindError, match=r"must be an ActivationCache to be aligned. Got array"):
        mp.Replace(short["resid_post", 0], positions=BY_HAND)
    with pytest.raises(KindError, match=r"`positions` must be an Alignment. Got \[1\].*mp.align"):
        mp.Replace(short, positions=[1])
    with pytest.raises(SelectionError, match=r"must hold position 1. Got one with positions \[0, 2, 3, 5\]"):
        model.run(LONG, [mp.Replace(short, positions=BY_HAND).at("resid_post", layer=0, pos=1)])
    with pytest.raises(ShapeError, match=r"differ in length.*positions=mp.align\(clean, corrupted\)"):
        model.run(LONG, [mp.Replace(short).at("resid_post", layer=0)])


# In sweeps


@pytest.mark.parametrize("executor", ["grow", "rows", "reference"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3_next"])
def test_a_sweep_goes_over_the_aligned_positions(tiny, name, executor):
    model, metric = tiny(name), LogProb(3)
    cache = model.run_with_cache(SHORT, "resid_post")[1]
    arguments = (model, LONG, mp.Replace(cache), "resid_post", ("layer", "pos"), metric)
    got = mp.sweep(*arguments, positions=BY_HAND, executor=executor)
    assert got.coords["pos"] == BY_HAND.targets
    for layer in range(model.n_layers):
        for i, (source, target) in enumerate(PAIRS):
            row = mp.Replace(cache["resid_post", layer][:, source : source + 1])
            wanted = metric(model.run(LONG, [row.at("resid_post", layer=layer, pos=target)])).item()
            assert abs(got.values[layer, i, 0] - wanted) < 1e-5 * abs(wanted)
    inside = mp.Replace(cache, positions=BY_HAND)
    again = mp.sweep(model, LONG, inside, "resid_post", ("layer", "pos"), metric, executor=executor)
    np.testing.assert_array_equal(again.values, got.values)
    assert again.coords["pos"] == BY_HAND.targets


def test_a_pair_of_unequal_length_is_swept_both_ways(tiny):
    model, metric = tiny(), LogProb(3)
    pair = mp.sweep_pair(model, SHORT, LONG, "resid_post", over=("layer", "pos"), metric=metric, positions=BY_HAND)
    short, long = (model.run_with_cache(t, "resid_post")[1] for t in (SHORT, LONG))
    ends = {"clean": metric(model.run(SHORT)).item(), "corrupted": metric(model.run(LONG)).item()}
    there = metric(model.run(LONG, [mp.Replace(short["resid_post", 1][:, 4:]).at("resid_post", layer=1, pos=5)]))
    back = metric(model.run(SHORT, [mp.Replace(long["resid_post", 1][:, 5:6]).at("resid_post", layer=1, pos=4)]))
    gap = ends["clean"] - ends["corrupted"]
    assert abs(pair.denoising.values[1, 3, 0] - (there.item() - ends["corrupted"]) / gap) < 1e-4
    assert abs(pair.noising.values[1, 3, 0] - (back.item() - ends["corrupted"]) / gap) < 1e-4
    assert pair.denoising.coords["pos"] == pair.noising.coords["pos"] == BY_HAND.targets


def test_sweeps_refuse_alignments_that_do_not_fit(tiny):
    model, metric = tiny(), LogProb(3)
    cache = model.run_with_cache(SHORT, "resid_post")[1]
    arguments = {"at": "resid_post", "metric": metric}
    with pytest.raises(SelectionError, match=r"whose target is the prompt. Got another. The prompt is its source"):
        mp.sweep(model, SHORT, mp.Replace(cache), positions=BY_HAND, **arguments)
    with pytest.raises(ShapeError, match=r"must be an alignment for one prompt. Got one for 2"):
        mp.sweep(model, mx.concatenate([LONG, LONG]), mp.Replace(cache), positions=BY_HAND, **arguments)
    with pytest.raises(KindError, match=r"must not be an alignment for Scale\(2.0\), which takes nothing"):
        mp.sweep(model, LONG, mp.Scale(2.0), positions=BY_HAND, **arguments)
    with pytest.raises(ShapeError, match=r"Got \(1, 7\). Say which position stands for which: positions=mp.align"):
        mp.sweep_pair(model, SHORT, LONG, "resid_post", metric=metric)
