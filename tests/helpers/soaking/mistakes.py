"""Jobs in which something fails in the middle of a run, and jobs that are suspended with edits of theirs in force."""

import shutil
from collections.abc import Callable, Generator
from contextlib import ExitStack
from typing import Any

import mlx.core as mx
from hostile.world import A, B

import mlx_patch as mp
from soaking.jobs import Job, Place, Planned, named, of

ZERO = mp.Ablate("zero").at("resid_post", layer=0)
DOUBLE = mp.Scale(2.0).at("resid_post", layer=1)
HALF = mp.Scale(0.5).at("resid_pre", layer=1)


def failing_at(n: int) -> mp.Edit:
    """An edit that raises when it acts for the n-th time."""
    calls = iter(range(n))

    def fail(activation, site):
        if next(calls, None) is None:
            raise Planned(f"at {site}")
        return activation

    return mp.Apply(fail).at("resid_post")


def plain(place: Place) -> mx.array:
    """The model's own logits, computed now."""
    logits = place.model.model(mx.array([A]))
    mx.eval(logits)
    return logits


def in_block(place: Place) -> Any:
    with place.model.editing(HALF):
        try:
            with place.model.editing(failing_at(1)):
                plain(place)
        except Planned as error:
            return error, plain(place)


def in_generation(place: Place) -> Any:
    return place.model.generate(A, [failing_at(7)], max_tokens=6)


def in_stream(place: Place) -> Any:
    return [response.token for response in place.model.stream(A, [failing_at(9)], max_tokens=8)]


def in_sweep(place: Place) -> Any:
    def fail(logits):
        raise Planned("in a metric")

    return mp.sweep(place.model, [A], mp.Scale(2.0), "resid_post", "layer", fail, progress=False)


def in_intervention_of_a_sweep(place: Place) -> Any:
    metric = mp.metrics.LogProb(3)
    return mp.sweep(place.model, [A], failing_at(3).intervention, "resid_post", "layer", metric, progress=False)


def in_attribution(place: Place) -> Any:
    ask = {"at": "resid_post", "over": "layer", "metric": mp.metrics.LogProb(3)}
    return mp.attribute(place.model, [A], mp.Replace(place.world.cache), edits=[failing_at(2)], **ask)


def in_lens(place: Place) -> Any:
    return mp.lens.logit_lens(place.model, [A], edits=[failing_at(1)])


def in_gradient(place: Place) -> Any:
    def loss(strength):
        return place.model.run([A], [mp.Scale(strength).at("resid_post", layer=0), failing_at(1)]).sum()

    return mx.grad(loss)(mx.array(1.0))


def in_store(place: Place) -> Any:
    prompts = [A, B, [1, 2]]
    try:
        return mp.ActivationStore.capture(place.model, prompts, place.work / "never", edits=[failing_at(0)])
    finally:
        shutil.rmtree(place.work / "never", ignore_errors=True)


def in_run_of_an_edit(place: Place) -> Any:
    """A run inside the edit of a run, which fails."""

    def look(activation, site):
        place.model.run([B], [failing_at(1)])

    return place.model.run_with_hooks([A], [("blocks.1.hook_resid_post", look)])


def an_edit_without_effect(place: Place) -> Any:
    with place.model.editing(ZERO):
        pass


FAILURES: dict[str, Callable[[Place], Any]] = {
    "a run": lambda place: place.model.run([A], [failing_at(1)]),
    "a capture": lambda place: place.model.run_with_cache([A, B], "all", [failing_at(1)]),
    "a block": in_block,
    "a generation": in_generation,
    "a stream": in_stream,
    "a metric": in_sweep,
    "a sweep": in_intervention_of_a_sweep,
    "attribution": in_attribution,
    "a lens": in_lens,
    "a gradient": in_gradient,
    "a store": in_store,
    "an edit's own run": in_run_of_an_edit,
    "a block without a run": an_edit_without_effect,
    "a site that is not there": lambda place: place.model.run([A], [mp.Scale(2.0).at("resid_post", layer=99)]),
    "a position that is not there": lambda place: place.model.run([A], [mp.Scale(2.0).at("resid_post", pos=99)]),
    "NaN": lambda place: place.model.run([A], [mp.Add(float("nan")).at("resid_post")]),
}


def failure(place: Place, name: str) -> Any:
    """The error, and the model's own logits after it."""
    try:
        outcome = FAILURES[name](place)
    except (mp.PatchError, Planned) as error:
        outcome = error
    return outcome, plain(place)


# Suspended

Steps = Generator[None, None, Any]


def block(place: Place) -> Steps:
    """Two blocks, one in the other, with a run between any two steps."""
    seen = []
    with place.model.editing(ZERO):
        seen.append(plain(place))
        yield
        with place.model.editing(DOUBLE):
            for _ in range(2):
                seen.append(plain(place))
                yield
        seen.append(plain(place))
        yield
        seen.append(place.model.run([A], [HALF]))
    return seen, plain(place)


def stack(place: Place) -> Steps:
    """Blocks that close in the order in which they opened."""
    seen, stacks = [], []
    for edit in (ZERO, DOUBLE, HALF):
        stacks.append(ExitStack())
        stacks[-1].enter_context(place.model.editing(edit))
        seen.append(plain(place))
        yield
    for each in stacks:
        each.close()
        seen.append(plain(place))
        yield
    return seen


def stream(place: Place) -> Steps:
    """A stream of generated text, looked at between responses."""
    seen = []
    for response in place.model.stream(A, [mp.Scale(0.5).at("resid_post", layer=1)], max_tokens=5):
        seen.append((response.token, plain(place)))
        yield
    return seen


def failing_block(place: Place) -> Steps:
    """A block that is left by an error, after it was suspended."""
    try:
        with place.model.editing(DOUBLE):
            plain(place)
            yield
            place.model.run([A], [failing_at(1)])
    except Planned as error:
        yield
        return error, plain(place)


def dropped_inside(place: Place) -> Steps:
    """A block in a generator of its own, which is dropped while it is open."""

    def inner():
        with place.model.editing(ZERO):
            yield plain(place)

    seen = [next(inner())]
    yield
    return seen, plain(place)


def pieces(place: Place) -> Steps:
    """A prompt read piece by piece over one prompt cache, in a block."""
    from mlx_lm.models.cache import make_prompt_cache

    cache, seen = make_prompt_cache(place.model.model), []
    with place.model.editing(mp.Scale(0.5).at("resid_post", layer=1, pos=[1, 4])):
        for piece in (A[:2], A[2:5], A[5:]):
            seen.append(place.model.model(mx.array([piece]), cache=cache))
            mx.eval(seen[-1])
            yield
    return seen


SUSPENDED = {
    "a block": block,
    "a stack": stack,
    "a stream": stream,
    "a failing block": failing_block,
    "a dropped block": dropped_inside,
    "pieces of a prompt": pieces,
}


def jobs_of_mistakes(model: str) -> list[Job]:
    """All of these, on one model."""
    failures = {name: of(failure, name) for name in FAILURES}
    return [*named("error in", model, failures), *named("suspended:", model, SUSPENDED, in_steps=True)]
