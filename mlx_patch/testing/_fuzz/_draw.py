"""From a seed and a number to a random sweep."""

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
from mlx_patch.testing._fuzz._places import Places as Where
from mlx_patch.testing._fuzz._places import draw_prompts

_LONG = ("llama", "llama-sliding", "gemma3_text", "gpt_oss", "mamba2", "recurrent_gemma")
"""Models that are run on prompts of more than 256 tokens."""


def draw_case(seed: int, number: int, names: Sequence[str] | None, own: Mapping[str, HookedModel]) -> Case:
    """The random sweep of a number.

    Args:
        seed: Of all sweeps.
        number: Which of them.
        names: Models of the zoo to draw from; None is all of them.
        own: Models beside the zoo, by name.
    """
    rng = np.random.default_rng((seed, number))
    name, precision = draw_model(rng, names)
    model = own[name] if name in own else model_of(name, precision)
    lengths, listed = _lengths(rng, long=name in _LONG)
    prompts = draw_prompts(rng, lengths)
    cells = _cells(rng, model, prompts, Where(model, lengths, listed, rng))
    return Case(
        model=name,
        precision=precision,
        prompts=prompts,
        listed=listed,
        cells=cells,
        reads=_reads(rng, min(lengths)),
        executor=str(rng.choice(["auto", "grow", "rows", "reference"], p=[0.4, 0.2, 0.3, 0.1])),
        memory=None if rng.random() < 0.6 else int(rng.choice([1, 100_000, 1_000_000])),
        piece=256 if rng.random() < 0.65 else int(rng.integers(2, 9)),
    )


def _lengths(rng: np.random.Generator, long: bool) -> tuple[tuple[int, ...], bool]:
    """The positions of each prompt, and whether they are a list."""
    if long and rng.random() < 0.02:
        return (int(rng.integers(258, 300)),), False
    length, rows = int(rng.integers(4, 15 if rng.random() < 0.85 else 21)), int(rng.integers(1, 4))
    if rng.random() < 0.65:
        return (length,) * rows, False
    if rng.random() < 0.35:
        return (length,) * (rows + 1), True
    return tuple(int(rng.integers(4, 13)) for _ in range(rows + 1)), True


def _reads(rng: np.random.Generator, least: int) -> tuple[int | None, ...]:
    roll = rng.random()
    if roll < 0.5:
        return (-1,)
    if roll < 0.7:
        return (int(rng.integers(least)),)
    return (-1, int(rng.integers(least))) if roll < 0.85 else (None,)


def _cells(rng: np.random.Generator, model: HookedModel, prompts: tuple[tuple[int, ...], ...], where: Where) -> Cells:
    roll = rng.random()
    if roll < 0.6:
        several = range(int(rng.integers(1, 5)))
        return EditLists(tuple(_edits(rng, model, prompts, where) for _ in several))
    site = where.site()
    draft = Draft(model, _tokens(prompts, where), site, rng, where.uneven)
    if roll < 0.8 and not site.is_raw:
        layers = [other.layer for other in model.sites if other.name == site.name and other.layer is not None]
        if layers:
            chosen = tuple(dict.fromkeys(int(n) for n in rng.choice(layers, 2)))
            return GridCase(draw_intervention(draft), site.name, chosen, _along(where))
    wheres = [{"site": site.name, **where.where(site)} for _ in range(int(rng.integers(1, 4)))]
    return CasePlaces(
        _of_each(rng, model, prompts, site, where), tuple(_without_rows(one, len(prompts)) for one in wheres)
    )


def _along(where: Where) -> tuple[Any, ...]:
    """Positions for an axis: numbers, groups of them, and selectors."""
    chosen = [where.positions() for _ in range(2)]
    said_once = [one for one in chosen if not isinstance(one, slice | None) and not (isinstance(one, int) and one < 0)]
    plain = [tuple(one) if isinstance(one, list) else one for one in said_once]
    return tuple(dict.fromkeys(plain)) or (-1,)


def _of_each(
    rng: np.random.Generator, model: HookedModel, prompts: tuple[tuple[int, ...], ...], site: Site, where: Where
) -> tuple[Intervention, ...]:
    """One intervention, or one a prompt, each with a source of its own length."""
    if len(prompts) == 1 or rng.random() < 0.3:
        return (draw_intervention(Draft(model, _tokens(prompts, where), site, rng, where.uneven)),)
    drafts = [Draft(model, mx.array([prompt]), site, rng) for prompt in prompts]
    if rng.random() < 0.5:
        return tuple(draw_intervention(draft) for draft in drafts)
    return (draw_intervention(drafts[0]),) * len(prompts)


def _without_rows(where: dict[str, Any], prompts: int) -> dict[str, Any]:
    """A place without rows, which may not be chosen where each prompt has its own intervention."""
    return {name: choice for name, choice in where.items() if name != "batch" or prompts == 1}


def _edits(
    rng: np.random.Generator, model: HookedModel, prompts: tuple[tuple[int, ...], ...], where: Where
) -> tuple[Edit, ...]:
    edits = []
    for _ in range(int(rng.choice([1, 2, 3], p=[0.55, 0.33, 0.12]))):
        site = where.site()
        intervention = draw_intervention(Draft(model, _tokens(prompts, where), site, rng, where.uneven))
        edits.append(intervention.at(site.name, **where.where(site)))
    return tuple(edits)


def _tokens(prompts: tuple[tuple[int, ...], ...], where: Where) -> mx.array:
    """The prompts as a batch; the first of a list, whose prompts run as if alone."""
    return mx.array(prompts[:1] if where.listed else prompts)
