"""DeepSeek V3 and what shares its attention: what is cached is a latent and a rotated key that all heads share.

The scores are the sum of two products. Of the rotated one attention is given the result, as a mask, so no array holds
whole queries or whole keys. A prompt unfolds all of the latent that is cached, by head; a single token folds its
queries into the latent instead. The pattern and `z` are the same on both ways.
"""

from mlx_patch.architectures._family import BLOCK_ENDS, Family, Point, adds, attention_inside, select_kept, wrapped
from mlx_patch.architectures._views import ByHead
from mlx_patch.architectures.tables.deepseek_v2 import QUERIES

LATENT = {
    "k": "its keys are unfolded from the cached latent, for all positions at each step",
    "v": "its values are unfolded from the cached latent, for all positions at each step",
    "rot_q": "its scores are the sum of a rotated and an unrotated product, so no array holds whole queries",
    "rot_k": "its scores are the sum of a rotated and an unrotated product, so no array holds whole keys",
}
"""Why an attention on a cached latent lacks keys and values by head."""

BLOCK = {
    **BLOCK_ENDS,
    "q": QUERIES,
    **attention_inside("self_attn", ("attn_scores", "pattern")),
    "z": Point("self_attn.o_proj", "input", ByHead("self_attn.num_heads")),
    **adds(Point("self_attn", "output"), "attn_out", "mixer_out"),
    "resid_mid": Point("post_attention_layernorm", "input", carried="mlp_out"),
    **select_kept("mlp.gate"),
    "mlp_post": Point("mlp.down_proj", "input"),
    "mlp_out": Point("mlp", "output"),
}

DEEPSEEK_V3 = Family("deepseek_v3", BLOCK, absent=LATENT, also=("glm4_moe_lite",))
KIMI_K25 = wrapped(DEEPSEEK_V3, "kimi_k25")
KIMI_VL = wrapped(DEEPSEEK_V3, "kimi_vl")
