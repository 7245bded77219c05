"""From the hook points that configurations name to sites."""

import re

from mlx_patch.errors import PatchError
from mlx_patch.sites import Site

_HUGGING_FACE = (
    (re.compile(r"(?:model\.)?(?:language_model\.)?layers\.(\d+)(?:\.output)?"), "resid_post"),
    (re.compile(r"(?:model\.)?(?:language_model\.)?layers\.(\d+)\.self_attn\.o_proj\.input"), "z"),
    (re.compile(r"(?:model\.)?(?:language_model\.)?layers\.(\d+)\.post_feedforward_layernorm\.output"), "mlp_out"),
)
"""Names of modules, where what passes there is a site in every model that has a module of the name."""


def site_of_hook(name: str | None) -> Site | None:
    """The site that a hook point is; None where it is none of ours, or may be another thing in another model.

    Args:
        name: As TransformerLens spells it, `blocks.3.hook_resid_post`, or a module's path with "output" or "input".
    Example:
        >>> site_of_hook("blocks.3.hook_resid_post"), site_of_hook("blocks.3.ln2.hook_normalized")
        (Site(name='resid_post', layer=3), None)
    """
    if not name:
        return None
    for pattern, site_name in _HUGGING_FACE:
        if match := pattern.fullmatch(name):
            return Site(site_name, int(match[1]))
    try:
        site = Site.parse(name)
    except PatchError:
        return None
    if site.is_raw:
        return None
    return site


def same_activation(first: Site, second: Site) -> bool:
    """Whether two sites always have the same activation: one, or the stream between two blocks."""
    return _stream(first) == _stream(second)


def _stream(site: Site) -> Site:
    if site.name == "resid_pre" and site.layer:
        return Site("resid_post", site.layer - 1)
    if site == Site("embed"):
        return Site("resid_pre", 0)
    return site
