"""`Edit.apply` against numpy, over random shapes, picks, sources and splits of the prompt."""

from dataclasses import dataclass
from itertools import pairwise

import mlx.core as mx
import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mlx_patch.interventions import Ablate, Add, Clamp, Interpolate, Project, Replace, Scale, Span
from mlx_patch.sites import Site

RESID, Z, PATTERN = Site("resid_post", 0), Site("z", 0), Site("pattern", 0)
AXES = {site: site.axes for site in (RESID, Z, PATTERN)}  # here: beartype draws from `random`, strategies must not
SIZES = {"batch": 3, "pos": 7, "head": 4, "d_head": 5, "d_model": 6, "query_pos": 7, "key_pos": 7}
AXIS = {"batch": "batch", "pos": "pos", "query_pos": "pos", "head": "head", "d_head": "neuron", "d_model": "neuron"}


@dataclass(frozen=True)
class Case:
    """An activation at a site, and a choice along each of its axes, in our terms and in numpy's."""

    site: Site
    x: np.ndarray
    y: np.ndarray
    choices: dict[str, list[int] | slice]
    ix: tuple[np.ndarray, ...]
    span: Span

    def edited(self, intervention) -> np.ndarray:
        return applied(intervention, self.site, mx.array(self.x), self.span, self.choices)

    def expected(self, values) -> np.ndarray:
        """The activation with a function of itself in the picked part."""
        out = self.x.copy()
        out[self.ix] = np.broadcast_to(values, self.x.shape)[self.ix]
        return out


def applied(intervention, site, x, span, choices) -> np.ndarray:
    edited = intervention.at(site, **choices).apply(x, site, span)
    return np.array(x if edited is None else edited)


@st.composite
def choice(draw, size: int, offset: int = 0, slices: bool = False):
    """Some of an axis: what `.at` takes, and the indices that it means."""
    every = list(range(size))
    kind = draw(st.sampled_from(["all", "some", "slice"] if slices else ["all", "some"]))
    if kind == "all":
        return None, every
    if kind == "slice":
        bound = st.one_of(st.none(), st.integers(-2 * size, 2 * size))
        start, stop = draw(bound), draw(bound)
        picked = [p for p in range(offset + size)[start:stop] if p >= offset]
        if not picked:
            return None, every
        return slice(start, stop), [p - offset for p in picked]
    picked = draw(st.lists(st.sampled_from(every), min_size=1, unique=True))
    negative = draw(st.booleans())
    return [p - size if negative else p + offset for p in picked], picked


@st.composite
def cases(draw) -> Case:
    site, axes = draw(st.sampled_from(list(AXES.items())))
    sizes = [draw(st.integers(1, SIZES[axis])) for axis in axes]
    offset = draw(st.sampled_from([0, 0, 3]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    x, y = generator.normal(size=(2, *sizes)).astype(np.float32)
    choices, picked = {}, []
    for axis, size in zip(axes, sizes, strict=True):
        if axis not in AXIS:
            picked.append(list(range(size)))
            continue
        positions = AXIS[axis] == "pos"
        given_, indices = draw(choice(size, offset if positions else 0, slices=positions))
        picked.append(indices)
        if given_ is not None:
            choices[AXIS[axis]] = given_
    length = sizes[axes.index("query_pos" if site is PATTERN else "pos")]
    return Case(site, x, y, choices, np.ix_(*picked), Span(offset, length, offset + length))


@given(cases())
def test_replacing_writes_the_picked_part_and_nothing_else(case):
    """The picked part of the source."""
    np.testing.assert_array_equal(case.edited(Replace(case.y)), case.expected(case.y))


@given(cases())
def test_an_array_of_the_picked_part_is_written_as_it_is(case):
    part = np.random.default_rng(0).normal(size=case.x[case.ix].shape).astype(np.float32)
    assume(part.shape[1:] != case.x.shape[1:])  # one as large as the whole is taken for it
    wanted = case.x.copy()
    wanted[case.ix] = part
    np.testing.assert_array_equal(case.edited(Replace(part)), wanted)


@given(cases(), st.floats(-3, 3, width=32))
def test_arithmetic_is_numpy_s_on_the_picked_part(case, number):
    for intervention, values in [
        (Scale(number), np.float32(number) * case.x),
        (Add(case.y, scale=number), case.x + np.float32(number) * case.y),
        (Interpolate(case.y, number), (1 - np.float64(number)) * case.x + number * np.float64(case.y)),
        (Clamp(low=number), np.maximum(case.x, np.float32(number))),
        (Ablate("zero"), np.zeros_like(case.x)),
        (Scale(number) | Add(case.y), np.float32(number) * case.x + case.y),
    ]:
        np.testing.assert_allclose(case.edited(intervention), case.expected(values), rtol=1e-5, atol=1e-5)


@given(cases())
def test_replacing_by_itself_changes_nothing(case):
    np.testing.assert_array_equal(case.edited(Replace(case.x)), case.x)


@settings(deadline=None)
@given(cases(), st.integers(0, 5))
def test_noise_and_rows_are_the_same_whatever_is_picked(case, seed):
    kinds = [Ablate("resample", seed=seed)] if case.x.shape[0] > 1 else []
    if case.site is not PATTERN:
        kinds.append(Ablate("noise", seed=seed))
    for ablate in kinds:
        everywhere = applied(ablate, case.site, mx.array(case.x), case.span, {})
        np.testing.assert_allclose(case.edited(ablate), case.expected(everywhere), rtol=1e-6, atol=1e-6)


@given(st.integers(1, 12), st.data())
def test_a_prompt_in_pieces_is_edited_as_the_whole(length, data):
    x = np.random.default_rng(length).normal(size=(2, length, 3)).astype(np.float32)
    pos, _ = data.draw(choice(length, slices=True))
    cuts = sorted(data.draw(st.sets(st.integers(1, length - 1))) if length > 1 else [])
    edges = [0, *cuts, length]
    choices = {} if pos is None else {"pos": pos}
    edit = Interpolate(x[:, ::-1].copy(), 0.5)
    whole = applied(edit, RESID, mx.array(x), Span(0, length, length), choices)
    pieces = [
        applied(edit, RESID, mx.array(x[:, a:b]), Span(a, b - a, length, pieces=True), choices)
        for a, b in pairwise(edges)
    ]
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)


@given(st.integers(1, 6), st.integers(0, 2**32))
def test_what_a_projection_takes_and_keeps_make_the_whole(k, seed):
    """What it takes out and what it keeps, which are orthogonal."""
    generator = np.random.default_rng(seed)
    x, directions = generator.normal(size=(2, 3, 8)).astype(np.float32), generator.normal(size=(k, 8))
    span = Span(0, 3, 3)
    out = applied(Project(directions), RESID, mx.array(x), span, {})
    kept = applied(Project(directions, onto=True), RESID, mx.array(x), span, {})
    np.testing.assert_allclose(out + kept, x, atol=1e-5)
    np.testing.assert_allclose(np.sum(out * kept, axis=-1), 0.0, atol=1e-4)
    again = applied(Project(directions), RESID, mx.array(out), span, {})
    np.testing.assert_allclose(again, out, atol=1e-5)
