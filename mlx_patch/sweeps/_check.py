"""`check_sweeps`: what must hold of sweeps, on a model."""

from typing import Any

import mlx.core as mx

from mlx_patch.laws import Report, check_laws
from mlx_patch.sweeps._law import exact_sweeps
from mlx_patch.sweeps._law_rows import independent_in_sweeps

_LENGTH = 12


def check_sweeps(model: Any, prompt: Any = None) -> Report:
    """Check on a model that fast sweeps equal plain runs (law 8), and that rows are independent in them (law 10).

    Args:
        model: A `HookedModel`.
        prompt: A text, messages or token ids, of 4 tokens or more; None is two rows of 12 tokens.
    Returns:
        Every finding, as `check_laws` gives them.
    Raises:
        ShapeError: The prompt is too short.
    """
    if prompt is None:
        prompt = mx.array([[(11 + 37 * (i + row * _LENGTH)) % model.d_vocab for i in range(_LENGTH)] for row in (0, 1)])
    return check_laws(model, prompt, (exact_sweeps, independent_in_sweeps))
