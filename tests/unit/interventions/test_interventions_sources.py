"""Caches and arrays as sources: what is taken from them, and what does not fit."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_patch.errors import KindError, MissingSiteError, SelectionError, ShapeError, ValueRefusedError
from mlx_patch.interventions import Add, Interpolate, Replace, Span
from mlx_patch.interventions.sources import ActivationSource
from mlx_patch.sites import Site

Z = Site("z", 1)
PATTERN = Site("pattern", 1)
SPAN = Span(0, 6, 6)
X = mx.random.normal((2, 6, 3, 5), key=mx.random.key(0))
Y = mx.random.normal((2, 6, 3, 5), key=mx.random.key(1))


class Cache:
    """As little of an `ActivationCache` as an intervention needs."""

    def __init__(self, array, positions=None, n_positions=6, site=Z):
        self.site, self.array = site, array
        self.positions = tuple(range(array.shape[1])) if positions is None else positions
        self.n_positions = n_positions

    def __getitem__(self, site):
        return self.array

    def __contains__(self, site):
        return site == self.site

    def __repr__(self):
        return "Cache()"


def done(source, x=X, site=Z, span=SPAN, **choices) -> np.ndarray:
    edited = Replace(source).at(site, **choices).apply(x, site, span)
    assert edited is not None
    return np.array(edited)


def patched(ix, x=X, y=Y) -> np.ndarray:
    wanted = np.array(x)
    wanted[ix] = np.array(y)[ix]
    return wanted


# What is taken


@pytest.mark.parametrize("source", [Cache(Y), Y, np.array(Y), np.array(Y).astype(np.float64)], ids=type)
def test_the_same_part_is_taken_that_is_replaced(source):
    got = done(source, pos=[5, 0, 2], head=[2, 0], neuron=range(1, 4), batch=1)
    np.testing.assert_array_equal(got, patched(np.ix_([1], [5, 0, 2], [2, 0], [1, 2, 3])))


@pytest.mark.parametrize("source", [Cache(Y[:1]), Y[:1]], ids=["cache", "array"])
def test_a_batch_of_one_serves_every_row(source):
    wanted = np.array(X)
    wanted[:, [4, 1]] = np.array(Y)[:1, [4, 1]]
    np.testing.assert_array_equal(done(source, pos=[4, 1]), wanted)
    assert (done(source, batch=1)[1] == np.array(Y)[0]).all()


def test_a_cache_of_some_positions_gives_those():
    cache = Cache(Y[:, [1, 3, 5]], positions=(1, 3, 5))
    np.testing.assert_array_equal(done(cache, pos=[-1, 1]), patched(np.ix_(range(2), [5, 1])))


def test_a_cache_of_the_whole_prompt_serves_a_later_pass():
    """A pass that continues a prompt cache."""
    got = done(Cache(Y), x=X[:, 4:], span=Span(4, 2, 6))
    np.testing.assert_array_equal(got, np.array(Y)[:, 4:])


@pytest.mark.parametrize("source", [Cache(Y), Y], ids=["cache", "array"])
def test_a_source_of_the_whole_prompt_serves_its_pieces(source):
    pieces = [done(source, x=X[:, o : o + n], span=Span(o, n, 6, pieces=True)) for o, n in [(0, 3), (3, 1), (4, 2)]]
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), np.array(Y))


def test_a_cache_of_new_positions_alone_serves_a_prompt_cache():
    cache = Cache(Y[:, :2], positions=(4, 5))
    np.testing.assert_array_equal(done(cache, x=X[:, 4:], span=Span(4, 2, 6), pos=5)[:, 1], np.array(Y)[:, 1])


def test_for_an_unknown_prompt_a_cache_goes_by_position():
    """By the absolute position."""
    got = done(Cache(Y, n_positions=9), x=X[:, 2:4], span=Span(2, 2, None, pieces=True))
    np.testing.assert_array_equal(got, np.array(Y)[:, 2:4])


def test_a_pattern_is_taken_by_its_queries():
    own, other = mx.zeros((1, 3, 4, 4)), mx.random.normal((1, 3, 4, 4))
    cache = Cache(other, positions=(0, 1, 2, 3), n_positions=4, site=PATTERN)
    got = done(cache, x=own, site=PATTERN, span=Span(0, 4, 4), pos=[3, 1], head=2)
    np.testing.assert_array_equal(got, patched(np.ix_([0], [2], [3, 1], range(4)), own, other))


@pytest.mark.parametrize("shape", [(), (5,), (3, 5), (1, 1, 5), (2, 3, 5), (2, 2, 1, 1)])
def test_an_array_may_broadcast_to_the_picked_part(shape):
    value = mx.random.normal(shape)
    wanted = np.array(X)
    wanted[:, [1, 4]] = np.array(value)
    np.testing.assert_array_equal(done(value, pos=[1, 4]), wanted)


@pytest.mark.parametrize("number", [2, 2.0, np.float32(2.0), np.int64(2), np.array(2), mx.array(2)], ids=type)
def test_a_plain_number_is_a_source(number):
    assert (done(number) == 2.0).all()


def test_anything_with_positions_sites_and_arrays_is_a_source():
    assert isinstance(Cache(Y), ActivationSource)
    assert not isinstance({}, ActivationSource)


# What does not fit


def test_prompts_of_unequal_length_are_refused():
    y = mx.zeros((2, 8, 3, 5))
    message = (
        r"`source` must have the activation's shape \(2, 6, 3, 5\)\. Got \(2, 8, 3, 5\)\. "
        r"The two prompts differ in length: say which position stands for which, "
        r"`mp\.Replace\(cache, positions=mp\.align"
    )
    for source in (y, Cache(y, n_positions=8), Cache(y[:, :2], positions=(1, 3), n_positions=8)):
        with pytest.raises(ShapeError, match=message):
            done(source)


def test_an_array_that_fits_neither_whole_nor_part_is_refused():
    """The part that is picked."""
    with pytest.raises(ShapeError, match=r"Got \(2, 4, 3, 5\)\. The picked part has shape \(2, 2, 3, 5\)"):
        done(mx.zeros((2, 4, 3, 5)), pos=[1, 4])


@pytest.mark.parametrize("shape", [(2, 6, 4, 5), (2, 6, 3, 7), (2, 6, 15)])
def test_another_model_s_activations_are_refused(shape):
    with pytest.raises(ShapeError, match=r"Got .*The source must come from a model of the same width and heads\."):
        done(Cache(mx.zeros(shape)))


def test_a_pattern_over_other_keys_is_refused():
    cache = Cache(mx.zeros((1, 3, 4, 4)), positions=(0, 1, 2, 3), n_positions=4, site=PATTERN)
    with pytest.raises(ShapeError, match=r"of the same width and heads and over the same keys, in one pass"):
        done(cache, x=mx.zeros((1, 3, 2, 2)), site=PATTERN, span=Span(0, 2, 4, pieces=True))


def test_a_pattern_of_other_heads_is_refused():
    """One head does not serve all."""
    cache = Cache(mx.zeros((1, 1, 2, 2)), positions=(0, 1), n_positions=2, site=PATTERN)
    with pytest.raises(
        ShapeError, match=r"Got \(1, 1, 2, 2\)\. The source must come from a model of the same width and"
    ):
        done(cache, x=mx.ones((1, 3, 2, 2)), site=PATTERN, span=Span(0, 2, 2))


def test_a_batch_of_another_size_is_refused():
    with pytest.raises(ShapeError, match=r"`source` must have a batch of 1 or 2\. Got 3\. Capture it with as many"):
        done(Cache(mx.zeros((3, 6, 3, 5))))


def test_a_position_that_a_cache_does_not_hold_is_refused():
    with pytest.raises(SelectionError, match=r"`source` must hold position 0\. Got one with positions \[1, 3, 5\]\."):
        done(Cache(Y[:, [1, 3, 5]], positions=(1, 3, 5)))
    with pytest.raises(SelectionError, match=r"must hold position 6\. Got one with positions 0 to 5\. Choose"):
        done(Y, x=X[:, :1], span=Span(6, 1, 6, pieces=True), pos=slice(3, None))


def test_a_cache_with_positions_not_of_its_array_is_refused():
    with pytest.raises(ShapeError, match=r"`source` must have the activation's shape \(2, 3, 3, 5\)\. Got \(2, 2, 3"):
        done(Cache(Y[:, :2], positions=(1, 3, 5)), pos=1)


@pytest.mark.parametrize("make", [Replace, Add, lambda source: Interpolate(source, 0.5)])
def test_nan_is_refused_before_anything_runs(make):
    name = "value" if make is Add else "source"
    with pytest.raises(ValueRefusedError, match=rf"`{name}` must not hold NaN\. Got NaN in {name}\. Check the run"):
        make(mx.array([1.0, mx.nan])).check([Z])
    with pytest.raises(ValueRefusedError, match=r"must not hold NaN\. Got NaN in blocks\.1\.attn\.hook_z"):
        make(Cache(Y * mx.nan)).check([Z])
    make(Cache(Y)).check([Z])
    make(mx.array(-mx.inf)).check([Site("attn_scores", 1)])


@pytest.mark.parametrize("make", [Replace, Add, lambda source: Interpolate(source, 0.5)])
def test_an_infinite_array_is_refused_but_as_a_mask(make):
    for infinity, site in ((mx.inf, Site("attn_scores", 1)), (mx.inf, Z), (-mx.inf, Z)):
        with pytest.raises(ValueRefusedError, match=r"` must be finite\. Got infinity in"):
            make(mx.array([1.0, infinity])).check([site])
    with pytest.raises(ValueRefusedError, match=r"` must be a finite number\. Got inf\."):
        make(float("inf"))
    make(Cache(Y * mx.inf)).check([Z])  # a run may have overflowed


def test_a_cache_without_the_site_is_refused():
    with pytest.raises(MissingSiteError, match=r"`source` must hold blocks\.2\.attn\.hook_z\. Got Cache\(\)\. Capture"):
        Replace(Cache(Y)).check([Z, Site("z", 2)])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([1.0], "must be an ActivationCache, an mx.array or a numpy array. Got list"),
        (None, "must be an ActivationCache, an mx.array or a numpy array. Got NoneType"),
        (True, "must be an ActivationCache, an mx.array or a numpy array. Got bool"),
        (mx.zeros((5,), dtype=mx.complex64), r"`source` must hold real numbers\. Got mlx\.core\.complex64"),
        (mx.zeros((5,), dtype=mx.bool_), r"`source` must hold real numbers\. Got mlx\.core\.bool"),
        (np.zeros(5, dtype=complex), r"`source` must hold real numbers\. Got complex128"),
        (np.zeros(5, dtype=bool), r"`source` must hold real numbers\. Got bool"),
        (np.array(["a"]), r"`source` must hold real numbers\. Got <U1"),
    ],
    ids=str,
)
def test_a_source_is_a_cache_or_real_numbers(source, message):
    with pytest.raises(KindError, match=message):
        Replace(source)
