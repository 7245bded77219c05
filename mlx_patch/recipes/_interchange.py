"""Interchange of subspaces, and the part of a subspace that the next map of the model does not read."""

from collections.abc import Mapping
from inspect import signature
from typing import Any, Unpack

import mlx.core as mx
import numpy as np

from mlx_patch import arguments
from mlx_patch.architectures import own_input
from mlx_patch.errors import ArchitectureError, KindError, SelectionError, ShapeError, listed
from mlx_patch.interventions import PositionChoice, Replace
from mlx_patch.model import HookedModel, require_hooked
from mlx_patch.recipes._activations import activations_at, layers_of
from mlx_patch.recipes._axes import SubspaceAxis
from mlx_patch.sites import Site
from mlx_patch.sweeps import RunChoices, SweepResult, batches_of, sweep
from mlx_patch.tokens import Prompts

_READ_BY_ONE_MAP = ("mlp_post", "z")
"""The sites that one linear map reads: the down projection, the output projection."""

_NOT_READ = 1e-5
"""Singular values below this share of the largest belong to directions that the map does not read."""


def interchange(
    model: HookedModel,
    hosts: Prompts,
    sources: Prompts,
    subspaces: Mapping[str, mx.array],
    metric: Any,
    at: str,
    layer: int,
    pos: PositionChoice = -1,
    head: int | None = None,
    **how: Unpack[RunChoices],
) -> SweepResult:
    """One subspace after another of the sources' activation, put into the hosts.

    Args:
        model: The model.
        hosts: As of `sweep`: the prompts that are run.
        sources: As many prompts, in the same form: an array or a list. Lengths may differ.
        subspaces: Orthonormal bases, by a name: the subspace in question, and its controls. Shape of each
            `(d_model, direction)`, for whatever the last axis of the site is. `mp.orthonormal` makes them.
        metric: As of `sweep`.
        at: A site of blocks.
        layer: Its layer.
        pos: One position of each prompt, of sources and hosts: a number, or a selector.
        head: The head, at sites that have them; None is all.
        how: As of `sweep`.
    Returns:
        A sweep over `subspace`. Its baseline is the hosts as they are.
    Raises:
        KindError: `subspaces` is no mapping, or is empty.
        ShapeError: There are more or fewer sources than hosts.
        SelectionError: `pos` chooses several positions of a prompt.
        PatchError: As of `sweep` and `Replace`.
    Source:
        Geiger et al. 2023, https://arxiv.org/abs/2303.02536, section 3; for controls, Makelov et al. 2023,
        https://arxiv.org/abs/2311.17030.
    """
    require_hooked("model", model)
    if not isinstance(subspaces, Mapping) or not subspaces:
        raise KindError(
            f"`subspaces` must be a mapping of names to bases. Got {type(subspaces).__name__}. Write "
            "{'difference of means': mp.orthonormal(direction)}."
        )
    by_layer = activations_at(model, sources, at, pos)
    [layer] = layers_of("layer", arguments.whole_number("layer", layer), by_layer)
    values = by_layer[layer]
    if head is not None:
        head = arguments.whole_number("head", head, 0, error=SelectionError)
        values = values[:, :, head : head + 1]
    return sweep(
        model,
        hosts,
        _patches(model, hosts, values),
        at=at,
        over=(SubspaceAxis(tuple(subspaces), subspaces),),
        layers=layer,
        positions=pos,
        heads=head,
        metric=metric,
        **how,
    )


def _patches(model: HookedModel, hosts: Prompts, values: mx.array) -> Replace | list[Replace]:
    """One patch for a batch, or one for each prompt of a list."""
    batches = batches_of(hosts, model.tokenizer, model.d_vocab)
    n_hosts = sum(len(batch.examples) for batch in batches)
    if n_hosts != len(values):
        raise ShapeError(f"`sources` must be as many prompts as `hosts`, {n_hosts}. Got {len(values)}. Pair them.")
    if not batches[0].alone:
        return Replace(values)
    return [Replace(values[number : number + 1]) for number in range(n_hosts)]


def read_parts(model: HookedModel, at: str, layer: int, directions: mx.array) -> tuple[mx.array, mx.array]:
    """Directions as two sums: the part that the model's next map reads, and the part that it cannot see.

    `mlp_post` is read by the down projection, and `z` by the output projection, all heads together. What lies in the
    null space of that map has no effect at all. A subspace whose effect needs both parts is an illusion: the unread
    part tells prompts apart, and the other one, which does not, moves the model.

    Args:
        model: The model.
        at: "mlp_post" or "z".
        layer: Its layer.
        directions: Vectors along the site's last axis; of `z`, along heads times their width. Shape `(width,)` or
            `(direction, width)`.
    Returns:
        The part in the row space of the map, and the part in its null space, which sum to `directions`. Float32.
    Raises:
        UnknownNameError: `at` is another site.
        ShapeError: The directions have another width.
        MissingSiteError: The layer lacks the site; the message has the reason.
    Source:
        Makelov et al. 2023, https://arxiv.org/abs/2311.17030, section 3.
    """
    require_hooked("model", model)
    what = f"a site that one linear map reads: {listed(_READ_BY_ONE_MAP)}"
    at = arguments.choice("at", at, _READ_BY_ONE_MAP, what)
    rows = arguments.numpy_array("directions", directions).astype(np.float64)
    matrix = _map_behind(model, at, layer)
    if rows.ndim == 0 or rows.shape[-1] != len(matrix):
        raise ShapeError(f"`directions` must have the width of {at}, {len(matrix)}. Got shape {rows.shape}.")
    vectors, singular_values, _ = np.linalg.svd(matrix, full_matrices=False)
    read = vectors[:, singular_values > _NOT_READ * singular_values[0]]
    in_row_space = rows @ read @ read.T
    return mx.array(in_row_space.astype(np.float32)), mx.array((rows - in_row_space).astype(np.float32))


def _map_behind(model: HookedModel, at: str, layer: int) -> np.ndarray:
    """The map that reads a site, found by what its module makes of unit vectors. Shape `(width, width of its output)`.

    Raises:
        ArchitectureError: No module's input is the site alone.
    """
    site = Site(at, layer)
    place = model.layout.place(site)
    activation = model.run_with_cache([[0]], site, logits_at=-1)[1][site]
    flat = activation.reshape(1, 1, -1)
    is_whole_input = place.point.side == "input" and len(signature(type(place.module).__call__).parameters) == 2
    read_back = place.point.view.read(own_input(place.point, flat), place.block)
    if not is_whole_input or mx.any(read_back != activation).item():
        raise ArchitectureError(
            f"`at` must be the input of a module. Got {site}, which its module reads together with something else."
        )
    width = flat.shape[-1]
    unit_vectors_and_zero = mx.eye(width + 1, width, dtype=flat.dtype)[None]
    outputs = place.module(own_input(place.point, unit_vectors_and_zero))[0]
    matrix = np.array(outputs.astype(mx.float32), dtype=np.float64)
    return matrix[:-1] - matrix[-1]  # less a bias
