"""Write docs/sites.md from the vocabulary: `python docs/make_sites.py`. A test compares them."""

from pathlib import Path

from mlx_patch.sites import SITES

PAGE = Path(__file__).with_name("sites.md")

HEAD = """# Sites

A site is a named place of the model whose array can be read (`run_with_cache`) or edited (`.at(...)`). Names, spelling
and shapes are TransformerLens's, and mean what they mean there. `Site("resid_post", 12)`, `"resid_post.12"` and
`"blocks.12.hook_resid_post"` are the same site.

Whatever has no name is reached by its raw module path with a side: `model.layers.3.mlp.gate_proj:output`, `...:input`.
A module that runs several times in one forward pass takes the number of the call:
`model.layers.3.self_attn.rope:output[1]`. Another argument than the first, or a part of a tuple that is returned, takes
its number: `model.layers.3.mlp.gate:output.1`.

An edit changes what the name says, everywhere it is used. `attn_out` and `mlp_out` are what is *added to the stream*:
after any norm and any multiplier that the family puts there. An edit of `resid_mid` also changes what the skip
connection carries on. An edit of `rot_k` or `v` also reaches the KV cache. An edit of `expert_weights` weighs the
experts that were chosen, an edit of `router_logits` changes which are.

In `attn_scores`, what is masked holds the lowest finite number of its dtype, as in MLX's own attention. With a prompt
cache the key axis of `attn_scores` and `pattern` has the keys that the cache holds: for a sliding layer, those of its
window, from the oldest to the newest. DeepSeek V4.1 also attends to entries that each stand for several positions:
they come behind the others on that axis. Where queries pick their keys (there, and in DeepSeek V3.2), those that are
not picked are masked, and an edit that gives them a weight counts.

`pattern` and `v` make `z`, times a gate where the model has one. Only in the second run of IQuest-Loop-Coder's blocks
does `z` hold more: `gate * (attention over the first run's keys and values) + (1 - gate) * (pattern @ v)`.

Which sites each architecture has, and why it lacks the others, is in [architectures.md](architectures.md).
"""


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_vocabulary(), ""])


def _vocabulary() -> list[str]:
    rows = [f"| `{k.name}` | `{k.hook}` | {' '.join(k.axes)} | {k.meaning} |" for k in SITES.values()]
    return ["| short | full | axes | meaning |", "|---|---|---|---|", *(row.replace("{layer}", "L") for row in rows)]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
