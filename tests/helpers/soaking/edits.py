"""Jobs of runs: edits of every kind, prompt caches, gradients, generated text."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm
from hostile.world import A, B
from mlx.utils import tree_map
from mlx_lm.models.cache import make_prompt_cache

import mlx_patch as mp
from soaking.jobs import Job, Place, named, of

NOUNS: dict[str, Callable[[Place], mp.Intervention]] = {
    "Replace": lambda place: mp.Replace(place.world.cache),
    "Replace within a subspace": lambda place: mp.Replace(place.world.cache, basis=mp.orthonormal(directions(place))),
    "Interpolate": lambda place: mp.Interpolate(place.world.cache, 0.3),
    "Add": lambda place: mp.Add(place.world.vector, scale=0.5),
    "Ablate zero": lambda place: mp.Ablate("zero"),
    "Ablate mean": lambda place: mp.Ablate("mean", place.world.cache, skip=1),
    "Ablate mean of its own": lambda place: mp.Ablate("mean", over="batch"),
    "Ablate resample": lambda place: mp.Ablate("resample", seed=3),
    "Ablate noise": lambda place: mp.Ablate("noise", seed=4, scale=2.0),
    "Project": lambda place: mp.Project(place.world.vector),
    "Project onto": lambda place: mp.Project(place.world.vector, onto=True),
    "Swap": lambda place: mp.Swap(*directions(place)),
    "Scale": lambda place: mp.Scale(1.5),
    "Clamp": lambda place: mp.Clamp(-0.5, 0.5),
    "Apply": lambda place: mp.Apply(lambda activation, site: activation * 0.5 + 1),
    "Features": lambda place: mp.Features(place.world.dictionary, mp.Scale(0.0), [1, 3]),
    "a chain": lambda place: mp.Scale(2.0) | mp.Clamp(high=1.0) | mp.Ablate("noise", seed=5),
}
"""Every noun, at the stream."""

PLACES: list[dict[str, Any]] = [{"layer": 1}, {"layer": 0, "pos": [1, 3]}, {"layer": 1, "pos": -1, "batch": 0}]


def directions(place: Place) -> mx.array:
    """Two orthonormal rows."""
    rows = mx.eye(place.model.d_model)[:2]
    mx.eval(rows)
    return rows


def edited_run(place: Place, noun: str) -> Any:
    """Runs and captures under an edit of one kind, at a few places."""
    intervention, runs = NOUNS[noun](place), []
    for chosen in PLACES:
        edit = intervention.at("resid_post", **chosen)
        runs.append(place.model.run_with_cache([A, B], ["resid_pre", "resid_post"], [edit]))
    return runs


def every_site(place: Place) -> Any:
    """A run under an edit at each site that the model has, one after the other, and all of them together."""
    sites = [site for site in place.model.sites if site.name != "expert_weights"]
    edits = [mp.Scale(0.9).at(site.name, layer=site.layer) for site in sites if site.name != "attn_scores"]
    each = [place.model.run([A], [edit], logits_at=-1) for edit in edits]
    return each, place.model.run_with_cache([A], "all", edits)


def knockout(place: Place) -> Any:
    """The last position reads the first two no more."""
    return place.model.run_with_cache([A], "pattern", [mp.Knockout().at("attn_scores", pos=-1, key=slice(0, 2))])


def behind_a_prompt_cache(place: Place) -> Any:
    """A prompt in pieces, an error in the middle, and the cache's own arrays at the end."""
    cache = make_prompt_cache(place.model.model)
    first = place.model.run([A[:3]], prompt_cache=cache)
    try:
        place.model.run([A[3:]], [mp.Scale(2.0).at("resid_post", layer=1, pos=0)], prompt_cache=cache)
    except mp.PatchError as error:
        refused = error
    second = place.model.run_with_cache(
        [A[3:]], "resid_post", [mp.Scale(2.0).at("resid_post", layer=1, pos=4)], prompt_cache=cache
    )
    states = [entry.state for entry in cache]
    return first, refused, second, states


def run_each(place: Place) -> Any:
    """Prompts of unequal length, with edits of each."""
    prompts = [A, [1, 2, 3], B, [7, 8]]
    edits = [[mp.Scale(0.5 * number).at("resid_post", layer=1)] for number in range(1, 5)]
    return place.model.run_each_with_cache(prompts, ["resid_post"], edits, batch_size=2)


def hooks(place: Place) -> Any:
    """Functions written for TransformerLens."""

    def halve(activation, hook):
        return activation * 0.5

    return place.model.run_with_hooks([A], [("resid_post", halve)])


def gradient(place: Place) -> Any:
    """The derivative of a metric by a vector, and one step along it."""
    metric = mp.metrics.LogitDiff(7, 30)

    def loss(vector):
        edit = mp.Add(vector).at("resid_post", layer=1, pos=-1)
        return metric(place.model.run([A], [edit], logits_at=-1)).sum()

    slope = mx.grad(loss)(place.world.vector.astype(mx.float32))
    return slope, loss(place.world.vector - 0.01 * slope)


def generated(place: Place) -> Any:
    """Text under edits that act in some steps, with the activations of it."""
    edit = mp.Scale(0.5).at("resid_post", layer=1)
    steps = [mp.steps.prompt, mp.steps.generated, mp.steps.every(2), mp.steps.when(lambda moment: moment.step == 1)]
    texts = [place.model.generate(A, [edit.during(each)], max_tokens=5) for each in steps]
    return texts, place.model.generate_with_cache(A, "resid_post", [edit], max_tokens=4, pos="generated")


def around_mlx_lm(place: Place) -> Any:
    """mlx_lm's own function, plain and edited."""
    model = place.model
    inside = partial_text(model)
    with model.editing(mp.Scale(0.5).at("resid_post", layer=1, pos=slice(2, None))):
        edited = partial_text(model)
    return inside, edited, partial_text(model)


def partial_text(model: mp.HookedModel) -> str:
    return mlx_lm.generate(model.model, model.tokenizer, A, max_tokens=4)


def quantised_cache(place: Place) -> Any:
    """Text over a prompt cache of 8 bits."""
    return place.model.generate(A, [mp.Scale(0.5).at("resid_post", layer=1)], max_tokens=4, kv_bits=8, kv_group_size=32)


def plain_call(place: Place) -> Any:
    """The model itself."""
    logits = place.model.model(mx.array([A, B]))
    return logits, place.model([A])


def weights_of_another(place: Place) -> Any:
    """A second model with the shared one's weights doubled, in arrays of its own."""
    other = mp.HookedModel(copy_of(place.model.model), place.model.tokenizer)
    return other.run([A], logits_at=-1)


def copy_of(model: nn.Module) -> nn.Module:
    """A module of the same class with other arrays."""
    import copy

    other = copy.deepcopy(model)
    other.update(tree_map(lambda array: array * 2 if array.dtype == mx.float32 else array, model.parameters()))
    return other


def jobs_of_runs(model: str) -> list[Job]:
    """All of these, on one model."""
    functions = {
        "at every site": every_site,
        "knockout": knockout,
        "behind a prompt cache": behind_a_prompt_cache,
        "each of several prompts": run_each,
        "hooks": hooks,
        "a gradient": gradient,
        "text under edits": generated,
        "mlx_lm's own generate": around_mlx_lm,
        "a quantised prompt cache": quantised_cache,
        "plain": plain_call,
        "another model's weights": weights_of_another,
    }
    edits = {noun: of(edited_run, noun) for noun in NOUNS}
    return [*named("run:", model, functions), *named("edit:", model, edits)]
