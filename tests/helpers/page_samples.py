"""One result of each kind that has a page."""

import numpy as np
from html_pages import HOSTILE

from mlx_patch.circuits import FaithfulnessCurve, HeadEffects
from mlx_patch.cross import TwoByTwo
from mlx_patch.lens import DirectLogits
from mlx_patch.results import Estimate


def direct(*axes, n=3, examples=2):
    shape = (*(n + number for number in range(len(axes))), examples)
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    coords = {axis: tuple(range(size)) for axis, size in zip(axes, shape, strict=False)}
    coords = {axis: places if axis == "layer" else (HOSTILE, *places[1:]) for axis, places in coords.items()}
    rest = {"embed": np.array([1.0, 2.0], np.float32)}
    return DirectLogits(
        axes[-1], values, axes, coords, rest, values.sum(axis=0).ravel()[:2], 1.0, f"logit of {HOSTILE}"
    )


def curve(examples=3, complement=True):
    numbers = np.random.default_rng(0).normal(size=(4, examples))
    host, source = np.full(examples, 2.0), np.zeros(examples)
    shares = (0.1, 0.2, 0.5, 1.0)
    return FaithfulnessCurve((1, 2, 5, 10), shares, numbers, numbers + 1, host, source, numbers if complement else None)


def estimate():
    values = np.array([[[1.0], [5.0]], [[3.0], [2.0]]], np.float32)
    exact = np.array([[True, True], [False, True]])
    sampled = np.array([[False, True], [False, False]])
    coords = {"layer": (0, 1), "pos": (0, 1), "token": (HOSTILE, "b"), "example": (0,)}
    axes = ("layer", "pos", "example")
    provenance = {"metrics": ["kl"]}
    zero = np.zeros(1, np.float32)
    estimated = values + np.array([[[2.5], [1.0]], [[1.0], [1.0]]], np.float32)
    return Estimate(values, axes, coords, zero, provenance, estimated=estimated, exact=exact, sampled=sampled)


def heads():
    arrays = np.random.default_rng(0).normal(size=(3, 2, 4, 2)).astype(np.float32)
    return HeadEffects((5, 6), *arrays, np.zeros(2, np.float32))


def two_by_two():
    cells = np.random.default_rng(0).normal(size=(3, 2, 2, 4)).astype(np.float32)
    return TwoByTwo((0, 1, 2), cells, "kl")


PAGED = {
    "direct": lambda: direct("layer", "head"),
    "parts": lambda: direct("part"),
    "curve": curve,
    "agreement": lambda: estimate().agreement,
    "heads": heads,
    "two_by_two": two_by_two,
}
