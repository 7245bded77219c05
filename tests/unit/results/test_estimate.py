"""`Estimate`: what is kept of estimates beside exact numbers, and how far the two agree."""

import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.errors import FileError, ShapeError, ValueRefusedError
from mlx_patch.results import rank_correlation, upper_bound


@pytest.fixture
def estimate():
    """Ten cells of two examples, of which the three strongest and four others were swept."""
    effects = np.array([9, -8, 7, 1, 2, -3, 4, 0.5, 0.1, 0], np.float32)
    exact_effects = np.array([8, -9, 5, 1, -2, -6, 4, 0.5, 0.1, 0], np.float32)
    baseline = np.array([1, 3], np.float32)
    exact, sampled = np.zeros(10, bool), np.zeros(10, bool)
    exact[:7] = True
    sampled[3:7] = True
    chosen = np.where(exact, exact_effects, effects)
    return mp.Estimate(
        values=chosen[:, None] + baseline,
        axes=("layer", "example"),
        coords={"layer": tuple(range(10)), "example": (0, 1)},
        baseline=baseline,
        provenance={"metrics": ["logit_diff"]},
        estimated=effects[:, None] + baseline,
        exact=exact,
        sampled=sampled,
    )


def test_the_agreement_by_hand(estimate):
    agreement = estimate.agreement
    # Ranks of 9 -8 7 1 2 -3 4 and of 8 -9 5 1 -2 -6 4: distances 0 0 0 0 1 0 ... by hand 2 1 pairs.
    estimated_ranks = np.array([7, 1, 6, 3, 4, 2, 5])
    exact_ranks = np.array([7, 1, 6, 4, 3, 2, 5])
    distance = ((estimated_ranks - exact_ranks) ** 2).sum()
    assert agreement.rank_correlation == pytest.approx(1 - 6 * distance / (7 * 48))
    assert agreement.sign_agreement == pytest.approx(33 / 35)  # 2 of 35 nats have the other sign
    assert agreement.largest_miss == pytest.approx(4)
    assert agreement.largest_miss_at == "layer 4"
    assert agreement.missed_share == pytest.approx(upper_bound(1, 4, 0.95))  # 6 exceeds 5, the weakest of the three
    assert agreement.n_unswept == 3
    assert "7 cells swept exactly (4 of them drawn at random)" in repr(agreement)


@pytest.mark.parametrize(
    ("successes", "trials", "bound"), [(0, 10, 1 - 0.05**0.1), (1, 20, 0.2161), (5, 5, 1.0), (0, 1, 0.95)]
)
def test_the_bound_is_clopper_and_pearson_s(successes, trials, bound):
    assert upper_bound(successes, trials, 0.95) == pytest.approx(bound, abs=1e-4)


def test_ranks_of_equal_numbers_are_shared():
    assert rank_correlation(np.array([1.0, 1.0, 2.0]), np.array([3.0, 3.0, 4.0])) == pytest.approx(1)
    assert np.isnan(rank_correlation(np.array([1.0, 1.0]), np.array([3.0, 4.0])))


def test_a_file_holds_all_of_it(estimate, tmp_path):
    estimate.save(tmp_path / "estimate.npz")
    loaded = mp.Estimate.load(tmp_path / "estimate.npz")
    for name in ("values", "estimated", "exact", "sampled", "baseline"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(estimate, name))
    assert repr(loaded.agreement) == repr(estimate.agreement)
    with pytest.raises(FileError, match=r"SweepResult\.save"):
        mp.SweepResult.load(tmp_path / "estimate.npz")


def test_a_selection_keeps_what_is_exact(estimate):
    some = estimate.sel(layer=[2, 4, 8])
    assert some.exact.tolist() == [True, True, False]
    assert some.sampled.tolist() == [False, True, False]
    assert estimate.sel(layer=4).exact.tolist() is True
    np.testing.assert_array_equal(some.estimated, estimate.estimated[[2, 4, 8]])


def test_fractions_are_of_both(estimate):
    fractions = estimate.normalised(clean=[11, 13], corrupted=[1, 3])
    np.testing.assert_allclose(fractions.estimated[:, 0], (estimate.estimated[:, 0] - 1) / 10, rtol=1e-6)
    assert fractions.agreement.sign_agreement == pytest.approx(33 / 35)  # 2 of 35 nats have the other sign


def test_without_confirmed_cells_there_is_no_agreement(estimate):
    plain = mp.Estimate(estimate.values, estimate.axes, estimate.coords, estimate.baseline, {})
    with pytest.raises(ValueRefusedError, match=r"`agreement` must have cells that were confirmed.*confirm=20"):
        _ = plain.agreement


def test_arrays_that_do_not_fit_are_refused(estimate):
    with pytest.raises(ShapeError, match=r"`exact` must have one truth value a cell, shape \(10,\)\. Got \(3,\)"):
        mp.Estimate(estimate.values, estimate.axes, estimate.coords, estimate.baseline, {}, exact=np.zeros(3, bool))


def test_the_plot_has_both_groups_and_the_diagonal(estimate):
    axes = estimate.plot_agreement()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "the strongest estimates",
        "drawn at random",
        "equal",
    ]
    assert axes.get_xlabel() == "estimated change of logit_diff"
