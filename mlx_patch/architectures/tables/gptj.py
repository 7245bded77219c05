"""GPT-J: attention and MLP in parallel, on one norm; as many KV heads as query heads."""

from mlx_patch.architectures._family import BLOCK_ENDS, Family, Point, adds, attention_inside, heads_side_by_side
from mlx_patch.architectures._views import ByHead
from mlx_patch.architectures.tables.cohere import PARALLEL

_HEADS = "num_attention_heads"

GPTJ = Family(
    "gptj",
    {
        **BLOCK_ENDS,
        **heads_side_by_side("attn", _HEADS, _HEADS),
        **attention_inside("attn"),
        "z": Point("attn.out_proj", "input", ByHead(f"attn.{_HEADS}")),
        **adds(Point("attn", "output"), "attn_out", "mixer_out"),
        "mlp_post": Point("mlp.fc_out", "input"),
        "mlp_out": Point("mlp", "output"),
    },
    absent=PARALLEL,
    blocks="model.h",
    final_norm="model.ln_f",
    width="args.n_embd",
)
