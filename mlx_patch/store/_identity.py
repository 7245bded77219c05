"""The identity of a capture: versions, model, sites, positions, edits, and sizes of shards and batches."""

import sys
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from mlx_patch.fingerprints import Fingerprints
from mlx_patch.interventions import Edit
from mlx_patch.model import HookedModel
from mlx_patch.positions import Selector
from mlx_patch.provenance import checksum, versions, without_addresses
from mlx_patch.store._index import StoredSite


def capture_identity(
    model: HookedModel,
    sites: Sequence[StoredSite],
    pos: object,
    edits: Sequence[Edit],
    shard_mb: float,
    batch_size: int,
) -> dict[str, Any]:
    """JSON values by name. Equal identities and equal prompts give equal files.

    Raises:
        KindError: An edit holds what no other process could know again.
    """
    fingerprints = Fingerprints("Capture without it")
    weights = {"table": fingerprints.of(model.layout.family, "family"), "weights": checksum(model.model)}
    positions = {"pos": repr(pos)}
    if isinstance(pos, Selector):  # it may hold a function, which its repr does not show
        positions["selector"] = fingerprints.of(pos, "pos")
    return {
        "library version": {**versions(), "python": f"{sys.version_info.major}.{sys.version_info.minor}"},
        "device": {"kind": mx.default_device().type.name},
        "model": {**model.identity, **weights},
        "site": [[site.site, f"{site.dtype} {site.shape}"] for site in sites],
        "choice of positions": positions,
        "edit": [[without_addresses(repr(edit)), fingerprints.of(edit, "edits")] for edit in edits],
        "size of shards": {"shard_mb": shard_mb},
        "size of batches": {"batch_size": batch_size},
    }
