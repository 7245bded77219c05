"""Gemma 2: norms on both sides of attention and MLP, and attention written out with a soft-cap.

`post_attention_layernorm` here normalises what attention writes, so `attn_out`, which is what is added to the stream,
is what that norm returns. `rope` runs twice in a forward pass: on the queries, then on the keys.
"""

from mlx_patch.architectures._family import DENSE, Family, Point, adds
from mlx_patch.architectures._views import HeadsFirst
from mlx_patch.architectures.tables.llama import BLOCK

GEMMA2 = Family(
    "gemma2",
    {
        **BLOCK,
        "rot_q": Point("self_attn.rope", "output", HeadsFirst(), call=0),
        "rot_k": Point("self_attn.rope", "output", HeadsFirst(), call=1),
        "attn_scores": Point("self_attn", "inside", recipe="softmax"),
        "pattern": Point("self_attn", "inside", recipe="softmax"),
        **adds(Point("post_attention_layernorm", "output"), "attn_out", "mixer_out"),
        "resid_mid": Point("pre_feedforward_layernorm", "input", carried="mlp_out"),
        "mlp_out": Point("post_feedforward_layernorm", "output"),
    },
    absent=DENSE,
)
