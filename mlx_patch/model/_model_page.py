"""What a notebook shows of a model: what it is, and its sites."""

from collections.abc import Iterable, Mapping
from html import escape

from mlx_patch._cachetext import ranges_text
from mlx_patch.plot import html_fragment, html_table
from mlx_patch.sites import SITES, Site


def model_page(heading: str, facts: Mapping[str, object], sites: Iterable[Site]) -> str:
    """A fragment of HTML: facts by name, and a row for each kind of site.

    Args:
        heading: The model in a line.
        facts: By name; those that are None or empty are left out.
        sites: The named sites of the model.
    """
    rows = [[name, str(value)] for name, value in facts.items() if value not in (None, "")]
    layers: dict[str, list[int]] = {}
    for site in sites:
        layers.setdefault(site.name, [])
        if site.layer is not None:
            layers[site.name].append(site.layer)
    site_rows = [
        [name, ranges_text(numbers), " ".join(SITES[name].axes), SITES[name].meaning]
        for name, numbers in layers.items()
    ]
    table = html_table(["site", "layers", "axes", "what it is"], site_rows)
    details = f"<details><summary>{len(layers)} kinds of sites</summary>{table}</details>"
    about = html_table(["model", ""], rows)
    return html_fragment(f"<p>{escape(heading)}</p>{about}{details}")
