"""IQuest-Loop-Coder: a model that calls the parts of its blocks, never the blocks, and all of them twice.

Each time is layers of its own: with 40 blocks, layer 45 is the second run of block 5. No module returns the stream.
In the second run each head mixes two attentions by a gate, a number from 0 to 1 that its query decides:
`z = gate * first + (1 - gate) * (pattern @ v)`. `pattern`, like `attn_scores`, `rot_k` and `v`, is of the one over the
layer's own keys, in a window. `first`, over all keys and values of the first run of the block, with the same queries,
is no site: a head whose `pattern` is made 0 keeps that share of its `z`. To do without a head, edit `z`.
"""

from mlx_patch.architectures._family import DENSE, Boxing, Family, Heads, Loop, Point, adds, heads_side_by_side
from mlx_patch.architectures._views import HeadsFirst

_ATTENTION = (
    Point("self_attn", "inside", recipe="sdpa", part=0),
    Point("self_attn", "inside", recipe="sdpa", part=1, call=1),  # Call 0 of the second run is over the first's keys.
)

IQUESTLOOPCODER = Family(
    "iquestloopcoder",
    {
        "resid_pre": Point("input_layernorm", "input", boxed=True),
        **heads_side_by_side("self_attn"),
        "rot_q": Point("self_attn.rope", "output", HeadsFirst(), call=0, calls=2),
        "rot_k": Point("self_attn.rope", "output", HeadsFirst(), call=1, calls=2),
        **dict.fromkeys(("attn_scores", "pattern"), _ATTENTION),
        **adds(Point("self_attn.o_proj", "output"), "attn_out", "mixer_out"),
        "resid_mid": Point("post_attention_layernorm", "input", boxed=True),
        "mlp_post": Point("mlp.down_proj", "input"),
        "mlp_out": Point("mlp", "output"),
        "resid_post": Point("", "next"),
    },
    absent=DENSE,
    heads=Heads(mixed_in=1),
    loop=Loop(times=lambda model: 2, normed=lambda model: False),
    boxing=Boxing(Point("model.embed_tokens", "output"), ("input_layernorm", "post_attention_layernorm"), whole=True),
    shared=("rot_k", "v"),
)
