"""What the D1 study says of a curve: where half of the gap is crossed, or that there is no effect."""

import json
import sys

import pytest


@pytest.fixture(scope="session")
def finding(d1):
    """A finding, of the effects from a first layer on: `finding(gap, effects, n_layers, first)`."""
    kind = sys.modules["d1_findings"].Finding
    return lambda gap, effects, n_layers=6, first=0: kind(gap, dict(enumerate(effects, first)), n_layers)


CURVES = {
    "a step": (
        (0.9, [0, 0, 0.1, 0.6, 0.8, 0.9]),
        (3, [3]),
        "half of the gap is crossed at layer 3 (50.0%)",
        "half of the gap at layer 3",
    ),
    "a fall": (
        (-0.9, [-0.1, -0.5, -0.8, -0.9, -0.9, -0.9]),
        (1, [1]),
        "half of the gap is crossed at layer 1 (16.7%)",
        "half of the gap at layer 1",
    ),
    "exactly half": (
        (0.5, [0, 0, 0.25, 0.5, 0.5, 0.5]),
        (2, [2]),
        "half of the gap is crossed at layer 2 (33.3%)",
        "half of the gap at layer 2",
    ),
    "nothing before the last layer": (
        (0.9, [0, 0, 0, 0, 0.12, 0.9]),
        (5, [5]),
        "half of the gap is crossed only at layer 5 (83.3%), the last, and there by construction; "
        "before it the largest effect is +0.1200, at layer 4",
        "half of the gap at layer 5 only, the last",
    ),
    "up and down": (
        (0.9, [0, 0.5, 0.1, 0.5, 0.5, 0.9]),
        (3, [1, 3]),
        "half of the gap is crossed for good at layer 3 (50.0%); earlier at layer 1, and crossed back",
        "half of the gap at layer 3, for good; first at layer 1",
    ),
    "up and down, and for good at the last layer": (
        (0.9, [0.5, 0, 0.5, 0, 0, 0.9]),
        (5, [0, 2, 5]),
        "half of the gap is crossed for good at layer 5 (83.3%), the last, and there by construction; "
        "earlier at layers 0 and 2, and crossed back",
        "half of the gap at layer 5, for good; first at layer 0",
    ),
    "the wrong way": (
        (0.9, [-0.5, -0.5], 6, 1),
        (None, []),
        "half of the gap is not crossed in layers 1 to 2; the largest effect is -0.5000, at layer 1",
        "half of the gap is not crossed in layers 1 to 2",
    ),
    "already past at the first layer of some": (
        (0.9, [0.6, 0.7], 30, 26),
        (26, [26]),
        "half of the gap is crossed at layer 26 or before (86.7%)",
        "half of the gap at layer 26 or before",
    ),
    "back at the last of some": (
        (-0.9, [-0.5, -0.4, -0.5, -0.3], 30, 10),
        (None, [10, 12]),
        "half of the gap is crossed at layers 10 and 12, and crossed back in layers 10 to 13",
        "half of the gap: crossed and crossed back in layers 10 to 13",
    ),
    "for good, as far as was run": (
        (-0.9, [-0.5, -0.4, -0.5, -0.6], 30, 10),
        (12, [10, 12]),
        "half of the gap is crossed for good in layers 10 to 13 at layer 12 (40.0%); "
        "earlier at layer 10, and crossed back",
        "half of the gap at layer 12, for good; first at layer 10",
    ),
    "nothing": (
        (7.08e-06, [0, 1e-06, 0, 0, 0, 7.08e-06]),
        (None, []),
        "no effect (largest 7e-06)",
        "no effect (largest 7e-06)",
    ),
    "nothing in some layers": (
        (0.9, [1e-04, -3e-04], 30, 10),
        (None, []),
        "no effect in layers 10 to 11 (largest 3e-04)",
        "no effect (largest 3e-04)",
    ),
    "one layer": (
        (-0.98, [-0.4632]),
        (None, []),
        "half of the gap is not crossed at layer 0; the effect is -0.4632",
        "half of the gap is not crossed at layer 0",
    ),
    "no gap": (
        (0.002, [0, -0.7, 0, 0, 0, 0.002]),
        (None, []),
        "no gap to cross, the two models differ by 2e-03; the largest effect is -0.7000, at layer 1",
        "no gap to cross",
    ),
    "the last layer alone": (
        (0.9, [0.9], 6, 5),
        (5, [5]),
        "only layer 5 was patched, the last, which gives the donor's output by construction",
        "the last layer only, by construction",
    ),
    "an overflow": (
        (0.9, [0, float("nan"), 0.9], 6, 3),
        (5, [5]),
        "P(<tool_call>) is not a number at layer 4: the patched model overflows there",
        "not a number at layer 4",
    ),
}


@pytest.mark.parametrize("name", CURVES)
def test_a_curve_is_read(finding, name):
    given, (layer, crossed_at), words, label = CURVES[name]
    read = finding(*given)
    assert (read.layer, read.crossed_at) == (layer, crossed_at)
    assert (read.words, read.label) == (words, label)


def test_the_last_layer_is_never_the_largest_effect(finding):
    """It is the donor's output by construction."""
    read = finding(0.9, [0, 0, 0.1, 0.6, -0.7, 0.9]).as_dict()
    assert read["largest_below_last"] == {"layer": 4, "effect": -0.7}
    assert finding(0.9, [0.9], 6, 5).as_dict()["largest_below_last"] is None


def test_what_is_read_goes_into_the_file(finding):
    read = finding(0.9, [0, 0, 0, 0, 0.12, 0.9]).as_dict()
    assert json.loads(json.dumps(read)) == read
    assert read["by_construction"]
    assert read["depth_pct"] == 83.3
    assert read["finding"].startswith("half of the gap is crossed only at layer 5")
    nothing = finding(7e-06, [0, 0, 0, 0, 0, 7e-06]).as_dict()
    assert (nothing["has_effect"], nothing["layer"], nothing["depth_pct"]) == (False, None, None)
    assert nothing["largest_effect"] == 7e-06
    assert not nothing["by_construction"]
