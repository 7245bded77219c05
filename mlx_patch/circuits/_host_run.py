"""`HostRun`: the unpatched run, and derivatives of single segments of its blocks.

A segment of a block begins with a value that is put in, and ends before the next one begins. So segments of many blocks
go through one forward pass without touching each other, and MLX computes only what is evaluated. To tell heads apart,
the prompts are there once for each head: rows of a batch do not depend on each other.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx

from mlx_patch.architectures import summed_back
from mlx_patch.attribution import PromptRun, noting, putting
from mlx_patch.sites import Site

_TOKENS_AT_ONCE = 2**16
"""How many tokens, over all copies of the prompts, one run of a segment has at most; one copy at the least."""

SegmentFunction = Callable[..., list[mx.array]]
"""From the values where some segments begin to those where they end, segment by segment."""

Derive = Callable[[SegmentFunction, list[mx.array], list[mx.array]], list[mx.array]]
"""From segments, the values where they begin, and slopes or changes, to what comes out at the other end of each."""


@dataclass(frozen=True, eq=False)
class Segment:
    """A segment of a block, and several arrays that go through it.

    Attributes:
        entrance: Where it begins.
        exit: Where it ends.
        arrays: Slopes at its exit, or changes at its entrance. Shape `(array, *axes of that site)`.
    """

    entrance: Site
    exit: Site
    arrays: mx.array


@dataclass(frozen=True, eq=False)
class HostRun:
    """The unpatched run of some prompts.

    Attributes:
        prompt_run: The prompts.
        activations: The activations of the run, by site.
    """

    prompt_run: PromptRun
    activations: Mapping[Site, mx.array]

    @property
    def batch(self) -> int:
        """How many prompts there are."""
        return self.prompt_run.tokens.shape[0]

    def gradients(self, segments: Sequence[Segment]) -> list[list[mx.array]]:
        """How sums over the exits of segments change with the values at their entrances.

        Args:
            segments: The segments, with the slopes of each sum at the exit. Each ends before the next one with an exit
                of the same name begins.
        Returns:
            By segment, float32 pieces to be joined along the third axis, unevaluated. Shape
            `(batch, pos, sum, d_model)`.
        """

        def back(run_segments: SegmentFunction, values: list[mx.array], slopes: list[mx.array]) -> list[mx.array]:
            _, gradients = mx.vjp(run_segments, values, slopes)
            return gradients

        return self._through(segments, back)

    def shares(self, segments: Sequence[Segment]) -> list[list[mx.array]]:
        """How the values at the exits of segments change, to first order, with changes at their entrances.

        Args:
            segments: The segments, with the changes of the value at the entrance.
        Returns:
            By segment, float32 pieces to be joined along the third axis, unevaluated. Shape
            `(batch, pos, change, d_model)`.
        """

        def forward(run_segments: SegmentFunction, values: list[mx.array], changes: list[mx.array]) -> list[mx.array]:
            def way_back(*slopes: mx.array) -> list[mx.array]:
                model = self.prompt_run.layout.model
                _, gradients = mx.vjp(run_segments, values, [summed_back(model, slope) for slope in slopes])
                return gradients

            # The way back is linear in the slope, and its own way back is the way forward.
            nothing = [mx.zeros_like(value) for value in run_segments(*values)]
            _, shares = mx.vjp(way_back, nothing, changes)
            return shares

        return self._through(segments, forward)

    def _through(self, segments: Sequence[Segment], derive: Derive) -> list[list[mx.array]]:
        pieces: list[list[mx.array]] = [[] for _ in segments]
        for indices in _alike(segments):
            members = [segments[index] for index in indices]
            for chosen in pieces_of_copies(self.prompt_run, members[0].arrays.shape[0]):
                copies = chosen.stop - chosen.start
                values = [self._copied(segment.entrance, copies) for segment in members]
                arrays = [segment.arrays[chosen].flatten(0, 1) for segment in members]
                derived = derive(self._run_of(members), values, arrays)
                for index, array in zip(indices, derived, strict=True):
                    pieces[index].append(self._by_copy(array, copies))
        return pieces

    def _copied(self, site: Site, copies: int) -> mx.array:
        return mx.concatenate([self.activations[site]] * copies)

    def _by_copy(self, array: mx.array, copies: int) -> mx.array:
        """`(copy * batch, pos, d_model)` as `(batch, pos, copy, d_model)`, in float32."""
        by_copy = array.astype(mx.float32).reshape(copies, self.batch, *array.shape[1:])
        return by_copy.transpose(1, 2, 0, 3)

    def _run_of(self, segments: Sequence[Segment]) -> SegmentFunction:
        entrances, exits = [segment.entrance for segment in segments], [segment.exit for segment in segments]

        def run_segments(*values: mx.array) -> list[mx.array]:
            return values_of_segments(self.prompt_run, dict(zip(entrances, values, strict=True)), exits, exits[-1])

        return run_segments


def in_turn(pieces: list[list[mx.array]]) -> Iterator[mx.array]:
    """Arrays in pieces along the third axis, each evaluated when its turn comes, and not kept here any longer."""
    while pieces:
        members = pieces.pop(0)
        for piece in members:
            mx.eval(piece)
        yield mx.concatenate(members, axis=2)


def pieces_of_copies(prompt_run: PromptRun, count: int) -> list[slice]:
    """Copies of the prompts in pieces that run at once."""
    size = max(1, _TOKENS_AT_ONCE // prompt_run.tokens.size)
    return [slice(start, min(count, start + size)) for start in range(0, count, size)]


def values_of_segments(
    prompt_run: PromptRun, values: Mapping[Site, mx.array], exits: Sequence[Site], end: Site
) -> list[mx.array]:
    """The activations at some exits of a run in which values are put in, unevaluated.

    Args:
        prompt_run: The prompts.
        values: What is put in, by site. The rows of the prompts, any number of times one after another.
        exits: Where activations are read.
        end: Where the forward pass ends, behind all exits or at the last one.
    """
    n_rows = {value.shape[0] for value in values.values()}
    copies = max(n_rows) // prompt_run.tokens.shape[0]
    # What other edits do comes before the segment begins, in the values that are put in.
    copied = replace(prompt_run, tokens=mx.concatenate([prompt_run.tokens] * copies), actions=())
    activations: dict[Site, mx.array] = {}
    putting_in = [(site, putting(value)) for site, value in values.items()]
    copied.activation(None, [*putting_in, *((site, noting(site, activations)) for site in exits)], end)
    return [activations[site] for site in exits]


def one_at_a_time(array: mx.array) -> mx.array:
    """An array once for each head, with zeros at all other heads.

    Args:
        array: Shape `(batch, pos, head, d_head)`.
    Returns:
        Shape `(head, batch, pos, head, d_head)`.
    """
    is_head = mx.eye(array.shape[2], dtype=array.dtype)[:, None, None, :, None] > 0
    return mx.where(is_head, array[None], mx.zeros((), array.dtype))


def _alike(segments: Sequence[Segment]) -> list[list[int]]:
    """The indices of segments that go through one forward pass: with exits of one name, and as many arrays."""
    groups: dict[tuple[str, int], list[int]] = {}
    for index, segment in enumerate(segments):
        groups.setdefault((segment.exit.name, segment.arrays.shape[0]), []).append(index)
    return list(groups.values())
