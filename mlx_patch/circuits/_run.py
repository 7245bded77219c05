"""`run`: the logits of a circuit, with the source's values on all other edges."""

from dataclasses import replace

import mlx.core as mx

from mlx_patch.circuits._blocks import refuse_stream
from mlx_patch.circuits._circuit import Circuit
from mlx_patch.circuits._circuit_run import CircuitRun
from mlx_patch.circuits._two_runs import SourceValues, TwoRuns, two_runs
from mlx_patch.errors import KindError, ShapeError
from mlx_patch.execution.readouts import Readout
from mlx_patch.metrics import Entropy, as_metric
from mlx_patch.model import HookedModel, require_hooked
from mlx_patch.tokens import Prompts


def run(model: HookedModel, tokens: Prompts, cache: SourceValues, circuit: Circuit) -> mx.array:
    """The logits of a circuit: only its edges carry the host's own values, and all others the source's.

    What each reader reads is made anew: what was written so far in this run, and for each edge that is not in the
    circuit the source's value minus this run's. So all edges give the host's logits, and none the source's.

    Args:
        model: The model. Its stream must be the plain sum of what is added.
        tokens: The host: as of `edges`.
        cache: The source: as of `edges`. An intervention acts once, on the host's own activations.
        circuit: Some edges, as `EdgeScores.top` chooses them.
    Returns:
        Evaluated. Shape `(batch, pos, d_vocab)`.
    Raises:
        PatchError: As `edges`.
        KindError: `circuit` is no circuit.
        ShapeError: It is of another graph.
    """
    runs = runs_of_circuits(model, tokens, cache, Entropy())
    refuse_other_graph(circuit, runs.graph)
    prompt_run = replace(runs.host.prompt_run, readout=Readout((), None))
    logits = CircuitRun(runs, circuit).logits(prompt_run)
    mx.eval(logits)
    return logits


def runs_of_circuits(model: HookedModel, tokens: Prompts, cache: SourceValues, metric: object) -> TwoRuns:
    """The runs of host and source, of which circuits can be measured.

    Raises:
        PatchError: As of `run`.
        KindError: Several metrics.
    """
    require_hooked("model", model)
    if isinstance(metric, list | tuple):
        raise KindError(f"`metric` must be one metric. Got {len(metric)}. Measure each by itself.")
    refuse_stream(model.layout)
    return two_runs(model, tokens, cache, as_metric(metric))


def refuse_other_graph(circuit: object, graph: object) -> None:
    """Refuse what is no circuit of a graph.

    Raises:
        KindError: It is no circuit.
        ShapeError: It is of another graph.
    """
    if not isinstance(circuit, Circuit):
        raise KindError(f"`circuit` must be a Circuit. Got {type(circuit).__name__}. Choose edges with `edges.top(n)`.")
    if circuit.graph != graph:
        raise ShapeError("`circuit` must be of this model's graph. Got that of another model. Score this one's edges.")
