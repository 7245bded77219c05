"""DBRX: attention and its norms in a module of their own, and experts that are run token by token.

`q` and `k` are what the projection gives; `v` is as attention sees it, which is after the model has clipped all three.
"""

from mlx_patch.architectures._family import BLOCK_ENDS, NEURONS_OF_EXPERTS, Family, Point, adds, attention_inside
from mlx_patch.architectures._views import ByHead, Fused

_ATTENTION = "norm_attn_norm.attn"
_HEADS = (f"{_ATTENTION}.num_heads", f"{_ATTENTION}.num_key_value_heads", f"{_ATTENTION}.num_key_value_heads")

DBRX = Family(
    "dbrx",
    {
        **BLOCK_ENDS,
        **{name: Point(f"{_ATTENTION}.Wqkv", "output", Fused(_HEADS, index)) for index, name in enumerate("qk")},
        **attention_inside(_ATTENTION, ("v", "rot_q", "rot_k", "attn_scores", "pattern")),
        "z": Point(f"{_ATTENTION}.out_proj", "input", ByHead(_HEADS[0])),
        **adds(Point(_ATTENTION, "output"), "attn_out", "mixer_out"),
        "resid_mid": Point("norm_attn_norm.norm_2", "input", carried="mlp_out"),
        "router_logits": Point("ffn.router", "output", flat=True),
        "expert_weights": Point("ffn", "inside", recipe="loop", flat=True),
        "mlp_out": Point("ffn", "output"),
    },
    absent=NEURONS_OF_EXPERTS,
    blocks="transformer.blocks",
    final_norm="transformer.norm_f",
    width="args.d_model",
)
