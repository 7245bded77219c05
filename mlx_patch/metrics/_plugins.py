"""Metrics that installed packages offer, by entry points of the group `mlx_patch.metrics`.

A package is imported when one of its names is looked up, so a broken package breaks only its own names.
"""

from importlib.metadata import EntryPoint, entry_points

from mlx_patch.errors import MissingExtraError, ValueRefusedError, listed, shown

METRICS_GROUP = "mlx_patch.metrics"

_FAILURES = (
    ImportError,
    SyntaxError,
    AttributeError,
    NameError,
    TypeError,
    ValueError,
    LookupError,
    RuntimeError,
    ArithmeticError,
    OSError,
)
"""What importing a broken module raises. Anything stranger passes with its own traceback."""


def offered_names() -> set[str]:
    """The names that installed packages offer."""
    return {point.name for point in entry_points(group=METRICS_GROUP)}


def offer_of(name: str) -> EntryPoint | None:
    """The entry point with this name; None if there is none.

    Raises:
        ValueRefusedError: Several packages offer the name.
    """
    points = sorted(entry_points(group=METRICS_GROUP, name=name), key=distribution)
    if len(points) > 1:
        raise ValueRefusedError(
            f"`name` must be offered by one package. Got {shown(name)}, offered by "
            f"{listed(map(distribution, points))}. "
            "Uninstall one, or import the metric you want and pass the object."
        )
    return next(iter(points), None)


def load_plugins(point: EntryPoint) -> object:
    """The object that an entry point names.

    Raises:
        MissingExtraError: Importing it fails; the message names the package.
    """
    try:
        return point.load()
    except _FAILURES as error:
        raise MissingExtraError(
            f"`name` must be a metric that can be imported. Got {shown(point.name)}: {point.value} of "
            f"{distribution(point)} fails with {type(error).__name__}: {error}. Reinstall or update that package."
        ) from error


def distribution(point: EntryPoint) -> str:
    """The name of the package that an entry point comes from."""
    if point.dist is None:
        return "an unnamed package"
    return point.dist.name
