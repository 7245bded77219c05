"""`LayerGroup`: layers that gradients go back through at once, where memory does not hold all of them.

Of a group, the forward pass keeps every value that its backward pass needs. Between groups it keeps the stream alone.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import mlx.core as mx

from mlx_patch.architectures import Layout, more_than_stream
from mlx_patch.attribution._prompt_run import PromptRun
from mlx_patch.execution.cells import block_of
from mlx_patch.execution.plan import footprint
from mlx_patch.sites import Site

_AT_WORK = 1.5
"""What the block that is gone back through takes beside what it kept, in the sizes of a block's forward pass."""

_UNKNOWN_LAYER = "a cell edits a module whose layer is unknown"


@dataclass(frozen=True)
class Blank:
    """The form of an activation: what is known of it before it is computed.

    Attributes:
        shape: Its shape.
        dtype: Its dtype.
    """

    shape: tuple[int, ...]
    dtype: mx.Dtype

    @property
    def nbytes(self) -> int:
        """The bytes of such an array."""
        return prod(self.shape) * self.dtype.size

    def zeros(self) -> mx.array:
        """Zeros, which take no memory: one number stands for all."""
        return mx.broadcast_to(mx.zeros((), self.dtype), self.shape)


@dataclass(frozen=True)
class LayerGroup:
    """Layers that gradients go back through at once.

    Attributes:
        entrance: The stream that enters it, if it was kept; None where the group begins with the tokens.
        exit: The stream that leaves it, and enters the next group; None where it ends with the metrics.
        sites: The sites in it at which gradients are wanted.
    """

    entrance: Site | None
    exit: Site | None
    sites: tuple[Site, ...]


@dataclass(frozen=True)
class LayerGroups:
    """The groups of a run.

    Attributes:
        groups: From the first layers to the last.
        undivided: Why the gradients take more memory than they should; empty where they do not, or no less would do.
    """

    groups: tuple[LayerGroup, ...]
    undivided: str = ""


def layer_groups(prompt_run: PromptRun, blanks: Mapping[Site, Blank]) -> LayerGroups:
    """The fewest groups of layers that are estimated to keep within the memory; groups of one layer at the least.

    Args:
        prompt_run: The prompts.
        blanks: The activation at each site where gradients are wanted.
    """
    layout, memory = prompt_run.layout, prompt_run.memory
    undivided = (LayerGroup(None, None, tuple(blanks)),)
    layers = {site: _layer_of(layout, site) for site in blanks}
    sizes = _Sizes(prompt_run, blanks, layers)
    if memory is None or sizes.of([sizes.layers]) <= memory:
        return LayerGroups(undivided)
    why = more_than_stream(layout)
    if None in layers.values():
        why = why or _UNKNOWN_LAYER
    if why:
        return LayerGroups(undivided, why)
    divided = _divided(sizes.layers, 1)
    for size in range(len(sizes.layers) - 1, 1, -1):
        if sizes.of(_divided(sizes.layers, size)) <= memory:
            divided = _divided(sizes.layers, size)
            break
    return LayerGroups(tuple(_group(layout, layers, members) for members in divided))


def _layer_of(layout: Layout, site: Site) -> int | None:
    """The layer whose block computes what is at a site; None where that is unknown."""
    last = len(layout.blocks) - 1
    if not site.is_raw:
        return {"embed": 0, "final_norm": last}.get(site.name, site.layer)
    if layout.times > 1:
        return None
    if site.raw[0] == layout.family.final_norm:
        return last
    return block_of(layout, site.raw[0])


def _divided(layers: range, size: int) -> list[range]:
    """Layers in groups of a size, of which the first may be smaller."""
    ends = range(layers.stop, layers.start, -size)
    return [range(max(layers.start, end - size), end) for end in reversed(ends)]


def _group(layout: Layout, layers: Mapping[Site, int | None], members: range) -> LayerGroup:
    """The group of some layers."""
    sites = tuple(site for site, layer in layers.items() if layer in members)
    entrance, exit_ = None, None
    if members.start > min(layer for layer in layers.values() if layer is not None):
        entrance = Site("resid_pre", members.start)
    if members.stop < len(layout.blocks):
        exit_ = Site("resid_pre", members.stop)
    return LayerGroup(entrance, exit_, sites)


class _Sizes:
    """What gradients take beside the weights, estimated.

    Args:
        prompt_run: The prompts.
        blanks: The activation at each site where gradients are wanted.
        site_layers: The layer of each of these sites.

    Attributes:
        layers: Those that gradients go back through.
    """

    def __init__(self, prompt_run: PromptRun, blanks: Mapping[Site, Blank], site_layers: Mapping[Site, int | None]):
        layout, readout = prompt_run.layout, prompt_run.readout
        rows, length = prompt_run.tokens.shape
        n_positions = length - prompt_run.start
        n_metrics = len(readout.metrics)
        sizes = footprint(layout, [readout], backwards=True)
        self.layers = range(min(layer or 0 for layer in site_layers.values()), len(layout.blocks))
        self._block = sizes.block(rows, n_positions, length)
        self._stream = rows * n_positions * sizes.d_model * sizes.itemsize
        self._always = sizes.logits(rows, n_positions) + n_metrics * self._stream
        self._sites = Counter[int]()
        for site, layer in site_layers.items():
            self._sites[layer or 0] += (1 + n_metrics) * blanks[site].nbytes

    def of(self, groups: Sequence[range]) -> int:
        """Bytes that the gradients take in some groups of layers."""
        # All blocks of a group keep what their backward pass needs, and one is gone back through at a time.
        largest = max(sum(self._block + self._sites[layer] for layer in layers) for layers in groups)
        at_work = int(_AT_WORK * self._block)
        return self._always + (len(groups) - 1) * self._stream + largest + at_work
