"""What a generation keeps: activations of one forward pass after the other, put together at the end."""

from collections.abc import Iterable
from typing import Literal

import mlx.core as mx

from mlx_patch.architectures import Layout, refuse_parts
from mlx_patch.engine import Action, ForwardPass, Hook, Phase
from mlx_patch.errors import SelectionError
from mlx_patch.interventions import PositionChoice, Where, as_positions, pos_axis
from mlx_patch.model._clock import Clock
from mlx_patch.model._running import RunResult
from mlx_patch.sites import Site

PositionsOfText = Literal["prompt", "generated"] | PositionChoice


class CaptureOverGeneration:
    """The activations of a generation at some sites.

    Args:
        layout: The model.
        sites: Which.
        pos: Which positions: absolute, or from the prompt's end; None is all.
        clock: What knows the passes.

    Raises:
        SelectionError: A site's keys become more with each token.
        MissingSiteError: Of a sharded model, this rank has only a part of a site.
    """

    def __init__(self, layout: Layout, sites: Iterable[Site], pos: PositionChoice, clock: Clock):
        self.pos, self.clock = as_positions(pos), clock
        self.kept: dict[Site, list[mx.array]] = {site: [] for site in sites}
        self._places = {site: layout.place(site) for site in self.kept}
        for site in self._places:
            _refuse_keys(site)
        refuse_parts(layout, self._places.values())

    def hooks(self) -> list[Hook]:
        """What keeps them. They hold on to this object, so it does not hold them: no captures wait in a circle."""
        return [Hook(place, self._keep(site), Phase.CAPTURE) for site, place in self._places.items()]

    def _keep(self, site: Site) -> Action:
        def keep(value: mx.array, now: ForwardPass) -> None:
            if local := self._local(now):
                picks = tuple(local if axis == pos_axis(site) else None for axis in range(value.ndim))
                self.kept[site].append(mx.contiguous(Where(site, value, picks, self.clock.span(now)).own()))

        return keep

    def _local(self, now: ForwardPass) -> tuple[int, ...]:
        return tuple(range(now.length)) if self.pos is None else self.clock.span(now).local(self.pos)

    def compute(self) -> None:
        """Evaluate what was kept last, so that nothing holds on to the passes that it came from."""
        mx.eval(*(parts[-1] for parts in self.kept.values() if parts))

    @property
    def ran(self) -> RunResult:
        """What was kept, whole.

        Raises:
            SelectionError: A position that was asked for was never computed.
        """
        positions = tuple(now.offset + p for now in self.clock.passes for p in self._local(now))
        self._refuse_missing(positions)
        whole = {site: mx.concatenate(parts, axis=pos_axis(site)) for site, parts in self.kept.items()}
        tokens = self.clock.tokens
        mx.eval(tokens, *whole.values())
        return RunResult(mx.zeros((1, 0, 0)), whole, tokens, positions, self.clock.end)

    def _refuse_missing(self, positions: tuple[int, ...]) -> None:
        wanted = len(self.pos) if isinstance(self.pos, tuple) else 1
        if len(positions) < wanted:
            first, end = self.clock.passes[0].offset, self.clock.end
            raise SelectionError(
                f"`pos` must be positions that the model has read, {first} to {end - 1}. Got {self.pos}. "
                "Raise `max_tokens`, or leave `pos` out."
            )


def positions_of_text(pos: PositionsOfText, offset: int, prompt: int) -> PositionChoice:
    """What `pos="prompt"` and `pos="generated"` mean.

    Args:
        pos: As a caller gives it.
        offset: What a prompt cache holds.
        prompt: The absolute position after the prompt's last token.
    Raises:
        SelectionError: Another word.
    """
    words = {"prompt": slice(offset, prompt), "generated": slice(prompt, None)}
    if not isinstance(pos, str):
        return pos
    if pos not in words:
        raise SelectionError(f'`pos` must be "prompt", "generated" or positions. Got {pos!r}. Leave it out for all.')
    return words[pos]


def _refuse_keys(site: Site) -> None:
    if "key_pos" in site.axes:
        raise SelectionError(
            f"`sites` must not have an axis of keys, which become more with each generated token. Got {site}. "
            "Run `model.run_with_cache` over the prompt and the text."
        )
