"""DeepSeek V4.1: several copies of the stream, which hyper-connections mix; keys that are values; sparse attention.

`resid_pre` and `resid_post` are the copies side by side. Attention and MLP read a mixture of the copies, whose weights
are made from the copies one step before, and handed on beside them; what they write, `attn_out` and `mlp_out`, goes to
each copy times a weight. `z` stands behind a rotation that takes the positions out again.

Queries pick rows: those of a window, and in layers with a `ratio` also compressed entries, each of which stands for so
many positions and is seen from the last of them on. A softmax is over both. So `key_pos` of `attn_scores` and `pattern`
has a key for each position, and behind them one for each entry: of 8 positions and a ratio of 2, key 8 is the entry of
positions 0 and 1, key 11 that of 6 and 7. What a query does not pick is masked, and is 0 in `pattern`.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_patch.architectures._family import NEURONS_OF_EXPERTS, Family, Heads, Point, Stream, adds
from mlx_patch.architectures._views import Behind, ByHead, attribute_at

_COPIES = Behind()
_ROUTER = Point("mlp.gate", "inside", recipe="gate", flat=True)
_ATTENTION = Point("self_attn", "inside", recipe="sparse")


def _ends(block: nn.Module, positions: int) -> mx.array:
    """The last position of each compressed entry."""
    ratio = attribute_at(block, "self_attn.ratio")
    return mx.arange(ratio - 1, positions, ratio) if ratio else mx.arange(0)


def _connected(stream: mx.array, added: mx.array, connection: nn.Module) -> mx.array:
    """The copies mixed with one another, and what is added to each times a weight."""
    copies = mx.unflatten(stream, -1, (-1, added.shape[-1]))
    _, weights, mixing = connection(copies)
    mixed = mx.sum(mixing[..., None] * copies[..., :, None, :], axis=2)
    return (weights[..., None] * added[..., None, :] + mixed).astype(stream.dtype).reshape(stream.shape)


DEEPSEEK_V41 = Family(
    "deepseek_v41",
    {
        "resid_pre": Point("", "input", _COPIES),
        "q": Point("self_attn.q_b_proj", "output", ByHead("self_attn.num_heads")),
        **dict.fromkeys(("rot_q", "attn_scores", "pattern"), _ATTENTION),
        "z": Point("self_attn.o_a_proj", "input", Behind("self_attn.num_heads"), flat=True),
        **adds(Point("self_attn", "output"), "attn_out", "mixer_out"),
        "router_logits": _ROUTER,
        "expert_weights": _ROUTER,
        "mlp_out": Point("mlp", "output"),
        "resid_post": Point("", "output", _COPIES, item=0),
    },
    absent={
        **NEURONS_OF_EXPERTS,
        "k": "one projection is both key and value",
        "v": "one projection is both key and value, rotated; what attention gathers is rotated back",
        "rot_k": "its keys are rows that each query picks, and some rows stand for several positions",
        "resid_mid": "its MLP reads a mixture of copies whose weights are computed before attention, so no single "
        "stream lies between",
    },
    stream=Stream(
        says="copies = weight * mixer_out + mixing @ copies, then the same with mlp_out",
        mid=lambda stream, added, block: _connected(stream, added, attribute_at(block, "attn_hc")),
        post=lambda stream, added, block: _connected(stream, added, attribute_at(block, "ffn_hc")),
    ),
    streams="args.hc_mult",
    heads=Heads(sinks="self_attn.sinks", further=_ends),
    shared=(
        "{block}.ffn_hc:output.0",
        "{block}.self_attn.compressor:input",
        "{block}.self_attn.indexer:input.0",
        "{block}.self_attn.indexer:input.1",
    ),
    read_out="its copies of the stream are read with weights that are handed on beside them",
)
