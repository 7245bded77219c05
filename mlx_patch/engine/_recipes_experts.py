"""Recipes for mixtures of experts: the router's logits, and the weight that each expert's output is multiplied with.

Weights are computed for the chosen experts alone, `(batch, pos, chosen)`. A listener sees them spread over all
experts, 0 where one does not run. Where it gives new ones, all experts run, the chosen ones first: so a weight that an
expert is given counts, and experts whose weight stays 0 add nothing.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_patch.engine._scope import Call, Listener, Mlx, Scope

Run = Callable[..., Any]
"""A module's own call, with other arguments."""

_SELECT = ("group_expert_select", "_group_expert_select", "expert_routing")


def select(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """A module that calls mlx_lm's `group_expert_select(logits, ...)`, which returns indices and final weights."""
    name = next((name for name in _SELECT if name in scope), _SELECT[0])

    def group_expert_select(logits, *args, **kwargs):
        logits = listener.emit("router_logits", logits)
        indices, weights = scope[name](logits, *args, **kwargs)
        return spread(listener, indices, weights, logits.shape[-1])

    return {name: group_expert_select}, call


def gate(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """A module that gives its logits to softmax, sigmoid or softplus, first of all, and returns indices and weights."""
    met: list[bool] = []

    def first(name: str, part: Any = mx) -> Callable[..., mx.array]:
        def function(logits, *args, **kwargs):
            if not met:
                met.append(True)
                logits = listener.emit("router_logits", logits)
            return getattr(part, name)(logits, *args, **kwargs)

        return function

    ours = {
        "mx": Mlx(softmax=first("softmax"), sigmoid=first("sigmoid")),
        "nn": Mlx(nn, softplus=first("softplus", nn)),
    }
    return {name: stand_in for name, stand_in in ours.items() if name in scope}, call


def loop(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """A module that runs its experts token by token, in `zip(tokens, weights, indices)`."""
    experts: list[int] = []

    def softmax(logits, *args, **kwargs):
        experts.append(logits.shape[-1])
        return mx.softmax(logits, *args, **kwargs)

    def over(tokens, weights, indices):
        chosen, weights = spread(listener, mx.array(indices), weights, experts[-1])
        rows: Any = chosen.tolist()
        return zip(tokens, weights, rows, strict=True)

    return {"mx": Mlx(softmax=softmax), "zip": over}, call


def inputs(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """A module that takes a logit along the chosen expert, and multiplies with its `mx.sigmoid` what that reads."""
    chosen: list[tuple[mx.array, int]] = []

    def take_along_axis(logits, indices, *args, **kwargs):
        chosen.append((indices, logits.shape[-1]))
        return mx.take_along_axis(logits, indices, *args, **kwargs)

    def sigmoid(logits, *args, **kwargs):
        indices, experts = chosen[-1]
        everyone, weights = spread(listener, indices, mx.sigmoid(logits, *args, **kwargs), experts)
        k = indices.shape[-1]
        if everyone is not indices:
            listener.notes["others"] = (everyone[..., k:], weights[..., k:])
        return weights[..., :k]

    return {"mx": Mlx(take_along_axis=take_along_axis, sigmoid=sigmoid)}, call


def end_of_inputs(listener: Listener, call: Call, out: Any) -> Any:
    """What the module returns, and what the experts add that have a weight though they were not chosen."""
    if "others" not in listener.notes:
        return out
    indices, weights = listener.notes["others"]
    module: Any = listener.module
    tokens = call[0][0][..., None, :] * weights.astype(out.dtype)[..., None]
    return out + module.experts(tokens, indices[..., None]).squeeze(-2).sum(axis=-2)


def given(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """A module that is given an array, the chosen experts and their weights."""
    (tokens, indices, weights), kwargs = call
    chosen = spread(listener, indices, weights, _number_of_experts(listener.module))
    return {}, ((tokens, *chosen), kwargs)


def end_of_gate(listener: Listener, call: Call, out: Any) -> Any:
    """What a gate returns, indices and weights."""
    indices, weights = out
    return spread(listener, indices, weights, _number_of_experts(listener.module))


def handed_over(listener: Listener, call: Call, run: Run, out: Any) -> Any:
    """What a module that runs the chosen experts returns: `(..., chosen, d_model)`, which its caller then weighs."""
    tokens, indices = *call[0], *call[1].values()
    return _Outputs(listener, out, indices, _number_of_experts(listener.module), lambda chosen: run(tokens, chosen))


def spread(listener: Listener, indices: mx.array, weights: mx.array, experts: int) -> tuple[mx.array, mx.array]:
    """The chosen experts and their weights, after those who wait for all weights; all experts if one gave new ones."""
    nothing = mx.zeros((*weights.shape[:-1], experts), weights.dtype)
    all_weights = mx.put_along_axis(nothing, indices, weights, axis=-1)
    new = listener.emit("expert_weights", all_weights)
    if new is all_weights:
        return indices, weights
    chosen = indices.shape[-1]
    rank = mx.broadcast_to(mx.arange(chosen, chosen + experts), new.shape)
    first = mx.broadcast_to(mx.arange(chosen), indices.shape)
    everyone = mx.argsort(mx.put_along_axis(rank, indices, first, axis=-1), axis=-1)
    return everyone, mx.take_along_axis(new, everyone, axis=-1)


def _number_of_experts(module: nn.Module) -> int:
    """Every parameter of a gate, and of the experts together, has one row an expert."""
    leaves: Any = tree_flatten(module.parameters())
    return leaves[0][1].shape[0]


class _Outputs:
    """The outputs of the chosen experts, an array that shows by what it is multiplied.

    How weights come about differs from family to family: softmax before or after the choice, sigmoids, groups,
    normalised, scaled. That the outputs are multiplied with them does not.
    """

    def __init__(self, listener: Listener, array: mx.array, indices: mx.array, experts: int, run: Run):
        self._listener, self._array, self._indices, self._experts, self._run = listener, array, indices, experts, run

    def __mul__(self, weights: mx.array) -> mx.array:
        indices, weights = spread(self._listener, self._indices, weights.squeeze(-1), self._experts)
        array = self._array if indices is self._indices else self._run(indices)
        return array * weights[..., None]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._array, name)
