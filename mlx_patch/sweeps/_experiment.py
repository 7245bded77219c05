"""From the arguments of `sweep` to an `Experiment`; what can be refused is refused here, before anything long."""

from collections.abc import Sequence
from typing import Any

from mlx_patch.execution import Experiment
from mlx_patch.execution.cells import Shapes, cell_of, check_sources, may_follow_the_norm, refuse_misfits
from mlx_patch.execution.readouts import (
    answer_runs,
    count_examples,
    plain_of,
    readouts_by_batch,
    require_tokenizer,
    with_answers,
)
from mlx_patch.interventions import Intervention
from mlx_patch.metrics import GenerateMatches, metrics_of
from mlx_patch.model import HookedModel, refuse_unlearned
from mlx_patch.sites import Site
from mlx_patch.sweeps._alignment import apply_alignment
from mlx_patch.sweeps._choices import Choices, chosen_by_axis, site_names
from mlx_patch.sweeps._over import CellChoice, are_axes, cells_of_axes, cells_of_list
from mlx_patch.sweeps._per_prompt import checked_interventions, edits_by_batch, refuse_rows
from mlx_patch.tokens import Prompts, batches_of


def make_experiment(
    model: HookedModel,
    tokens: Prompts,
    intervention: Intervention | Sequence[Intervention] | None,
    at: str | Site | Sequence[str | Site] | None,
    over: str | Sequence[str] | Sequence[CellChoice],
    metric: object,
    layers: Any,
    positions: Any,
    heads: Any,
    neurons: Any,
    alphas: Any,
) -> Experiment:
    """A sweep, checked. The arguments are those of `sweep`.

    Raises:
        PatchError: As `sweep` says.
    """
    batches = batches_of(tokens, model.tokenizer, model.d_vocab)
    metrics = metrics_of(metric, model.tokenizer)
    written = max((one.max_tokens - 1 for one in metrics if isinstance(one, GenerateMatches)), default=0)
    refuse_unlearned(model.layout, max(batch.length for batch in batches) + written)
    for one in metrics:
        if isinstance(one, GenerateMatches):
            require_tokenizer(model, one)
    answers = answer_runs(metrics, batches, model.d_vocab)
    readouts = readouts_by_batch(plain_of(metrics), batches)
    interventions, positions = apply_alignment(
        checked_interventions(intervention, count_examples(batches)), positions, batches
    )
    given = {"layer": layers, "pos": positions, "head": heads, "neuron": neurons, "alpha": alphas}
    shapes = Shapes(model.layout, batches[0].tokens)
    if are_axes(over):
        names = (over,) if isinstance(over, str) else over
        chosen = chosen_by_axis(given, model.n_layers, batches)
        requested = cells_of_axes(names, interventions, Choices(model, batches, site_names(at), chosen, shapes))
    else:
        requested = cells_of_list(over, interventions, site_names(at), given)
    every = [edit for own in requested.edits for cell in own for edit in cell]
    refuse_rows(every, several=any(batch.alone for batch in batches) or len(interventions) > 1)
    if any(may_follow_the_norm(model.layout, edit) for edit in every):
        readouts = tuple(readout.whole() for readout in readouts)
    cells = tuple(
        tuple(cell_of(model.layout, edits, batch.length, readout.reach) for edits in resolved)
        for batch, readout, resolved in zip(
            batches, readouts, edits_by_batch(requested.edits, batches, model), strict=True
        )
    )
    check_sources(model.layout, cells)
    for batch, own in zip(batches, cells, strict=True):
        refuse_misfits(shapes, batch.tokens.shape, own)
    if answers is not None:
        run = with_answers(model.layout, answers, readouts, cells)
        refuse_unlearned(model.layout, max(batch.length for batch in run["batches"]), "metric", "Measure less.")
        return Experiment(model, coords=requested.coords, description=requested.description, answers=answers, **run)
    return Experiment(model, batches, readouts, cells, requested.coords, requested.description)
