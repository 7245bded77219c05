"""The activation, the other values and the edit that tests of interventions share."""

import mlx.core as mx

from mlx_patch.interventions import Intervention, Span
from mlx_patch.sites import Site

SITE = Site("resid_post", 2)
SPAN = Span(0, 5, 5)
X = mx.random.normal((2, 5, 8), key=mx.random.key(0))
Y = mx.random.normal((2, 5, 8), key=mx.random.key(1))
VECTOR = mx.random.normal((8,), key=mx.random.key(2))
HALF = [mx.bfloat16, mx.float16]


def done(intervention: Intervention, x: mx.array = X, **choices) -> mx.array:
    """The activation, edited."""
    edited = intervention.at("resid_post", **choices).apply(x, SITE, SPAN)
    assert edited is not None
    return edited
