"""Activations of a generation: captured in each forward pass, joined at the end."""

from collections.abc import Iterable
from typing import Literal

import mlx.core as mx

from mlx_patch.architectures import Layout, refuse_parts
from mlx_patch.engine import Action, ForwardPass, Hook, Phase
from mlx_patch.errors import SelectionError, shown
from mlx_patch.interventions import PositionChoice, as_positions, pos_axis
from mlx_patch.model._clock import Clock
from mlx_patch.model._hooks import at_positions
from mlx_patch.model._running import RunResult
from mlx_patch.sites import Site

PositionsOfText = Literal["prompt", "generated"] | PositionChoice


class CaptureOverGeneration:
    """The activations of a generation at some sites.

    Args:
        layout: The model.
        sites: The sites to capture.
        pos: The positions to capture: absolute, or from the prompt's end; None is all.
        clock: It knows the passes of the generation.

    Raises:
        SelectionError: A site has an axis of keys, which grows with each token.
        MissingSiteError: The model is sharded, and this rank has only a part of a site.
    """

    def __init__(self, layout: Layout, sites: Iterable[Site], pos: PositionChoice, clock: Clock):
        self._pos, self._clock = as_positions(pos), clock
        self._chunks: dict[Site, list[mx.array]] = {site: [] for site in sites}
        self._places = {site: layout.place(site) for site in self._chunks}
        for site in self._places:
            _refuse_keys(site)
        refuse_parts(layout, self._places.values())

    def hooks(self) -> list[Hook]:
        """The hooks that capture. They refer to this object, which does not store them: a cycle keeps arrays alive."""
        return [Hook(place, self._capture(site), Phase.CAPTURE) for site, place in self._places.items()]

    def _capture(self, site: Site) -> Action:
        def capture(value: mx.array, forward_pass: ForwardPass) -> None:
            indices = self._indices(forward_pass)
            if indices:
                activation = at_positions(value, site, self._clock.span(forward_pass), indices)
                self._chunks[site].append(mx.contiguous(activation))

        return capture

    def _indices(self, forward_pass: ForwardPass) -> tuple[int, ...]:
        """The positions to capture, as indices within a forward pass."""
        if self._pos is None:
            return tuple(range(forward_pass.length))
        return self._clock.span(forward_pass).local(self._pos)

    def compute(self) -> None:
        """Evaluate the latest captures, so that they do not keep the graph of their pass alive."""
        mx.eval(*(chunks[-1] for chunks in self._chunks.values() if chunks))

    def result(self) -> RunResult:
        """All captures, joined along the positions; without logits.

        Raises:
            SelectionError: A position that was asked for was never computed.
        """
        positions: list[int] = []
        for forward_pass in self._clock.passes:
            positions += [forward_pass.offset + index for index in self._indices(forward_pass)]
        self._refuse_missing(len(positions))
        activations = {site: mx.concatenate(chunks, axis=pos_axis(site)) for site, chunks in self._chunks.items()}
        tokens = self._clock.tokens
        mx.eval(tokens, *activations.values())
        return RunResult(mx.zeros((1, 0, 0)), activations, tokens, tuple(positions), self._clock.end)

    def _refuse_missing(self, n_captured: int) -> None:
        n_needed = 1
        if isinstance(self._pos, tuple):
            n_needed = len(self._pos)
        if n_captured < n_needed:
            first, end = self._clock.passes[0].offset, self._clock.end
            raise SelectionError(
                f"`pos` must be positions that the model has read, {first} to {end - 1}. Got {self._pos}. "
                "Raise `max_tokens`, or leave `pos` out."
            )


def positions_of_text(pos: PositionsOfText, offset: int, prompt: int) -> PositionChoice:
    """The positions that `pos="prompt"` and `pos="generated"` stand for; other choices are returned as they are.

    Args:
        pos: As a caller gives it.
        offset: The number of positions in the prompt cache.
        prompt: The absolute position after the prompt's last token.
    Raises:
        SelectionError: Another word.
    """
    ranges = {"prompt": slice(offset, prompt), "generated": slice(prompt, None)}
    if not isinstance(pos, str):
        return pos
    if pos not in ranges:
        raise SelectionError(
            f'`pos` must be "prompt", "generated" or positions. Got {shown(pos)}. Leave it out for all.'
        )
    return ranges[pos]


def _refuse_keys(site: Site) -> None:
    if "key_pos" in site.axes:
        raise SelectionError(
            f"`sites` must not have an axis of keys, which grows with each generated token. Got {site}. Run "
            "`model.run_with_cache` over the prompt and the text."
        )
