"""`run`: the logits of a circuit, with the source's values on all other edges."""

from dataclasses import replace

import mlx.core as mx

from mlx_patch.architectures import Layout
from mlx_patch.cache import ActivationCache
from mlx_patch.circuits._blocks import refuse_stream, writes_by_head
from mlx_patch.circuits._circuit import Circuit
from mlx_patch.circuits._circuit_run import CircuitRun
from mlx_patch.circuits._two_runs import two_runs
from mlx_patch.errors import ArchitectureError, KindError, ShapeError
from mlx_patch.execution.readouts import Readout
from mlx_patch.metrics import Entropy
from mlx_patch.model import HookedModel, require_hooked
from mlx_patch.tokens import Prompts


def run(model: HookedModel, tokens: Prompts, cache: ActivationCache, circuit: Circuit) -> mx.array:
    """The logits of a circuit: only its edges carry the host's own values, and all others the source's.

    What each reader reads is made anew: what was written so far in this run, and for each edge that is not in the
    circuit the source's value minus this run's. So all edges give the host's logits, and none the source's.

    Args:
        model: The model. Its stream must be the plain sum of what is added, without a norm behind the heads.
        tokens: The host: as of `edges`.
        cache: The source: as of `edges`.
        circuit: Some edges, as `EdgeScores.top` chooses them.
    Returns:
        Evaluated. Shape `(batch, pos, d_vocab)`.
    Raises:
        PatchError: As `edges`.
        ArchitectureError: A norm stands behind the heads, so that what they add is no sum of their shares.
        KindError: `circuit` is no circuit.
        ShapeError: It is of another graph.
    """
    require_hooked("model", model)
    refuse_inexact(model.layout)
    runs = two_runs(model, tokens, cache, Entropy())
    refuse_other_graph(circuit, runs.graph)
    prompt_run = replace(runs.host.prompt_run, readout=Readout((), None))
    logits = CircuitRun(runs, circuit).logits(prompt_run)
    mx.eval(logits)
    return logits


def refuse_inexact(layout: Layout) -> None:
    """Refuse a model of which no circuit can be run.

    Raises:
        ArchitectureError: Its stream is not a plain sum, or a norm stands behind the heads.
    """
    refuse_stream(layout)
    for layer, points in enumerate(layout.points):
        if writes_by_head(layout, layer) and not _adds_linearly(points["z"].path, points["attn_out"].path):
            raise ArchitectureError(
                f"`model` must add the sum of its heads' shares to run a circuit. Got {layout.family.name}, which "
                "norms it. Score its edges with `edges`, which is of first order there."
            )


def _adds_linearly(output_projection: str, added_by: str) -> bool:
    """Whether what is added to the stream is what attention returns, and nothing stands behind the two."""
    return output_projection == added_by or output_projection.startswith(f"{added_by}.")


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
