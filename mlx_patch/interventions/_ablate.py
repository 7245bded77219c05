"""`Ablate`: replace an activation by values that carry no information about the prompt."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import mlx.core as mx
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.errors import ValueRefusedError, listed
from mlx_patch.interventions._base import Intervention
from mlx_patch.interventions._fitted import wide
from mlx_patch.interventions._masked import BY_KEY, SCORES, refuse_masked
from mlx_patch.interventions._random import derangement, donors, keys, normal, random_stream
from mlx_patch.interventions._where import Where, index_of, pos_axis
from mlx_patch.interventions.sources import (
    Norms,
    Source,
    SourceLike,
    as_source,
    batch_mean,
    check_source,
    describe,
    deviation,
    norms_of,
    note,
    overall_mean,
    own_positions,
    positions_of,
    source_rows,
    warn_once,
    without_first,
)
from mlx_patch.sites import Site

_OVER = ("batch_pos", "batch")
_KNOWN = "one that `Ablate` knows"
_DEFAULTS: dict[str, Any] = {"source": None, "seed": 0, "scale": 1.0, "over": "batch_pos", "skip": 0}


@dataclass(frozen=True, repr=False, eq=False, init=False)
class Ablate(Intervention):
    """Replace an activation by values that carry no information about this prompt.

    Args:
        kind: `"zero"`: zeros. `"mean"`: the mean activation. `"resample"`: the activation of another row of a batch,
            chosen at random; within the run's own batch no row keeps its own. `"noise"`: the activation plus `scale`
            standard deviations of Gaussian noise.
        source: For a mean or a resample, the `ActivationCache` or the array that it is taken of. None is this
            run's own batch.
        seed: For a resample or noise. The draw depends on it, the site and the row of the batch; for noise also on the
            absolute position; for a resample also on the number of rows to choose from; and on nothing else.
        scale: For noise, in standard deviations of the whole activation in this run. Meng et al. take 3, at `embed`.
        over: For a mean: `"batch_pos"` is one mean over batch and positions, `"batch"` one for each position.
        skip: For a mean over `"batch_pos"`, how many first positions are left out of it. In most models the first one
            is an attention sink, hundreds of times longer than the others, and the mean is mostly its own.

    Warns:
        OutlierPositionWarning: When it runs, once: of a mean over positions one has more than 30 times the median norm.
    Raises:
        UnknownNameError: No such kind or `over`; the message has the nearest.
        ValueRefusedError: An argument that this kind does not use. When it runs: a batch of one row has no other.
    Source:
        Mean: Wang et al. 2022, https://arxiv.org/abs/2211.00593. Resample: Chan et al. 2022, "Causal Scrubbing". Noise:
        Meng et al. 2022, https://arxiv.org/abs/2202.05262, section 2.1.
    Example:
        >>> Ablate("noise", scale=3.0).at("embed", pos=[1, 2])
        Ablate('noise', scale=3.0).at('embed', pos=(1, 2))
    """

    kind: str
    source: Source | None
    seed: int
    scale: float
    over: str
    skip: int

    def __init__(
        self,
        kind: str,
        source: SourceLike | None = None,
        *,
        seed: int = 0,
        scale: float = 1.0,
        over: str = "batch_pos",
        skip: int = 0,
    ) -> None:
        kind = arguments.choice("kind", kind, _KINDS, _KNOWN)
        over = arguments.choice("over", over, _OVER, _KNOWN)
        if source is not None:
            source = as_source("source", source)
        settings: dict[str, Any] = {
            "source": source,
            "seed": arguments.whole_number("seed", seed, 0),
            "scale": arguments.number("scale", scale, above=0),
            "over": over,
            "skip": arguments.whole_number("skip", skip, 0),
        }
        _refuse_unused(kind, settings)
        if over == "batch" and settings["skip"]:
            raise ValueRefusedError(
                f"`skip` must be left out of a mean over 'batch', which takes one mean per position. Got {skip}."
            )
        for name, value in {"kind": kind, **settings}.items():
            object.__setattr__(self, name, value)

    @property
    @override
    def by_row(self) -> bool:
        return self.kind == "zero" or (self.kind == "mean" and self.source is not None)

    @property
    @override
    def by_position(self) -> bool:
        own_mean = self.kind == "mean" and self.source is None and self.over == "batch_pos"
        return not own_mean and self.kind != "noise"

    @property
    @override
    def elementwise(self) -> bool:
        return self.kind == "zero"

    @property
    @override
    def draws(self) -> bool:
        return "seed" in _KINDS[self.kind].uses

    @override
    def with_seed(self, seed: int) -> "Ablate":
        if not self.draws:
            super().with_seed(seed)
        return Ablate(self.kind, self.source, seed=seed, scale=self.scale, over=self.over, skip=self.skip)

    @override
    def __call__(self, own: mx.array, where: Where) -> mx.array:
        return _KINDS[self.kind].run(self, own, where)

    @override
    def check(self, sites: Iterable[Site]) -> None:
        sites = tuple(sites)
        if self.over != "batch":  # each query position has its own mask, and its own mean keeps it
            refuse_masked(repr(self), sites, _KINDS[self.kind].unmasks, _KINDS[self.kind].remedy)
        if self.source is not None:
            check_source("source", self.source, sites)
        if self.kind == "mean" and self.source is not None and self.over == "batch_pos":
            warn_once(self, _norms_of_source(self.source, sites, self.skip))

    def _key(self) -> tuple[object, ...]:
        return self.kind, id(self.source), self.seed, self.scale, self.over, self.skip

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ablate) and self._key() == other._key()

    @override
    def __hash__(self) -> int:
        return hash(self._key())

    @override
    def __repr__(self) -> str:
        arguments = [repr(self.kind)]
        if self.source is not None:
            arguments.append(describe(self.source))
        for name in ("seed", "scale", "over", "skip"):
            if getattr(self, name) != _DEFAULTS[name]:
                arguments.append(f"{name}={getattr(self, name)!r}")
        return f"Ablate({', '.join(arguments)})"


def _zero(_: Ablate, activation: mx.array, where: Where) -> mx.array:
    return mx.zeros_like(activation)


def _mean(ablate: Ablate, activation: mx.array, where: Where) -> mx.array:
    if ablate.over == "batch":
        return batch_mean(ablate.source, where)
    mean = overall_mean(ablate.source, where, ablate.skip)
    if ablate.source is None:
        array, positions = without_first(where.whole, where.pos_axis, own_positions(where), ablate.skip)
        note(ablate, where.site, norms_of(array, where.pos_axis, positions))
    return mean


def _norms_of_source(source: Source, sites: Iterable[Site], skip: int) -> list[tuple[str, Norms]]:
    """The norms of a mean's source at each site, where its shape says which axis has the positions."""
    norms_by_site = []
    for site in sites:
        axis = pos_axis(site)
        array = source if isinstance(source, mx.array) else source[site]
        if array.ndim > axis + 1:
            positions = positions_of(source, array.shape[axis])
            array, positions = without_first(array, axis, positions, skip)
            norms_by_site.append((str(site), norms_of(array, axis, positions)))
    return norms_by_site


