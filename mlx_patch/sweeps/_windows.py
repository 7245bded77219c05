"""Groups of layers that are patched together, for `layers=` of a sweep. They work for positions and heads as well."""

from collections.abc import Iterable

from mlx_patch import arguments
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
    numbers = _numbers(layers)
    width = arguments.whole_number("width", width)
    if not 1 <= width <= len(numbers):
        raise ValueRefusedError(
            f"`width` must be 1 to {len(numbers)}, the number of layers. Got {width}. Write windows(layers, 1), say."
        )
    n_windows = len(numbers) - width + 1
    return [numbers[first : first + width] for first in range(n_windows)]


def up_to(layers: Iterable[int]) -> list[tuple[int, ...]]:
    """For each layer, the group of all layers up to it.

    Example:
        >>> up_to(range(3))
        [(0,), (0, 1), (0, 1, 2)]
    """
    numbers = _numbers(layers)
    return [numbers[: last + 1] for last in range(len(numbers))]


def onwards(layers: Iterable[int]) -> list[tuple[int, ...]]:
    """For each layer, the group of it and all layers after it.

    Example:
        >>> onwards(range(3))
        [(0, 1, 2), (1, 2), (2,)]
    """
    numbers = _numbers(layers)
    return [numbers[first:] for first in range(len(numbers))]


def _numbers(layers: Iterable[int]) -> tuple[int, ...]:
    return arguments.whole_numbers("layers", layers, "a list of whole numbers")
