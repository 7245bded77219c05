"""The methods by name."""

from collections.abc import Sequence

from mlx_patch import arguments
from mlx_patch.attribution._atp_star import AtpStar
from mlx_patch.attribution._grad_drop import GradDrop
from mlx_patch.attribution._integrated import Integrated
from mlx_patch.attribution._methods import Gradient, Method
from mlx_patch.errors import ValueRefusedError
from mlx_patch.interventions import Edit

METHOD_NAMES = ("gradient", "atp*", "integrated")


def method_of(name: str, steps: int | None, graddrop: bool) -> Method:
    """The method of a name.

    Args:
        name: "gradient", "atp*" or "integrated".
        steps: Of "integrated"; None chooses them.
        graddrop: Whether the gradient is dropped at one layer at a time; of the other two.
    Raises:
        UnknownNameError: There is no such method.
        KindError: `steps` is no whole number, or `graddrop` no truth value.
        ValueRefusedError: `steps` is below 1, or one of the two is given where there is none.
    """
    name = arguments.choice("method", name, METHOD_NAMES, "a way to estimate")
    graddrop = arguments.flag("graddrop", graddrop)
    if steps is not None:
        steps = arguments.whole_number("steps", steps, 1, remedy="Leave it out to have them chosen.")
    if name == "integrated":
        return _integrated(steps, graddrop)
    if steps is not None:
        raise ValueRefusedError(f"`steps` must be left out where method={name!r}. Got {steps}. It has none.")
    method: Method = Gradient()
    if name == "atp*":
        method = AtpStar()
    if graddrop:
        return GradDrop(method)
    return method


def _integrated(steps: int | None, graddrop: bool) -> Method:
    if graddrop:
        raise ValueRefusedError(
            "`graddrop` must be False where method='integrated', whose increments would no longer sum to the "
            "difference. Got True. Use method='gradient' or 'atp*'."
        )
    return Integrated(steps)


def refuse_standing(method: Method, standing: Sequence[Edit]) -> None:
    """Refuse standing edits where a method goes to the run of another prompt, which has none.

    Raises:
        ValueRefusedError: There are some.
    """
    if standing and isinstance(method, Integrated):
        raise ValueRefusedError(
            f"`edits` must be left out where method='integrated', which leads to the source's own run. Got "
            f"{standing[0]!r}. Use method='gradient'."
        )