def _resample(ablate: Ablate, activation: mx.array, where: Where) -> mx.array:
    start = random_stream(ablate.seed, where.site)
    if ablate.source is not None:
        values = source_rows("source", ablate.source, where)
        rows = mx.array(donors(start, where.rows, values.shape[0]))
        return mx.take(values, rows, axis=0)
    batch = where.whole.shape[0]
    if batch == 1:
        raise ValueRefusedError(
            "`source` must be given if the run has one row: there is no other row to take values from. Got None. Pass "
            "the cache of several prompts, or pass several prompts as one array. Prompts of a list each run alone."
        )
    order = derangement(start, batch)
    rows = mx.array([order[row] for row in where.rows])
    return mx.take(where.every_row().own(), rows, axis=0)


def _noise(ablate: Ablate, activation: mx.array, where: Where) -> mx.array:
    start = random_stream(ablate.seed, where.site)
    noise = normal(keys(start, where.rows, where.positions), where.whole.shape[2:])
    picked_noise = noise[index_of((None, None, *where.picks[2:]), noise.shape)]
    return wide(activation) + ablate.scale * deviation(where.whole) * picked_noise


class _Kind(NamedTuple):
    """The function of a kind, the arguments that it uses, and the sites where it would unmask masked entries."""

    run: Callable[[Ablate, mx.array, Where], mx.array]
    uses: tuple[str, ...] = ()
    unmasks: frozenset[str] = frozenset()
    remedy: str = ""


_KINDS = {
    "zero": _Kind(_zero, (), SCORES, "Ablate 'pattern' or 'z'."),
    "mean": _Kind(_mean, ("source", "over", "skip"), BY_KEY, 'Take the mean of each position: `over="batch"`.'),
    "resample": _Kind(_resample, ("source", "seed")),
    "noise": _Kind(_noise, ("seed", "scale"), BY_KEY, "Add the noise at 'q', 'k' or 'z'."),
}


def _refuse_unused(kind: str, arguments: dict[str, object]) -> None:
    uses = _KINDS[kind].uses
    for name, default in _DEFAULTS.items():
        if name not in uses and not _is_default(arguments[name], default):
            remedy = f"It uses {listed(uses)}." if uses else "It uses no other argument."
            raise ValueRefusedError(
                f"`{name}` must be left out of a {kind!r} ablation. Got {describe(arguments[name])}. {remedy}"
            )


def _is_default(value: object, default: object) -> bool:
    if default is None:
        return value is None
    return value == default
