"""Draws a random sweep from a seed and a number.

A seed must give the same sweeps for ever: the order of draws is a part of what these functions do.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_patch.interventions import Edit, Intervention
from mlx_patch.model import HookedModel
from mlx_patch.sites import Site
from mlx_patch.testing._fuzz._case import Case, CasePlaces, Cells, EditLists, GridCase
from mlx_patch.testing._fuzz._interventions import Draft, draw_intervention
from mlx_patch.testing._fuzz._models import draw_model, model_of
from mlx_patch.testing._fuzz._places import Places, draw_prompts

_LONG = ("llama", "llama-sliding", "gemma3_text", "gpt_oss", "mamba2", "recurrent_gemma")
"""Models that are run on prompts of more than 256 tokens."""


def draw_case(seed: int, number: int, names: Sequence[str] | None, wrapped: Mapping[str, HookedModel]) -> Case:
    """The random sweep of a number.

    Args:
        seed: The seed of all sweeps.
        number: The number of this sweep.
        names: Models of the zoo to draw from; None is all of them.
        wrapped: Models that are not of the zoo, by name.
    """
    rng = np.random.default_rng((seed, number))
    name, precision = draw_model(rng, names)
    if name in wrapped:
        model = wrapped[name]
    else:
        model = model_of(name, precision)
    lengths, listed = _draw_lengths(rng, long=name in _LONG)
    prompts = draw_prompts(rng, lengths)
    cells = _draw_cells(rng, model, prompts, Places(model, lengths, listed, rng))
    reads = _draw_reads(rng, min(lengths))
    executor = str(rng.choice(["auto", "grow", "rows", "reference"], p=[0.4, 0.2, 0.3, 0.1]))
    memory, piece = None, 256
    if rng.random() >= 0.6:
        memory = int(rng.choice([1, 100_000, 1_000_000]))
    if rng.random() >= 0.65:
        piece = int(rng.integers(2, 9))
    standing = _draw_standing(seed, number, model, prompts, listed)
    return Case(name, precision, prompts, listed, cells, reads, executor, memory, piece, standing)


def _draw_standing(
    seed: int, number: int, model: HookedModel, prompts: tuple[tuple[int, ...], ...], listed: bool
) -> tuple[Edit, ...]:
    """Edits that every run has, in a third of the sweeps. They have a generator of their own."""
    rng = np.random.default_rng((seed, number, 1))
    if rng.random() >= 1 / 3:
        return ()
    lengths = tuple(map(len, prompts))
    return _draw_edits(rng, model, prompts, Places(model, lengths, listed, rng))


def _draw_lengths(rng: np.random.Generator, long: bool) -> tuple[tuple[int, ...], bool]:
    """The positions of each prompt, and whether they are a list."""
    if long and rng.random() < 0.02:
        return (int(rng.integers(258, 300)),), False
    end = 15
    if rng.random() >= 0.85:
        end = 21
    length = int(rng.integers(4, end))
    rows = int(rng.integers(1, 4))
    if rng.random() < 0.65:
        return (length,) * rows, False
    if rng.random() < 0.35:
        return (length,) * (rows + 1), True
    return tuple(int(rng.integers(4, 13)) for _ in range(rows + 1)), True


def _draw_reads(rng: np.random.Generator, n_positions: int) -> tuple[int | None, ...]:
    roll = rng.random()
    if roll < 0.5:
        return (-1,)
    if roll < 0.7:
        return (int(rng.integers(n_positions)),)
    if roll < 0.85:
        return (-1, int(rng.integers(n_positions)))
    return (None,)


def _draw_cells(
    rng: np.random.Generator, model: HookedModel, prompts: tuple[tuple[int, ...], ...], places: Places
) -> Cells:
    roll = rng.random()
    if roll < 0.6:
        n_cells = int(rng.integers(1, 5))
        return EditLists(tuple(_draw_edits(rng, model, prompts, places) for _ in range(n_cells)))
    site = places.site()
    draft = Draft(model, _tokens(prompts, places), site, rng, places.uneven)
    layers = places.layers_of(site)
    if roll < 0.8 and layers:
        chosen = tuple(dict.fromkeys(int(layer) for layer in rng.choice(layers, 2)))
        intervention = draw_intervention(draft)
        return GridCase(intervention, site.name, chosen, _draw_positions(places))
    n_cells = int(rng.integers(1, 4))
    wheres = [{"site": site.name, **places.where(site)} for _ in range(n_cells)]
    interventions = _draw_for_prompts(rng, model, prompts, site, places)
    return CasePlaces(interventions, tuple(_without_rows(where, len(prompts)) for where in wheres))


def _draw_positions(places: Places) -> tuple[Any, ...]:
    """Positions for an axis: numbers, groups of them, and selectors. A sweep refuses one group in two orders."""
    positions: dict[Any, Any] = {}
    for choice in [places.positions() for _ in range(2)]:
        is_negative = isinstance(choice, int) and choice < 0
        if choice is None or is_negative or isinstance(choice, slice):
            continue
        if isinstance(choice, list):
            positions.setdefault(frozenset(choice), tuple(choice))
        else:
            positions[choice] = choice
    return tuple(positions.values()) or (-1,)


def _draw_for_prompts(
    rng: np.random.Generator, model: HookedModel, prompts: tuple[tuple[int, ...], ...], site: Site, places: Places
) -> tuple[Intervention, ...]:
    """One intervention, or one a prompt, each with a source of its own length."""
    if len(prompts) == 1 or rng.random() < 0.3:
        draft = Draft(model, _tokens(prompts, places), site, rng, places.uneven)
        return (draw_intervention(draft),)
    drafts = [Draft(model, mx.array([prompt]), site, rng) for prompt in prompts]
    if rng.random() < 0.5:
        return tuple(draw_intervention(draft) for draft in drafts)
    return (draw_intervention(drafts[0]),) * len(prompts)


def _without_rows(where: dict[str, Any], prompts: int) -> dict[str, Any]:
    """A place without rows, which may not be chosen where each prompt has its own intervention."""
    if prompts == 1:
        return where
    return {name: choice for name, choice in where.items() if name != "batch"}


def _draw_edits(
    rng: np.random.Generator, model: HookedModel, prompts: tuple[tuple[int, ...], ...], places: Places
) -> tuple[Edit, ...]:
    edits = []
    n_edits = int(rng.choice([1, 2, 3], p=[0.55, 0.33, 0.12]))
    for _ in range(n_edits):
        site = places.site()
        draft = Draft(model, _tokens(prompts, places), site, rng, places.uneven)
        intervention = draw_intervention(draft)
        edits.append(intervention.at(site.name, **places.where(site)))
    return tuple(edits)


def _tokens(prompts: tuple[tuple[int, ...], ...], places: Places) -> mx.array:
    """The prompts as a batch; the first of a list, whose prompts run as if alone."""
    if places.listed:
        return mx.array(prompts[:1])
    return mx.array(prompts)
