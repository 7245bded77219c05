"""IQuest-Loop-Coder: a model that calls the parts of its blocks, never the blocks, and all of them twice.

Each time is layers of its own: with 40 blocks, layer 45 is the second run of block 5. No module returns the stream.
In the second run each head mixes, by a gate, attention over the keys and values of the first run with attention over a
window of its own: those layers have no one pattern. What they read beside the stream are those keys and values.
"""

from mlx_patch.architectures._family import DENSE, Boxing, Family, Loop, Point, adds, heads_side_by_side
from mlx_patch.architectures._views import HeadsFirst

_FIRST_RUN = Point("self_attn", "inside", recipe="sdpa", part=0)

IQUESTLOOPCODER = Family(
    "iquestloopcoder",
    {
        "resid_pre": Point("input_layernorm", "input", boxed=True),
        **heads_side_by_side("self_attn"),
        "rot_q": Point("self_attn.rope", "output", HeadsFirst(), call=0, calls=2),
        "rot_k": Point("self_attn.rope", "output", HeadsFirst(), call=1, calls=2),
        **dict.fromkeys(("attn_scores", "pattern"), _FIRST_RUN),
        **adds(Point("self_attn.o_proj", "output"), "attn_out", "mixer_out"),
        "resid_mid": Point("post_attention_layernorm", "input", boxed=True),
        "mlp_post": Point("mlp.down_proj", "input"),
        "mlp_out": Point("mlp", "output"),
        "resid_post": Point("", "next"),
    },
    absent=DENSE,
    loop=Loop(times=lambda model: 2, normed=lambda model: False),
    boxing=Boxing(Point("model.embed_tokens", "output"), ("input_layernorm", "post_attention_layernorm"), whole=True),
    shared=("rot_k", "v"),
)
