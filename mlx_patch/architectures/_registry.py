"""The registry: which table a model is read with.

A family of one's own is published by an entry point of group `mlx_patch.architectures` that names a `Family`, or a
tuple of them; its name is the module that defines the model's class.
"""

from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points

import mlx.nn as nn

from mlx_patch.architectures._family import Family
from mlx_patch.architectures.gemma2 import GEMMA2
from mlx_patch.architectures.gpt2 import GPT2
from mlx_patch.architectures.gpt_neox import GPT_NEOX_PARALLEL, GPT_NEOX_SEQUENTIAL
from mlx_patch.architectures.granite import GRANITE
from mlx_patch.architectures.llama import LLAMA
from mlx_patch.architectures.mixtral import MIXTRAL
from mlx_patch.architectures.phi3 import PHI3
from mlx_patch.architectures.qwen2 import QWEN2
from mlx_patch.architectures.qwen3 import QWEN3
from mlx_patch.errors import ArchitectureError, listed

GROUP = "mlx_patch.architectures"

FAMILIES: tuple[Family, ...] = (
    LLAMA,
    QWEN2,
    QWEN3,
    GEMMA2,
    GPT2,
    GPT_NEOX_PARALLEL,
    GPT_NEOX_SEQUENTIAL,
    PHI3,
    MIXTRAL,
    GRANITE,
)
"""The tables that come with mlx_patch."""


def family_of(model: nn.Module) -> Family:
    """The table of a model.

    Raises:
        ArchitectureError: There is none; the message lists what there is.
    """
    names = [name for cls in type(model).__mro__ for name in _names_of(cls)]
    for name in names:
        for family in _known():
            if name in family.modules and family.applies(model):
                return family
    raise ArchitectureError(
        f"`model` must be of an architecture that has a table. Got {names[0]}. "
        f"There are tables for {listed(sorted({name for family in _known() for name in family.modules}))}. "
        f"Publish one of your own as an entry point of group {GROUP!r}."
    )


def _names_of(cls: type) -> tuple[str, str]:
    return cls.__module__.removeprefix("mlx_lm.models."), cls.__module__


@cache
def _known() -> tuple[Family, ...]:
    return (*_published(), *FAMILIES)


def _published() -> Iterator[Family]:
    for entry in entry_points(group=GROUP):
        value = entry.load()
        yield from value if isinstance(value, tuple) else (value,)
