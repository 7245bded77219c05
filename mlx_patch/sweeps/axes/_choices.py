"""The choices of a caller along an axis: numbers, groups of numbers, and what else an axis takes."""

from collections.abc import Iterable, Sequence

from typing_extensions import TypeIs

from mlx_patch import arguments
from mlx_patch.errors import SelectionError, shown
from mlx_patch.interventions import Receiver
from mlx_patch.positions import Selector

PlaceChoice = str | int | float | tuple[int, ...] | Selector
"""A name, a number, or ints that are patched together; of positions also a selector, which each prompt resolves."""

AxisChoice = PlaceChoice | Receiver | tuple[Receiver, ...]
"""A choice along any axis: also a receiver of paths, or several that receive together."""


def is_group(value: object) -> TypeIs[Iterable[object]]:
    """Whether a value holds several; an array of no axes is one number."""
    if not isinstance(value, Iterable) or isinstance(value, str | bytes | bytearray | memoryview):
        return False
    return getattr(value, "ndim", 1) > 0


def resolve_slice(member: object, size: int | None) -> object:
    """The numbers of a slice; anything else as it is."""
    if isinstance(member, slice) and size is not None:
        return range(*arguments.checked_slice("slice", member).indices(size))
    return member


def parse_index(keyword: str, value: object) -> int:
    """A whole number.

    Raises:
        SelectionError: It is none.
    """
    if not arguments.is_whole(value):
        remedy = "Write [0, 1] or [(0, 1), 2]."
        if isinstance(value, slice):
            remedy = "Write range(1, 4), say; for positions of prompts of several lengths mp.pos.where(...)."
        raise SelectionError(f"`{keyword}` must hold ints, or groups of ints. Got {shown(value)}. {remedy}")
    return arguments.whole_number(keyword, value, kind_error=SelectionError, error=SelectionError)


def refuse_repeated_choices(keyword: str, argument: object, choices: Sequence[object]) -> None:
    """Refuse choices that repeat a number: as 9 and as -1, in one group or in two groups of the same numbers.

    Raises:
        SelectionError: They do.
    Example:
        >>> refuse_repeated_choices("heads", [(0, 1), (1, 2)], [(0, 1), (1, 2)])
    """
    groups = [choice if isinstance(choice, tuple) else (choice,) for choice in choices]
    has_repeated_number = any(len(set(group)) < len(group) for group in groups)
    has_repeated_group = len(set(map(frozenset, groups))) < len(groups)
    if has_repeated_number or has_repeated_group:
        raise SelectionError(f"`{keyword}` must not name anything twice. Got {shown(argument)}. Leave one of them out.")


def flatten(choices: Iterable[PlaceChoice]) -> tuple[int, ...]:
    """The numbers of all choices and groups in one row, without selectors.

    Example:
        >>> flatten([0, (1, 2)])
        (0, 1, 2)
    """
    numbers: list[int] = []
    for choice in choices:
        if isinstance(choice, tuple):
            numbers.extend(choice)
        elif not isinstance(choice, Selector):
            numbers.append(int(choice))
    return tuple(numbers)


def count_from_start(keyword: str, choices: Sequence[PlaceChoice], size: int) -> tuple[PlaceChoice, ...]:
    """The choices with numbers from 0 in place of those that count from the end.

    Raises:
        SelectionError: A number is not there, or is there twice.
    """
    from_start = tuple(_count_choice_from_start(keyword, choice, size) for choice in choices)
    refuse_repeated_choices(keyword, list(choices), from_start)
    return from_start


def _count_choice_from_start(keyword: str, choice: PlaceChoice, size: int) -> PlaceChoice:
    if isinstance(choice, Selector):
        return choice
    if isinstance(choice, tuple):
        return tuple(_count_number_from_start(keyword, number, size) for number in choice)
    return _count_number_from_start(keyword, int(choice), size)


def _count_number_from_start(keyword: str, number: int, size: int) -> int:
    if not -size <= number < size:
        raise SelectionError(f"`{keyword}` must lie in {-size} to {size - 1}. Got {number}.")
    return number % size
