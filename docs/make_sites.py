"""Write docs/sites.md from the vocabulary: `python docs/make_sites.py`. A test compares them."""

from pathlib import Path

from mlx_patch.sites import SITES

PAGE = Path(__file__).with_name("sites.md")

HEAD = """# Sites

A site is a named place of the model whose array you can read (`run_with_cache`) or edit (`.at(...)`). Names, spelling
and shapes are TransformerLens's, and mean what they mean there. `Site("resid_post", 12)`, `"resid_post.12"` and
`"blocks.12.hook_resid_post"` are the same site.

To reach a place without a name, give its raw module path with a side: `model.layers.3.mlp.gate_proj:output`, or
`...:input`. If a module runs several times in one forward pass, add the number of the call:
`model.layers.3.self_attn.rope:output[1]`. For another argument than the first, or a part of a returned tuple, add its
number: `model.layers.3.mlp.gate:output.1`.

An edit changes what the name says, everywhere it is used. `attn_out` and `mlp_out` are what is *added to the stream*,
after any norm and any multiplier that the family puts there. An edit of `resid_mid` also changes what the skip
connection carries on. An edit of `rot_k` or `v` also reaches the KV cache. An edit of `expert_weights` weighs the
experts that were chosen. An edit of `router_logits` changes which experts are chosen.

In `attn_scores`, masked entries hold the lowest finite number of the dtype, as in MLX's own attention. The key axis of
`attn_scores` and `pattern` has every position from 0 on, also behind a prompt cache. In a layer with a sliding window,
keys that the cache has dropped are masked, and an edit that attends to them is refused. DeepSeek V4.1 also attends to
entries that each stand for several positions. They come behind the positions on that axis. Where queries pick their
keys (there, and in DeepSeek V3.2), the other keys are masked, and an edit that gives one of them a weight counts.

`pattern` and `v` make `z`, times a gate where the model has one. Only in the second run of IQuest-Loop-Coder's blocks
does `z` hold more: `gate * (attention over the first run's keys and values) + (1 - gate) * (pattern @ v)`.

[architectures.md](architectures.md) says which sites each architecture has, and why it lacks the others.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_vocabulary(), ""])


def _vocabulary() -> list[str]:
    rows = [f"| `{k.name}` | `{k.hook}` | {' '.join(k.axes)} | {k.meaning} |" for k in SITES.values()]
    return ["| short | full | axes | meaning |", "|---|---|---|---|", *(row.replace("{layer}", "L") for row in rows)]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
