"""`mlx_patch sites`: the sites that a model has."""

import argparse
from typing import Any

from mlx_patch.cli._model import add_model, chosen_model
from mlx_patch.cli._output import add_output, output_of
from mlx_patch.cli._verb import Verb
from mlx_patch.files import Format
from mlx_patch.model import HookedModel
from mlx_patch.results import json_text
from mlx_patch.sites import SITES

SITES_FORMAT = Format("mlx_patch.sites.json", 1)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_output(parser)


def _run(options: argparse.Namespace) -> int:
    output = output_of(options)
    model = chosen_model(options)
    sites = [{"site": str(site), "name": site.name, "layer": site.layer, "axes": site.axes} for site in model.sites]
    absent = {name: model.layout.why_not(name) for name in SITES if not _layers(model, name)}
    fields: dict[str, Any] = {"model": model.identity, "n_layers": model.n_layers, "d_model": model.d_model}
    output.write_json(json_text({**SITES_FORMAT.entry, **fields, "sites": sites, "absent": absent}))
    output.print(f"{model!r}\n\n{site_table(model)}")
    return 0


def site_table(model: HookedModel) -> str:
    """A table of the sites: the layers that have each, or the reason why none has."""
    rows = [f"{'site':<16}{'layers':<12}meaning, or why it is not there"]
    for name in SITES:
        rows.append(f"{name:<16}{_format_layers(model, name):<12}{_meaning(model, name)}")
    return "\n".join(rows)


def _format_layers(model: HookedModel, name: str) -> str:
    layers = _layers(model, name)
    if not layers:
        return "none"
    if layers == [None]:
        return "-"
    if len(layers) == model.n_layers:
        return "all"
    return f"{len(layers)} of {model.n_layers}"


def _meaning(model: HookedModel, name: str) -> str:
    if _layers(model, name):
        return SITES[name].meaning
    return model.layout.why_not(name)


def _layers(model: HookedModel, name: str) -> list[int | None]:
    return [site.layer for site in model.sites if site.name == name]


SITES_OF_MODEL = Verb(
    name="sites",
    help="list the sites that a model has, and why it lacks the others",
    description="List the sites that a model has: where its activations can be read and edited.",
    example="mlx_patch sites MODEL",
    add_arguments=_add_arguments,
    run=_run,
)
