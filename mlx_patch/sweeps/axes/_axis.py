"""`SweepAxis`: a way in which the cells of a sweep differ, as a value. Final subclasses have a file of this folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from mlx_patch import arguments
from mlx_patch.errors import SelectionError, ValueRefusedError, listed, shown
from mlx_patch.execution.cells import Shapes
from mlx_patch.interventions import Edit, Intervention
from mlx_patch.model import HookedModel
from mlx_patch.results import Axis, Coordinate
from mlx_patch.sweeps.axes._choices import AxisChoice, is_group, refuse_repeated_choices, resolve_slice
from mlx_patch.tokens import Batch


@dataclass(frozen=True, eq=False)
class SweepScope:
    """What a sweep is made in: it says what there is along an axis.

    Attributes:
        model: The model.
        batches: The prompts, in groups of equal length.
        sites: Where to patch.
        shapes: The numbers of heads and neurons.
        axes: Every axis by its name, with the choices along it.
        standing: The edits that every run has.
        interventions: What cells do: one, or one a prompt.
    """

    model: HookedModel
    batches: Sequence[Batch]
    sites: Sequence[str]
    shapes: Shapes
    axes: Mapping[str, "SweepAxis"]
    standing: tuple[Edit, ...] = ()
    interventions: Sequence[Intervention] = ()


@dataclass(frozen=True)
class SweepAxis(Axis):
    """A way in which cells differ, with the choices along it.

    `over` takes the `name` of a final subclass, or an instance: `over=("layer", MyAxis(range(5)))`. A subclass says
    what a choice changes: where a cell acts (`where`), or what it does there (`changed`). Choices are hashable.

    Attributes:
        choices: As a caller gives them; None where there are none.
        keyword: The keyword of `sweep` that has the choices; empty where only an instance has.
        if_missing: What to do where the choices are missing, as a sentence.
        if_fixed: What to do where there are choices, but `over` does not have the axis, as a sentence.
    """

    choices: Any = None
    keyword: ClassVar[str] = ""
    if_missing: ClassVar[str] = "Put an instance with choices into `over`."
    if_fixed: ClassVar[str] = "Put it into `over`."

    @property
    def title(self) -> str:
        """What messages call its choices."""
        return self.keyword or self.name

    def where(self, choice: Any) -> dict[str, Any]:
        """What `Intervention.at` is given in the cells of a choice."""
        del choice
        return {}

    def changed(self, intervention: Intervention, choice: Any) -> Intervention:
        """The intervention of the cells of a choice. Made once for all of them.

        Raises:
            KindError: The intervention has nothing that could change so.
        """
        del choice
        return intervention

    def standing(self, edits: Sequence[Edit], choice: Any) -> tuple[Edit, ...]:
        """The standing edits of the cells of a choice. Where they differ, each choice has an unpatched run."""
        del choice
        return tuple(edits)

    def check(self, interventions: Sequence[Intervention], standing: Sequence[Edit]) -> None:
        """Refuse what has nothing that the choices could change, where `over` has the axis.

        Raises:
            KindError: Neither interventions nor standing edits have it.
        """

    def full_range(self, scope: SweepScope) -> Sequence[Any]:
        """All that there is, where nothing is chosen.

        Raises:
            SelectionError: A site has no such axis, or layers differ in how much there is.
            ValueRefusedError: Only the caller can say.
        """
        del scope
        raise ValueRefusedError(
            f"`{self.title}` must be given if `over` has {self.name!r}. Got None. {self.if_missing}"
        )

    def coordinate(self, choice: Any) -> Coordinate:
        """The label of a choice in a result: the choice, or how it is written."""
        if isinstance(choice, str | int | float | tuple):
            return choice
        return repr(choice)

    def parse_choice(self, value: Any) -> AxisChoice:
        """A choice, as it stands among others.

        Raises:
            SelectionError: It is none.
        """
        return value

    def parse(self, argument: object, size: int | None = None) -> tuple[AxisChoice, ...] | None:
        """The choices of a caller, one or several; None stays.

        Args:
            argument: As the caller passed them.
            size: The length of the axis, where slices are allowed.
        Raises:
            SelectionError: They hold something else, nothing, or something twice.
        """
        if argument is None:
            return None
        members = resolve_slice(argument, size)
        if is_group(members):
            members = arguments.entries(self.title, members, "a choice, or a list of choices", error=SelectionError)
        else:
            members = (members,)
        choices = tuple(self.parse_choice(resolve_slice(member, size)) for member in members)
        if not choices or () in choices:
            raise SelectionError(
                f"`{self.title}` must choose something. Got {shown(argument)}. Leave it out to choose all."
            )
        refuse_repeated_choices(self.title, argument, choices)
        return choices

    def aligned(self, interventions: list[Intervention], batches: Sequence[Batch]) -> tuple[list[Intervention], Self]:
        """The interventions, and the axis with its choices, after what the choices and the interventions ask.

        Raises:
            PatchError: They do not fit each other, or the prompts.
        """
        del batches
        return interventions, self

    def parsed(self, scope: SweepScope) -> Self:
        """The axis with its choices as a tuple, numbered from 0 where the length of the axis is known.

        Raises:
            SelectionError: They are no choices, or name what is not there.
        """
        del scope
        return replace(self, choices=self.parse(self.choices))

    def places(self, scope: SweepScope) -> tuple[Any, ...]:
        """The choices of the cells, where `over` has the axis: those of the caller, or all that there is.

        Raises:
            SelectionError, ValueRefusedError: As `full_range`.
        """
        if self.choices is None:
            return tuple(self.full_range(scope))
        return self.choices

    def fixed(self, scope: SweepScope) -> dict[str, Any]:
        """What `Intervention.at` is given in every cell, where `over` does not have the axis.

        Raises:
            ValueRefusedError: Choices along this axis mean nothing there.
        """
        del scope
        if self.choices is not None:
            raise ValueRefusedError(
                f"`{self.title}` must be left out unless `over` has {self.name!r}. Got {listed(self.choices)}. "
                f"{self.if_fixed}"
            )
        return {}
