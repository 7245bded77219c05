"""`PromptOnlyEdit`: an edit that acts in the prompt alone, where an answer stands behind it."""

from dataclasses import dataclass, replace

import mlx.core as mx
from typing_extensions import override

from mlx_patch.errors import SelectionError
from mlx_patch.interventions import ActivationChange, Edit, PromptEdits, RowEdits, Span, pos_axis
from mlx_patch.sites import Site


@dataclass(frozen=True, repr=False)
class PromptOnlyEdit(Edit):
    """An edit that sees a prompt alone, in a run that goes on behind it.

    Attributes:
        prompt: The positions of the prompt.
    """

    prompt: int = 0

    @override
    def change(self, activation: mx.array, site: Site, span: Span) -> ActivationChange | None:
        here = self.prompt - span.offset
        if here <= 0:
            return None
        of_prompt = Span(span.offset, min(here, span.length), self.prompt, span.pieces)
        if of_prompt.length == span.length:
            return super().change(activation, site, of_prompt)
        _refuse_heaps(activation.shape, site, span)
        index = _first_of(activation.shape, site, of_prompt.length, span)
        change = super().change(activation[index], site, of_prompt)
        return None if change is None else change.within(activation)

    @override
    def __repr__(self) -> str:
        return repr(Edit(self.intervention, self.site, self.layer, self.pos, self.head, self.neuron, self.batch))

    @override
    def __hash__(self) -> int:
        return super().__hash__()


def _refuse_heaps(shape: tuple[int, ...], site: Site, span: Span) -> None:
    """Refuse what does not say which part of it is the prompt's: a raw path into a module of experts, say."""
    axis = pos_axis(site)
    if axis >= len(shape) or shape[axis] != span.length:
        raise SelectionError(
            f"`site` must have the {span.length} positions of a run along axis {axis} where an answer is behind the "
            f"prompt. Got {site}, of shape {shape}. Choose a named site, or a metric of one token."
        )


def _first_of(shape: tuple[int, ...], site: Site, own: int, span: Span) -> tuple[slice, ...]:
    """The index of a prompt's part: its positions, and of keys those up to its end.

    Keys that are more than the positions (compressed entries behind them) stay all: the prompt's rows do not see the
    ones that come later.
    """
    sizes = {pos_axis(site): own}
    if site.axes[-1:] == ("key_pos",) and shape[-1] <= span.end:
        sizes[len(shape) - 1] = shape[-1] - (span.length - own)
    return tuple(slice(0, sizes.get(axis, size)) for axis, size in enumerate(shape))


def in_prompt(edit: Edit, prompt: int) -> Edit:
    """The same edit in a run that goes on behind the prompt, its positions counted from 0."""
    if isinstance(edit, RowEdits | PromptEdits):
        return replace(edit, members=tuple(in_prompt(member, prompt) for member in edit.members))
    pos = edit.pos
    if pos is not None:
        pos = Span(0, prompt, prompt).local(pos)
    return PromptOnlyEdit(
        edit.intervention, edit.site, edit.layer, pos, edit.head, edit.neuron, edit.batch, edit.steps, prompt
    )
