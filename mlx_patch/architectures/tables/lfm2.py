"""LFM2: blocks of gated short convolutions or of attention, and an MLP or a mixture of experts.

The convolutions have raw paths: `model.layers.0.conv.conv:output`, `...conv.out_proj:input`; their state, the last
inputs, is in the prompt cache (`prompt_cache[layer][0]`).
"""

from mlx_patch.architectures._family import DENSE, NEURONS_OF_EXPERTS, Family, Point, routed, wrapped
from mlx_patch.architectures._views import ByHead
from mlx_patch.architectures.tables.llama import BLOCK

_BLOCK = {
    **BLOCK,
    "z": Point("self_attn.out_proj", "input", ByHead("self_attn.n_heads")),
    "mixer_out": (Point("self_attn", "output"), Point("conv", "output")),
    "resid_mid": Point("ffn_norm", "input", carried="mlp_out"),
    "mlp_post": (Point("feed_forward.w2", "input"), Point("feed_forward.down_proj", "input")),
    "mlp_out": Point("feed_forward", "output"),
}
LFM2 = Family("lfm2", _BLOCK, absent=DENSE, final_norm="model.embedding_norm")
LFM2_VL = wrapped(LFM2, "lfm2-vl")
LFM2_MOE = Family(
    "lfm2_moe",
    {**_BLOCK, **routed("feed_forward")},
    absent=NEURONS_OF_EXPERTS,
    final_norm="model.embedding_norm",
)
