"""What makes a capture the same as another: versions, model, sites, positions, edits, and how it is cut up."""

import re
import sys
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from mlx_patch.fingerprints import Fingerprints
from mlx_patch.interventions import Edit
from mlx_patch.model import HookedModel
from mlx_patch.positions import Selector
from mlx_patch.provenance import checksum, versions
from mlx_patch.store._index import StoredSite

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


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
    seen = Fingerprints("Capture without it")
    weights = {"table": seen.of(model.layout.family, "family"), "weights": checksum(model.model)}
    selected = {"selector": seen.of(pos, "pos")} if isinstance(pos, Selector) else {}  # it may hold a function
    return {
        "library version": {**versions(), "python": f"{sys.version_info.major}.{sys.version_info.minor}"},
        "device": {"kind": mx.default_device().type.name},
        "model": {**model.identity, **weights},
        "site": [[held.site, f"{held.dtype} {held.shape}"] for held in sites],
        "choice of positions": {"pos": repr(pos), **selected},
        "edit": [[_ADDRESS.sub("", repr(edit)), seen.of(edit, "edits")] for edit in edits],
        "size of shards": {"shard_mb": shard_mb},
        "size of batches": {"batch_size": batch_size},
    }
