"""Attention knockout: through which layers does information flow from some positions to the last?"""

from collections.abc import Mapping
from typing import Any, Unpack

from mlx_patch.errors import KindError, shown
from mlx_patch.interventions import Knockout, PositionChoice
from mlx_patch.model import HookedModel, require_hooked
from mlx_patch.recipes._activations import layers_with
from mlx_patch.recipes._axes import KeysAxis
from mlx_patch.sweeps import RunChoices, SweepResult, sweep, windows
from mlx_patch.tokens import Prompts


def knockout(
    model: HookedModel,
    prompts: Prompts,
    keys: Mapping[str, PositionChoice],
    metric: Any,
    query: Any = -1,
    width: int = 5,
    **how: Unpack[RunChoices],
) -> SweepResult:
    """Queries that no longer read some keys, in one window of layers after another.

    Args:
        model: The model.
        prompts: As of `sweep`.
        keys: Groups of key positions, by a name: `{"subject": mp.pos.text("France"), "relation": [1, 2]}`. Each is
            knocked out alone.
        metric: As of `sweep`.
        query: As `positions` of `sweep`: those that no longer read them.
        width: How many layers with attention, in a row, are knocked out together. Geva et al. take 9 of 48, 5 of 28.
        how: As of `sweep`.
    Returns:
        A sweep over `layer`, whose places are windows, and `keys`.
    Raises:
        KindError: `keys` is no mapping, or is empty.
        MissingSiteError: No layer has attention scores; the message has the reason.
        PatchError: As of `sweep`. A key behind a query is masked already, and is no error.
    Source:
        Geva et al. 2023, https://arxiv.org/abs/2304.14767, section 4.
    Example:
        `mp.recipes.knockout(model, text, {"subject": mp.pos.text("France")}, mp.metrics.Prob(" Paris"))`
    """
    require_hooked("model", model)
    if not isinstance(keys, Mapping) or not keys:
        raise KindError(
            f"`keys` must be a mapping of names to positions. Got {shown(keys)}. Write "
            f"{{'subject': mp.pos.text('France')}}."
        )
    return sweep(
        model,
        prompts,
        Knockout(),
        at="attn_scores",
        over=("layer", KeysAxis(tuple(keys), keys)),
        layers=windows(layers_with(model, "attn_scores"), width),
        positions=query,
        metric=metric,
        **how,
    )
