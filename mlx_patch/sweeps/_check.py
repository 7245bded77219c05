"""`check_sweeps`: the laws of sweeps, checked on a model."""

from typing import Any

import mlx.core as mx

from mlx_patch.laws import Report, check_laws
from mlx_patch.model import require_hooked
from mlx_patch.sweeps._law import exact_sweeps
from mlx_patch.sweeps._law_rows import independent_in_sweeps

_PROMPT_SHAPE = (2, 12)


def check_sweeps(model: Any, prompt: Any = None) -> Report:
    """Check on a model that fast sweeps equal plain runs (law 8), and that rows are independent in them (law 10).

    Args:
        model: A `HookedModel`.
        prompt: A text, messages or token ids, of 4 tokens or more; None is two rows of 12 tokens.
    Returns:
        Every finding, as `check_laws` returns them.
    Raises:
        ShapeError: The prompt is too short.
    """
    require_hooked("model", model)
    if prompt is None:
        indices = mx.arange(_PROMPT_SHAPE[0] * _PROMPT_SHAPE[1])
        prompt = ((11 + 37 * indices) % model.d_vocab).reshape(_PROMPT_SHAPE)
    return check_laws(model, prompt, (exact_sweeps, independent_in_sweeps))
