"""Recipes for mixtures of experts: the router's logits, and the weight of each expert's output.

Models compute weights for the chosen experts alone, `(batch, pos, chosen)`. A listener sees them spread over all
experts, 0 for those that do not run. If it edits them, all experts run, the chosen ones first: so an edited weight
counts at every expert, and experts whose weight stays 0 add nothing.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_patch.engine._scope import Call, Listener, Mlx, Scope

RunExperts = Callable[..., Any]
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
    """A module that first passes its logits to softmax, sigmoid or softplus, and returns indices and weights."""
    calls: list[str] = []

    def emit_first(name: str, library: Any) -> Callable[..., mx.array]:
        function = getattr(library, name)

        def with_logits(logits, *args, **kwargs):
            if not calls:
                logits = listener.emit("router_logits", logits)
            calls.append(name)
            return function(logits, *args, **kwargs)

        return with_logits

    for_mx = Mlx(softmax=emit_first("softmax", mx), sigmoid=emit_first("sigmoid", mx))
    for_nn = Mlx(nn, softplus=emit_first("softplus", nn))
    replaced = {"mx": for_mx, "nn": for_nn}
    return {name: stand_in for name, stand_in in replaced.items() if name in scope}, call


def loop(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """A module that runs its experts token by token, in `zip(tokens, weights, indices)`."""
    experts: list[int] = []

    def softmax(logits, *args, **kwargs):
        experts.append(logits.shape[-1])
        return mx.softmax(logits, *args, **kwargs)

    def zip_tokens(tokens, weights, indices):
        chosen, weights = spread(listener, mx.array(indices), weights, experts[-1])
        rows: Any = chosen.tolist()
        return zip(tokens, weights, rows, strict=True)

    return {"mx": Mlx(softmax=softmax), "zip": zip_tokens}, call


def inputs(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """A module that multiplies each chosen expert's input with `mx.sigmoid` of its logit."""
    chosen: list[tuple[mx.array, int]] = []

    def take_along_axis(logits, indices, *args, **kwargs):
        chosen.append((indices, logits.shape[-1]))
        return mx.take_along_axis(logits, indices, *args, **kwargs)

    def sigmoid(logits, *args, **kwargs):
        indices, experts = chosen[-1]
        weights = mx.sigmoid(logits, *args, **kwargs)
        order, weights = spread(listener, indices, weights, experts)
        n_chosen = indices.shape[-1]
        if order is not indices:
            listener.notes["others"] = (order[..., n_chosen:], weights[..., n_chosen:])
        return weights[..., :n_chosen]

    return {"mx": Mlx(take_along_axis=take_along_axis, sigmoid=sigmoid)}, call


def end_of_inputs(listener: Listener, call: Call, out: Any) -> Any:
    """The module's output, plus that of experts which an edit gave a weight though they were not chosen."""
    if "others" not in listener.notes:
        return out
    indices, weights = listener.notes["others"]
    module: Any = listener.module
    (tokens, *_), _ = call
    weighed_tokens = tokens[..., None, :] * weights.astype(out.dtype)[..., None]
    outputs = module.experts(weighed_tokens, indices[..., None]).squeeze(-2)
    return out + outputs.sum(axis=-2)


def given(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """A module that is called with an array, the chosen experts and their weights."""
    (tokens, indices, weights), kwargs = call
    chosen = spread(listener, indices, weights, _number_of_experts(listener.module))
    return {}, ((tokens, *chosen), kwargs)


def end_of_gate(listener: Listener, call: Call, out: Any) -> Any:
    """The output of a gate, indices and weights, after the listener."""
    indices, weights = out
    return spread(listener, indices, weights, _number_of_experts(listener.module))


def hand_over(listener: Listener, call: Call, run: RunExperts, out: Any) -> Any:
    """The output of a module that runs the chosen experts, `(..., chosen, d_model)`; its caller then weighs it."""
    args, kwargs = call
    tokens, indices = (*args, *kwargs.values())

    def run_experts(chosen: mx.array) -> mx.array:
        return run(tokens, chosen)

    return _Outputs(listener, out, indices, _number_of_experts(listener.module), run_experts)


def spread(listener: Listener, indices: mx.array, weights: mx.array, experts: int) -> tuple[mx.array, mx.array]:
    """The chosen experts and their weights after the listener; all experts, the chosen ones first, if it edits them."""
    no_weights = mx.zeros((*weights.shape[:-1], experts), weights.dtype)
    all_weights = mx.put_along_axis(no_weights, indices, weights, axis=-1)
    new = listener.emit("expert_weights", all_weights)
    if new is all_weights:
        return indices, weights
    # Sort by rank: the chosen experts have the ranks from 0, in their order, all others higher ones.
    n_chosen = indices.shape[-1]
    late_ranks = mx.broadcast_to(mx.arange(n_chosen, n_chosen + experts), new.shape)
    early_ranks = mx.broadcast_to(mx.arange(n_chosen), indices.shape)
    ranks = mx.put_along_axis(late_ranks, indices, early_ranks, axis=-1)
    order = mx.argsort(ranks, axis=-1)
    return order, mx.take_along_axis(new, order, axis=-1)


def _number_of_experts(module: nn.Module) -> int:
    """The number of rows of a gate's or the experts' parameters, each of which has one row per expert."""
    leaves: Any = tree_flatten(module.parameters())
    _, parameter = leaves[0]
    return parameter.shape[0]


class _Outputs:
    """The outputs of the chosen experts, as an array that shows the weights it is multiplied by.

    Families make the weights in different ways: softmax before or after the choice, sigmoids, groups, normalised,
    scaled. But all of them multiply the outputs by the weights.
    """

    def __init__(self, listener: Listener, array: mx.array, indices: mx.array, experts: int, run: RunExperts):
        self._listener = listener
        self._array = array
        self._indices = indices
        self._experts = experts
        self._run = run

    def __mul__(self, weights: mx.array) -> mx.array:
        indices, weights = spread(self._listener, self._indices, weights.squeeze(-1), self._experts)
        array = self._array
        if indices is not self._indices:
            array = self._run(indices)
        return array * weights[..., None]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._array, name)
