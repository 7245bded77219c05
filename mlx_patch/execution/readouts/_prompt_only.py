"""`PromptOnlyEdit`: an edit that acts in the prompt alone, where an answer is appended to it."""

from dataclasses import dataclass, replace

import mlx.core as mx
from typing_extensions import override

from mlx_patch.errors import SelectionError
from mlx_patch.interventions import ActivationChange, Edit, PromptEdits, RowEdits, Span, pos_axis
from mlx_patch.sites import Site


@dataclass(frozen=True, repr=False)
class PromptOnlyEdit(Edit):
    """An edit that acts in the prompt alone, in a run that has tokens behind it.

    Attributes:
        prompt: The positions of the prompt.
    """

    prompt: int = 0

    @override
    def change(self, activation: mx.array, site: Site, span: Span) -> ActivationChange | None:
        n_prompt = min(self.prompt - span.offset, span.length)  # positions of the prompt in the span
        if n_prompt <= 0:
            return None
        prompt_span = Span(span.offset, n_prompt, self.prompt, span.pieces)
        if n_prompt == span.length:
            return super().change(activation, site, prompt_span)
        _refuse_without_positions(activation.shape, site, span)
        index = _index_of_prompt(activation.shape, site, n_prompt, span)
        change = super().change(activation[index], site, prompt_span)
        if change is None:
            return None
        return change.within(activation)

    @override
    def __repr__(self) -> str:
        places = (self.layer, self.pos, self.head, self.neuron, self.batch, self.key)
        return repr(Edit(self.intervention, self.site, *places))

    @override
    def __hash__(self) -> int:
        return super().__hash__()


def _refuse_without_positions(shape: tuple[int, ...], site: Site, span: Span) -> None:
    """Refuse activations without an axis of positions: those of a raw path into a module of experts, say."""
    axis = pos_axis(site)
    if axis >= len(shape) or shape[axis] != span.length:
        raise SelectionError(
            f"`site` must have the {span.length} positions of a run along axis {axis} if an answer follows the prompt. "
            f"Got {site}, of shape {shape}. Choose a named site, or a metric of one token."
        )


def _index_of_prompt(shape: tuple[int, ...], site: Site, n_prompt: int, span: Span) -> tuple[slice, ...]:
    """The index of the prompt in an activation: its positions, and of keys those up to its end.

    Where there are more keys than positions (compressed entries stand behind them), all keys stay: the rows of the
    prompt do not see the later ones.
    """
    ends = list(shape)
    ends[pos_axis(site)] = n_prompt
    if site.axes[-1:] == ("key_pos",) and shape[-1] <= span.end:
        n_behind = span.length - n_prompt
        ends[-1] = shape[-1] - n_behind
    return tuple(slice(0, end) for end in ends)


def in_prompt(edit: Edit, prompt: int) -> Edit:
    """The same edit, in a run that has tokens behind the prompt; positions count from 0."""
    if isinstance(edit, RowEdits | PromptEdits):
        return replace(edit, members=tuple(in_prompt(member, prompt) for member in edit.members))
    pos = edit.pos
    if pos is not None:
        pos = Span(0, prompt, prompt).local(pos)
    key = edit.key
    if key is not None:
        key = Span(0, prompt, prompt).keys(key, prompt)
    places = (edit.layer, pos, edit.head, edit.neuron, edit.batch, key)
    return PromptOnlyEdit(edit.intervention, edit.site, *places, edit.steps, prompt)
