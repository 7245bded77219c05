"""Llama 4: every second block or so has experts, every fourth no RoPE; the others attend within chunks.

A weight multiplies what its expert reads, not what it gives: `expert_weights` is that multiplier.
"""

from mlx_patch.architectures._family import NEURONS_OF_EXPERTS, Family, Point
from mlx_patch.architectures.tables.llama4_text import LLAMA4_TEXT

LLAMA4 = Family(
    "llama4",
    {
        **LLAMA4_TEXT.block,
        "router_logits": Point("feed_forward.router", "output"),
        "expert_weights": Point("feed_forward", "inside", recipe="inputs", of="MoE"),
    },
    absent=NEURONS_OF_EXPERTS,
    blocks="language_model.model.layers",
    final_norm="language_model.model.norm",
    width="language_model.args.hidden_size",
    vocabulary="language_model.args.vocab_size",
)
