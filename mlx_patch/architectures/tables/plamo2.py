"""PLaMo 2 and 3: norms on both sides of mixer and MLP. PLaMo 2 has Mamba blocks between those with attention.

Queries, keys and values come from one projection. In PLaMo 3 mlx_lm's mask lets a sliding layer see one key more than
its prompt cache holds, so over a prompt cache that is longer than the window the model itself gives other numbers than
for the whole prompt (law 9). The state space of PLaMo 2 has raw paths:
`model.layers.layers.0.mixer.conv1d:output`, `...mixer.out_proj:input`; its state is in the prompt cache
(`prompt_cache[layer][1]`).
"""

from dataclasses import replace

from mlx_patch.architectures._family import BLOCK_ENDS, DENSE, Family, HasModule, Point, adds, attention_inside
from mlx_patch.architectures._views import ByHead, Fused

_HEADS = ("mixer.q_num_heads", "mixer.k_num_heads", "mixer.v_num_heads")

_BLOCK = {
    **BLOCK_ENDS,
    **{name: Point("mixer.qkv_proj", "output", Fused(_HEADS, index)) for index, name in enumerate("qkv")},
    "z": Point("mixer.o_proj", "input", ByHead(_HEADS[0])),
    **adds(Point("post_mixer_norm", "output"), "attn_out", "mixer_out"),
    "resid_mid": Point("pre_mlp_norm", "input", carried="mlp_out"),
    "mlp_post": Point("mlp.down_proj", "input"),
    "mlp_out": Point("post_mlp_norm", "output"),
}
PLAMO2 = Family(
    "plamo2",
    {
        **_BLOCK,
        **attention_inside("mixer", recipe="fast", of="Attention"),
        "attn_out": Point("post_mixer_norm", "output", given=HasModule("mixer.qkv_proj")),
    },
    absent=DENSE,
    blocks="model.layers.layers",
    width="config.hidden_size",
    vocabulary="config.vocab_size",
)
PLAMO3 = replace(
    PLAMO2,
    name="plamo3",
    block={**_BLOCK, **attention_inside("mixer")},
    uncut="mlx_lm's mask lets a token see one position more than its prompt cache keeps",
)
