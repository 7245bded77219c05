"""What the lists of seeded faults share: which laws a wrapped model breaks."""

from dataclasses import replace

import pytest

from mlx_patch import HookedModel, PatchError
from mlx_patch.architectures import Family, family_of
from mlx_patch.testing import check_laws, tiny_model


@pytest.fixture
def broken():
    """The laws that a tiny model breaks, by number, with a table of its own or with some points of it changed.

    Where it is refused instead, the kind of error.
    """

    def broken(name, points=None, family: Family | None = None, precision="float32") -> set:
        raw = tiny_model(name, precision)
        table = family or family_of(raw)
        try:
            hooked = HookedModel(raw, family=replace(table, block={**table.block, **(points or {})}))
            return {finding.law for finding in check_laws(hooked).broken}
        except PatchError as error:
            return {type(error)}

    return broken
