"""`Knockout`: keep queries from reading keys."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import mlx.core as mx
from typing_extensions import override

from mlx_patch.errors import ValueRefusedError
from mlx_patch.interventions._elementwise import Local
from mlx_patch.interventions._masked import SCORES
from mlx_patch.interventions._where import Where
from mlx_patch.sites import Site


@dataclass(frozen=True, repr=False)
class Knockout(Local):
    """Attention scores as if they were masked: the queries of `pos` do not read the keys of `key`.

    The softmax then gives their weight to the other keys. To set weights to 0 and leave the others as they are,
    ablate `pattern`: that is another edit. Where a query has no key left, the run of that prompt is NaN: the softmax of
    nothing would be even over all keys, future ones too.

    Raises:
        ValueRefusedError: In runs: the site is not `attn_scores`.
    Source:
        Geva et al. 2023, https://arxiv.org/abs/2304.14767, section 4: attention knockout.
    Example:
        >>> Knockout().at("attn_scores", layer=[10, 11], pos=-1, key=3)
        Knockout().at('attn_scores', layer=(10, 11), pos=-1, key=3)
    """

    @override
    def __call__(self, own: mx.array, where: Where) -> mx.array:
        lowest = mx.array(mx.finfo(own.dtype).min, own.dtype)
        scores = where.put(mx.broadcast_to(lowest, own.shape))
        has_key = mx.any(scores > lowest, axis=-1, keepdims=True)
        of_queries = replace(where, whole=has_key, picks=(*where.picks[:-1], None)).own()
        return mx.broadcast_to(mx.where(of_queries, lowest, mx.array(mx.nan, own.dtype)), own.shape)

    @override
    def check(self, sites: Iterable[Site]) -> None:
        for site in sites:
            if site.name not in SCORES:
                raise ValueRefusedError(
                    f"`site` must be 'attn_scores' for Knockout(), where the softmax is still to come. Got {site}. To "
                    "set weights to 0 at 'pattern', use Ablate('zero')."
                )

    @override
    def __repr__(self) -> str:
        return "Knockout()"
