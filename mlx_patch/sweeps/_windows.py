"""Groups of layers that are patched together, for `layers=` of a sweep. They work for positions and heads as well."""

from collections.abc import Iterable

from mlx_patch.errors import ValueRefusedError


def windows(layers: Iterable[int], width: int) -> list[tuple[int, ...]]:
    """Every group of `width` layers in a row.

    Args:
        layers: The layers in order.
        width: How many are patched together.
    Raises:
        ValueRefusedError: `width` is less than 1, or more than there are layers.
    Source:
        Meng et al. 2022, https://arxiv.org/abs/2202.05262, section 2.2, restore windows of ten layers.
    Example:
        >>> windows(range(4), 3)
        [(0, 1, 2), (1, 2, 3)]
    """
    layers = tuple(layers)
    if not 1 <= width <= len(layers):
        raise ValueRefusedError(
            f"`width` must be 1 to {len(layers)}, the number of layers. Got {width}. Write windows(layers, 1), say."
        )
    n_windows = len(layers) - width + 1
    return [layers[first : first + width] for first in range(n_windows)]


def up_to(layers: Iterable[int]) -> list[tuple[int, ...]]:
    """For each layer, the group of all layers up to it.

    Example:
        >>> up_to(range(3))
        [(0,), (0, 1), (0, 1, 2)]
    """
    layers = tuple(layers)
    return [layers[: last + 1] for last in range(len(layers))]


def onwards(layers: Iterable[int]) -> list[tuple[int, ...]]:
    """For each layer, the group of it and all layers after it.

    Example:
        >>> onwards(range(3))
        [(0, 1, 2), (1, 2), (2,)]
    """
    layers = tuple(layers)
    return [layers[first:] for first in range(len(layers))]
