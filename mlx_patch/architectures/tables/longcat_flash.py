"""LongCat-Flash: each block is two layers, each of latent attention and a dense MLP; experts run beside the second.

The experts read the stream that the first layer's MLP reads, and what they give is added where the second layer ends:
it is a part of that layer's `mlp_out`, whose sites of routing they are. The last experts of a router return what they
are given. The stream between the two layers does not hold what the experts give.
"""

from mlx_patch.architectures._family import Boxing, Family, Point, adds
from mlx_patch.architectures._views import ByHead
from mlx_patch.architectures.tables.deepseek_v3 import LATENT

_READERS = ("input_layernorm.0", "post_attention_layernorm.0", "input_layernorm.1", "post_attention_layernorm.1")


def _layer(part: int) -> dict[str, Point]:
    """The sites that both layers of a block have."""
    attention, heads = f"self_attn.{part}", ByHead(f"self_attn.{part}.num_attention_heads")
    inside = Point(attention, "inside", recipe="sdpa", part=part)
    out = Point(attention, "output", part=part)
    return {
        "q": Point(f"{attention}.q_b_proj", "output", heads, part=part),
        "attn_scores": inside,
        "pattern": inside,
        "z": Point(f"{attention}.o_proj", "input", heads, part=part),
        **adds(out, "attn_out", "mixer_out"),
        "resid_mid": Point(f"post_attention_layernorm.{part}", "input", boxed=True, part=part),
    }


_FIRST, _SECOND = _layer(0), _layer(1)
_BETWEEN = Point("input_layernorm.1", "input", boxed=True)

LONGCAT_FLASH = Family(
    "longcat_flash",
    {
        **{name: (_FIRST[name], _SECOND[name]) for name in _FIRST},
        "resid_pre": (Point("", "input", part=0), _BETWEEN),
        "router_logits": Point("mlp.router.classifier", "output", part=1),
        "expert_weights": Point("mlp.router", "inside", recipe="gate", part=1),
        "mlp_post": Point("mlps.0.down_proj", "input", part=0),
        "mlp_out": (Point("mlps.0", "output", part=0), Point("mlps.1", "output", beside="mlp", part=1)),
        "resid_post": (Point("", "output", part=1), _BETWEEN),
    },
    absent=LATENT,
    parts=2,
    boxing=Boxing(Point("", "input"), _READERS),
    also=("longcat_flash_ngram",),
    shared=("{block}.mlp:output",),
)
