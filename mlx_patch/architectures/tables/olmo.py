"""OLMo, the first: a block without modules for attention and MLP, whose parts it calls itself.

mlx_lm 0.32.2 cannot run it on more than one token: it adds the mask to the scores, and the mask is the text "causal".
`rope` runs twice in a forward pass: on the queries, then on the keys.
"""

from mlx_patch.architectures._family import BLOCK_ENDS, DENSE, Family, Point, adds
from mlx_patch.architectures._views import ByHead, Fused, HeadsFirst

_BY_HAND = "its block computes attention in a method, and only values inside a module's own call can be read"

OLMO = Family(
    "olmo",
    {
        **BLOCK_ENDS,
        **{name: Point("att_proj", "output", Fused(("n_heads",) * 3, index)) for index, name in enumerate("qkv")},
        "rot_q": Point("rope", "output", HeadsFirst(), call=0),
        "rot_k": Point("rope", "output", HeadsFirst(), call=1),
        "z": Point("attn_out", "input", ByHead("n_heads")),
        **adds(Point("attn_out", "output"), "attn_out", "mixer_out"),
        "resid_mid": Point("ff_norm", "input", carried="mlp_out"),
        "mlp_post": Point("ff_out", "input"),
        "mlp_out": Point("ff_out", "output"),
    },
    absent={**DENSE, "attn_scores": _BY_HAND, "pattern": _BY_HAND},
    blocks="model.transformer.blocks",
    final_norm="model.transformer.norm",
    width="args.d_model",
    vocabulary="args.embedding_size",
)
