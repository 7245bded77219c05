"""Jobs that call everything public with valid values, and with values that nobody should give."""

import random
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from hostile.campaign import Slots, close_figures, follow_up
from hostile.examples import EXAMPLES, REFUSED
from hostile.values import HOSTILE, Hostile, values_near

import mlx_patch as mp
from soaking.jobs import Job, Place, named, of

FIGURES = ("*plot*", "lens.pattern_page")
RARE = ("HookedModel.verify", "sweeps.check_sweeps", "cross.fit_maps", "testing.*")
ONCE = (*RARE, "HookedModel.load", "plot.*", "metric*", "pos.*", "steps.*", "sweeps.[ouw]*", "LayerMap*", "LinearMap*")
ONCE += ("Site*", "Alignment*", "align", "tasks.*", "PairReport*", "written_whole", "Receiver", "orthonormal")
"""Examples of which one model is enough: they take long, or are of no model."""

LEFT_OUT = (*REFUSED, "testing.fuzz_sweeps")
"""Examples that are no jobs: what is refused as it is, and what alters the filters of warnings, as only tests may."""

FILES = ("path", "checkpoint", "file", "folder", "adapter_path", "path_or_hub_id", "donor")
"""Arguments that name files. Hostile names are of files that all workers share."""

ENDLESS = ("max_tokens", "steps", "samples", "cases", "positions", "shard_mb", "batch_size")
"""Arguments that ask for work without end."""


def jobs_of_examples(model: str, all_of_them: bool) -> list[Job]:
    """Every example of `hostile.examples` on one model, as a job."""
    jobs = []
    for name in EXAMPLES:
        if name in LEFT_OUT or (not all_of_them and _is(name, ONCE)):
            continue
        how = {"by_itself": _is(name, FIGURES), "rarely": _is(name, (*RARE, *FIGURES))}
        jobs += named("example", model, {name: of(example, name)}, **how)
    return jobs


def example(place: Place, name: str) -> Any:
    """What an example gives, what a run makes of it, and how a notebook shows it."""
    world = place.world
    result = EXAMPLES[name](world)()
    page = None
    if _is(name, FIGURES):
        close_figures()
    elif hasattr(result, "_repr_html_"):
        page = len(result._repr_html_()) > 0
    return result, follow_up(world, result), page


def jobs_of_hostile_calls(model: str, n: int, seed: int) -> list[Job]:
    """Calls with hostile values, drawn by a seed."""
    draw, functions = random.Random(seed), {}
    names = [name for name in EXAMPLES if not _is(name, (*LEFT_OUT, *RARE, *FIGURES, "plot.*", "written_whole"))]
    while len(functions) < n:
        name, choice = draw.choice(names), draw.randrange(2**32)
        functions[f"{name} {choice}"] = of(hostile_call, name, choice)
    return named("hostile", model, functions)


def hostile_call(place: Place, name: str, choice: int) -> Any:
    """What a call with one hostile value gives or raises."""
    draw, world = random.Random(choice), place.world
    slots = Slots(name, EXAMPLES[name](world))
    open_to_choice = [
        slot for slot in slots.names if slot not in (*FILES, *ENDLESS) and not slot.startswith("argument")
    ]
    if not open_to_choice:
        return None
    slot = draw.choice(open_to_choice)
    near = values_near(slots.value(slot))
    hostile = draw.choice(near if near and draw.random() < 0.4 else ordinary())
    try:
        result = slots.replaced({slot: hostile})()
        return hostile.name, slot, result, follow_up(world, result)
    except mp.PatchError as error:
        return hostile.name, slot, error
    except Exception as error:  # of a function that the caller wrote
        if "<lambda>" in str(error):
            return hostile.name, slot, type(error).__name__
        raise


def ordinary() -> list[Hostile]:
    """Hostile values that take no time."""
    return [value for value in HOSTILE if value.name not in ("deeper than the stack", "huge range", "root", "path")]


def _is(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


Function = Callable[[Place], Any]
