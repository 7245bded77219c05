"""`Intervention`: a frozen value, and a pure function of an activation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast, overload

import mlx.core as mx
from typing_extensions import override

from mlx_patch.errors import KindError, shown
from mlx_patch.interventions._edit import Choice, Edit, PositionChoice, Transformation, make_edit
from mlx_patch.interventions._edits import Edits, make_edits
from mlx_patch.interventions._fitted import fitted
from mlx_patch.interventions._where import Where
from mlx_patch.positions import Alignment
from mlx_patch.sites import Site


class Intervention(ABC):
    """A change of an activation: a frozen value that knows nothing of models.

    Subclass it for one of your own: write `__call__`, and `check` where it reads a source.
    `a | b` does `a`, then `b`. `.at(...)` says where, and makes an `Edit`.
    """

    @abstractmethod
    def __call__(self, own: mx.array, where: Where) -> mx.array:
        """The new values of the picked part.

        Args:
            own: The picked part of the activation, with the axes of the site.
            where: The site, the whole activation, and what was picked; `where.take(array)` picks the same part
                of another array.
        Returns:
            An array of the shape of `own`, or one that broadcasts to it. It is cast to the dtype of `own`.
        """

    @property
    def by_position(self) -> bool:
        """Whether its result for some positions depends on the activation at these positions alone.

        A sweep then need not compute the positions before the first one that is edited. False, the default, is safe;
        an intervention that reads more of `where.whole`, a mean over positions say, must leave it so.
        """
        return False

    @property
    def by_row(self) -> bool:
        """Whether its result for a row of the batch depends on that row alone: not on others, nor on its number.

        Prompts of a list are independent of each other. Where this holds, those of one length can still be edited
        together. False, the default, is safe.
        """
        return False

    @property
    def in_pieces(self) -> bool:
        """Whether an edit without `pos` may be made piece by piece, over a prompt cache, in a long prompt.

        True says more than `by_position`: that every position of a piece is told apart by `where` alone, and that no
        array has the length of the prompt. False, the default, is safe, and keeps the prompt in one piece.
        """
        return False

    @property
    def overwrites(self) -> bool:
        """Whether the result ignores the old activation.

        A sweep then need not compute what an edit of a whole activation would only throw away: it passes zeros. False,
        the default, is safe.
        """
        return False

    @property
    def elementwise(self) -> bool:
        """Whether each entry of its result depends on that entry of the activation alone, and on where it is.

        The change of many parts of an activation is then computed at once. An intervention that reads an array in the
        shape of what was picked must leave it so. False, the default, is safe.
        """
        return False

    def with_strength(self, alpha: float) -> Intervention:
        """The same intervention with another strength: what a sweep over "alpha" varies.

        Raises:
            KindError: It has none.
        """
        raise KindError(
            f"`intervention` must be an Interpolate if `over` has 'alpha'. Got {shown(self)}. Write "
            "mp.Interpolate(source, "
            "1.0)."
        )

    @property
    def draws(self) -> bool:
        """Whether it draws random numbers, from a seed that `with_seed` changes."""
        return False

    def with_seed(self, seed: int) -> Intervention:
        """The same intervention with another seed: what a sweep over "seed" varies.

        Raises:
            KindError: It draws nothing.
        """
        raise KindError(
            f"`intervention` must draw random numbers to have a seed. Got {shown(self)} and {seed}. Use "
            "Ablate('noise')."
        )

    def with_features(self, features: int | Iterable[int]) -> Intervention:
        """The same edit of other features: what a sweep over "feature" varies.

        Raises:
            KindError: It edits no features.
        """
        raise KindError(
            f"`intervention` must edit features if `over` has 'feature'. Got {shown(self)} and {features}. Write "
            "mp.Features(dictionary, mp.Scale(0.0))."
        )

    @property
    def chosen_features(self) -> tuple[int, ...] | None:
        """The features of a dictionary that it edits; None where it edits all, or no features."""
        return None

    @property
    def covers(self) -> tuple[int, ...] | None:
        """The positions that it has values for, None for all: an edit without `pos` is at these."""
        return None

    def aligned(self, alignment: Alignment) -> Intervention:
        """The same intervention with its source at the positions of another prompt.

        Raises:
            KindError: It has no source that could be.
        """
        raise KindError(
            f"`positions` must not be an alignment for {self!r}, which takes nothing from another prompt. "
            "Use it with Replace or Interpolate."
        )

    def check(self, sites: Iterable[Site]) -> None:  # noqa: B027  # most interventions have nothing to check
        """Refuse, before anything is computed, a source that does not serve these sites, or a site that it cannot.

        Raises:
            MissingSiteError: The source lacks a site.
            ValueRefusedError: The source holds NaN, or the intervention means nothing at one of the sites.
        """

    @overload
    def at(
        self,
        site: str | Site,
        layer: Choice = None,
        pos: PositionChoice = None,
        head: Choice = None,
        neuron: Choice = None,
        batch: Choice = None,
        key: PositionChoice = None,
    ) -> Edit: ...
    @overload
    def at(
        self,
        site: list[str] | list[Site] | tuple[str | Site, ...],
        layer: Choice = None,
        pos: PositionChoice = None,
        head: Choice = None,
        neuron: Choice = None,
        batch: Choice = None,
        key: PositionChoice = None,
    ) -> Edits: ...
    def at(
        self,
        site: str | Site | Sequence[str | Site],
        layer: Choice = None,
        pos: PositionChoice = None,
        head: Choice = None,
        neuron: Choice = None,
        batch: Choice = None,
        key: PositionChoice = None,
    ) -> Edit | Edits:
        """This intervention at a place: an `Edit`, which runs take; of several sites `Edits`, all in one run.

        Args:
            site: A short name, TransformerLens's spelling, or a raw module path with a side. A list is the same edit at
                each of these sites; what else is chosen must mean the same at each.
            layer: Blocks, from 0; negative ones count from the last. None is all that have the site.
            pos: Absolute positions; negative ones count from the end of the prompt. A slice may run on. Or a selector,
                `mp.pos.token(" Mary")`, which is resolved against the tokens of the run. None is all, or those that an
                aligned source has values for.
            head: Heads, at sites that have them; KV heads at `k`, `v`, `rot_k`.
            neuron: Indices along the last axis: neurons, coordinates of the stream, experts.
            batch: Rows of the batch.
            key: Key positions at `attn_scores` and `pattern`, chosen as `pos` is, which chooses queries there.
        Raises:
            UnknownNameError: No such site; the message has the nearest names.
            SelectionError: A choice that the site cannot have, or an empty one; or one that means different things at
                several sites: heads of queries and of keys, entries of axes that differ.
            ValueRefusedError: A list of sites is empty, or names one twice.
        Example:
            >>> from mlx_patch.interventions._scale import Scale
            >>> Scale(0.5).at("z", layer=3, head=[1, 4])
            Scale(0.5).at('z', layer=3, head=(1, 4))
        """
        choices = {"layer": layer, "pos": pos, "head": head, "neuron": neuron, "batch": batch, "key": key}
        if isinstance(site, list | tuple):
            return make_edits(self, site, **choices)
        return make_edit(self, cast("str | Site", site), **choices)

    def __or__(self, other: Intervention) -> Chain:
        if not isinstance(other, Intervention):
            raise KindError(
                f"`|` must join two interventions. Got {shown(other)}. Compose first, then call `.at(...)`."
            )
        return Chain((*_in_order(self), *_in_order(other)))


@dataclass(frozen=True, repr=False)
class Chain(Intervention):
    """Interventions one after the other, as `a | b` makes them: the same as one edit after the other.

    Example:
        >>> from mlx_patch.interventions._clamp import Clamp
        >>> from mlx_patch.interventions._scale import Scale
        >>> Scale(2.0) | Clamp(-1.0, 1.0)
        Scale(2.0) | Clamp(-1.0, 1.0)
    """

    steps: tuple[Intervention, ...]

    @property
    @override
    def elementwise(self) -> bool:
        return all(step.elementwise for step in self.steps)

    @override
    def __call__(self, own: mx.array, where: Where) -> mx.array:
        activation = own
        for number, step in enumerate(self.steps):
            if number > 0:  # a step that reads the whole activation (a mean, say) sees the result of the steps before
                where = replace(where, whole=where.put(activation))
            activation = fitted(step(activation, where), activation, step)
        return activation

    @property
    @override
    def by_position(self) -> bool:
        return all(step.by_position for step in self.steps)

    @property
    @override
    def by_row(self) -> bool:
        return all(step.by_row for step in self.steps)

    @property
    @override
    def in_pieces(self) -> bool:
        return all(step.in_pieces for step in self.steps)

    @property
    @override
    def overwrites(self) -> bool:
        return self.steps[0].overwrites  # a step before would be given zeros

    @property
    @override
    def draws(self) -> bool:
        return any(step.draws for step in self.steps)

    @override
    def with_seed(self, seed: int) -> Chain:
        if not self.draws:
            super().with_seed(seed)
        return Chain(tuple(step.with_seed(seed) if step.draws else step for step in self.steps))

    @override
    def with_features(self, features: int | Iterable[int]) -> Chain:
        if not any(map(_edits_features, self.steps)):
            super().with_features(features)
        changed_steps = list(self.steps)
        for number, step in enumerate(self.steps):
            if _edits_features(step):
                changed_steps[number] = step.with_features(features)
        return Chain(tuple(changed_steps))

    @property
    @override
    def covers(self) -> tuple[int, ...] | None:
        limits = [set(covers) for step in self.steps if (covers := step.covers) is not None]
        if not limits:
            return None
        return tuple(sorted(set.intersection(*limits)))

    @override
    def aligned(self, alignment: Alignment) -> Chain:
        if not any(map(_can_be_aligned, self.steps)):
            super().aligned(alignment)
        aligned_steps = list(self.steps)
        for number, step in enumerate(self.steps):
            if _can_be_aligned(step):
                aligned_steps[number] = step.aligned(alignment)
        return Chain(tuple(aligned_steps))

    @override
    def check(self, sites: Iterable[Site]) -> None:
        sites = tuple(sites)
        for step in self.steps:
            step.check(sites)

    @override
    def __repr__(self) -> str:
        return " | ".join(map(repr, self.steps))


def _can_be_aligned(intervention: Intervention) -> bool:
    return type(intervention).aligned is not Intervention.aligned


def _edits_features(intervention: Intervention) -> bool:
    return type(intervention).with_features is not Intervention.with_features


def _in_order(intervention: Intervention) -> tuple[Intervention, ...]:
    if isinstance(intervention, Chain):
        return intervention.steps
    return (intervention,)


def steps(intervention: Transformation) -> tuple[Transformation, ...]:
    """The interventions that this one consists of, in order."""
    if isinstance(intervention, Chain):
        return intervention.steps
    return (intervention,)
