"""`Ablate`: zeros and means, and what every kind refuses."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_patch.cache import ActivationCache
from mlx_patch.errors import (
    KindError,
    MissingSiteError,
    SelectionError,
    ShapeError,
    UnknownNameError,
    ValueRefusedError,
)
from mlx_patch.interventions import Ablate, Span
from mlx_patch.interventions.sources import deviation, mean_over
from mlx_patch.sites import Site

Z = Site("z", 1)
SPAN = Span(0, 6, 6)
X = mx.random.normal((4, 6, 3, 5), key=mx.random.key(0))


def cached(array: mx.array, positions: tuple[int, ...] | None = None, n_positions: int = 6) -> ActivationCache:
    return ActivationCache({Z: array}, mx.zeros((1, 1)), positions or range(array.shape[1]), n_positions)


def done(ablate: Ablate, x: mx.array = X, site: Site = Z, span: Span = SPAN, **choices) -> np.ndarray:
    edited = ablate.at(site, **choices).apply(x, site, span)
    assert edited is not None
    return np.array(edited)


def close(got: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


CACHE = cached(X)


# Zero and mean


def test_zero_is_zero_where_it_is_picked():
    wanted = np.array(X)
    wanted[:, [1, 4]] = 0.0
    np.testing.assert_array_equal(done(Ablate("zero"), pos=[1, 4]), wanted)


def test_a_mean_over_batch_and_positions_is_one_vector_for_all():
    wanted = np.broadcast_to(np.array(X).mean(axis=(0, 1), keepdims=True), X.shape)
    close(done(Ablate("mean")), wanted)


def test_a_mean_over_the_batch_is_one_vector_a_position():
    wanted = np.broadcast_to(np.array(X).mean(axis=0, keepdims=True), X.shape)
    close(done(Ablate("mean", over="batch")), wanted)


@pytest.mark.parametrize("over", ["batch", "batch_pos"])
@pytest.mark.parametrize("source", [None, X, cached(X)], ids=["own", "array", "cache"])
def test_a_mean_does_not_depend_on_what_is_picked(over, source):
    everywhere = done(Ablate("mean", source, over=over))
    ix = np.ix_([2, 0], [5, 1, 3], [2, 0], [4, 1])
    picked = done(Ablate("mean", source, over=over), batch=[2, 0], pos=[5, 1, 3], head=[2, 0], neuron=[4, 1])
    wanted = np.array(X)
    wanted[ix] = everywhere[ix]
    close(picked, wanted)


def test_the_mean_of_a_cache_may_be_of_other_prompts():
    """Of other lengths, and of another number."""
    other = mx.random.normal((7, 9, 3, 5))
    wanted = np.broadcast_to(np.array(other).mean(axis=(0, 1)), X.shape)
    close(done(Ablate("mean", cached(other, n_positions=9))), wanted)
    close(done(Ablate("mean", other)), wanted)


def test_a_position_s_mean_is_of_the_same_absolute_position():
    other = mx.random.normal((7, 3, 3, 5))
    cache = cached(other, positions=(1, 4, 5), n_positions=6)
    got = done(Ablate("mean", cache, over="batch"), pos=[5, 1])
    close(got[:, [5, 1]], np.broadcast_to(np.array(other)[:, [2, 0]].mean(axis=0), (4, 2, 3, 5)))


def test_the_mean_of_each_position_needs_prompts_of_one_length():
    for source in (cached(X[:, :5], n_positions=5), X[:, :5]):
        with pytest.raises(ShapeError, match=r"`source` must .* Got \(4, 5, 3, 5\)\. It has one value per position"):
            done(Ablate("mean", source, over="batch"))


def test_a_mean_of_half_words_is_taken_in_float32():
    x = mx.full((1, 4096, 1, 1), 1.0 + 2.0**-7, dtype=mx.bfloat16)  # a bfloat16 sum of them ends at 256
    edited = Ablate("mean").at("z").apply(x, Z, Span(0, 4096, 4096))
    assert edited is not None
    assert mx.array_equal(edited, x)
    half = X.astype(mx.bfloat16)
    close(np.array(mean_over(half, (0, 1))), np.array(half.astype(mx.float32)).mean((0, 1), keepdims=True))


def test_a_mean_of_very_many_is_not_cut_short():
    ones = mx.ones((2, 2**13, 2**12), dtype=mx.float16)  # 2**26: a float32 sum of ones ends at 2**24
    assert mean_over(ones, (0, 1, 2)).item() == 1.0
    assert deviation(ones).item() == 0.0


def test_a_mean_of_one_thing_is_refused():
    one = X[:1]
    with pytest.raises(ValueRefusedError, match=r"`source` must be given if the run has one row: its mean over 'bat"):
        done(Ablate("mean", over="batch"), one)
    with pytest.raises(ValueRefusedError, match=r"has one row of one position: its mean over 'batch_pos' would change"):
        done(Ablate("mean"), one[:, :1], span=Span(5, 1, 6))
    close(done(Ablate("mean"), one), np.broadcast_to(np.array(one).mean(axis=1, keepdims=True), one.shape))


def test_a_mean_over_positions_needs_positions():
    raw = Site("model.gate:output")
    with pytest.raises(SelectionError, match=r"`site` must have the 6 positions of this pass along axis 1"):
        done(Ablate("mean"), mx.zeros((24, 5)), raw)


# Refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "zeros"}, r"`kind` must be one that `Ablate` knows\. Got 'zeros'\. Did you mean zero\?"),
        ({"kind": None}, r"`kind` must be one that `Ablate` knows\. Got None\."),
        ({"kind": "mean", "over": "batches"}, r"`over` must be one .* Got 'batches'\. Did you mean batch"),
    ],
)
def test_an_unknown_name_gets_the_nearest(arguments, message):
    with pytest.raises(UnknownNameError, match=message):
        Ablate(**arguments)


@pytest.mark.parametrize(
    ("kind", "unused", "uses"),
    [
        ("zero", {"source": X}, "It uses no other argument"),
        ("zero", {"seed": 1}, "It uses no other argument"),
        ("zero", {"scale": 2.0}, "It uses no other argument"),
        ("zero", {"over": "batch"}, "It uses no other argument"),
        ("mean", {"seed": 1}, "It uses source, over"),
        ("mean", {"scale": 2.0}, "It uses source, over"),
        ("resample", {"scale": 2.0}, "It uses source, seed"),
        ("resample", {"over": "batch"}, "It uses source, seed"),
        ("noise", {"source": X}, "It uses seed, scale"),
        ("noise", {"over": "batch"}, "It uses seed, scale"),
    ],
)
def test_an_argument_that_the_kind_does_not_use_is_refused(kind, unused, uses):
    with pytest.raises(ValueRefusedError, match=rf"`{next(iter(unused))}` must be left out of a '{kind}' .* {uses}"):
        Ablate(kind, **unused)


def test_seed_and_scale_must_be_usable():
    with pytest.raises(KindError, match=r"`seed` must be a whole number\. Got 1\.5"):
        Ablate("noise", seed=1.5)
    with pytest.raises(ValueRefusedError, match=r"`seed` must be 0 or more\. Got -1"):
        Ablate("noise", seed=-1)
    with pytest.raises(ValueRefusedError, match=r"`scale` must be above 0\. Got 0"):
        Ablate("noise", scale=0)


@pytest.mark.parametrize(
    ("ablate", "site", "remedy"),
    [
        (Ablate("zero"), "attn_scores", "Ablate 'pattern' or 'z'"),
        (Ablate("mean"), "attn_scores", 'Take the mean of each position: `over="batch"`'),
        (Ablate("mean"), "pattern", 'Take the mean of each position: `over="batch"`'),
        (Ablate("noise"), "pattern", "Add the noise at 'q', 'k' or 'z'"),
    ],
    ids=repr,
)
def test_an_ablation_does_not_unmask(ablate, site, remedy):
    with pytest.raises(ValueRefusedError, match=rf"`site` must not be '{site}' for Ablate.* {remedy}"):
        ablate.check([Site(site, 0)])


def test_an_ablation_that_keeps_the_mask_is_allowed():
    for ablate in (Ablate("mean", over="batch"), Ablate("resample")):
        ablate.check([Site("attn_scores", 0), Site("pattern", 0)])
    Ablate("zero").check([Site("pattern", 0)])


def test_a_source_is_checked():
    with pytest.raises(MissingSiteError, match=r"`source` must hold blocks\.3\.attn\.hook_z\. Got Activation.* Capt"):
        Ablate("mean", cached(X)).check([Site("z", 3)])
    with pytest.raises(ValueRefusedError, match=r"`source` must not hold NaN"):
        Ablate("resample", cached(X * mx.nan)).check([Z])


# As values


def test_ablations_are_equal_by_what_they_do():
    """And by which source they hold."""
    cache = cached(X)
    assert Ablate("zero") == Ablate("zero")
    assert Ablate("mean", cache) == Ablate("mean", cache) != Ablate("mean", cached(X))
    assert len({Ablate("noise", seed=1), Ablate("noise", seed=1), Ablate("noise", seed=2)}) == 2
    assert Ablate("zero") != "zero"


@pytest.mark.parametrize(
    ("ablate", "said"),
    [
        (Ablate("zero"), "Ablate('zero')"),
        (
            Ablate("mean", CACHE, over="batch"),
            f"Ablate('mean', {CACHE!r}, over='batch')",
        ),
        (Ablate("resample", X, seed=4), "Ablate('resample', array (4, 6, 3, 5) float32, seed=4)"),
        (Ablate("noise", seed=1, scale=3), "Ablate('noise', seed=1, scale=3.0)"),
    ],
    ids=repr,
)
def test_an_ablation_says_what_it_does(ablate, said):
    assert repr(ablate) == said
