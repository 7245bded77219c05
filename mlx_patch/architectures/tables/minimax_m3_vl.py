"""MiniMax M3's text tower: in some blocks an indexer picks, from the stream, which blocks of keys a query attends to.

Experts see the tokens of all rows as one list; some blocks have a dense MLP instead.
"""

from mlx_patch.architectures._family import NEURONS_OF_EXPERTS, Family, Heads, Point, heads_side_by_side, routed
from mlx_patch.architectures.tables.llama import BLOCK

_MOE = "block_sparse_moe"

MINIMAX_M3_VL = Family(
    "minimax_m3_vl",
    {
        **BLOCK,
        **heads_side_by_side("self_attn", "num_attention_heads", "num_key_value_heads"),
        "mlp_out": (Point("mlp", "output"), Point(_MOE, "output")),
        **routed(_MOE, flat=True),
    },
    absent=NEURONS_OF_EXPERTS,
    blocks="language_model.model.layers",
    final_norm="language_model.model.norm",
    width="language_model.args.hidden_size",
    vocabulary="language_model.args.vocab_size",
    heads=Heads(indexed=True),
)
