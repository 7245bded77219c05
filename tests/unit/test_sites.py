import pytest

from mlx_patch.errors import KindError, SelectionError, UnknownNameError
from mlx_patch.sites import SITES, Site


def site_of(name: str, layer: int = 7) -> Site:
    return Site(name, layer if SITES[name].layered else None)


@pytest.mark.parametrize("name", SITES)
def test_every_site_reads_back_from_what_it_prints(name):
    site = site_of(name)
    assert Site.parse(str(site)) == site
    assert Site.parse(site) is site


@pytest.mark.parametrize("name", SITES)
def test_every_site_reads_back_from_its_short_form(name):
    site = site_of(name)
    short = name if site.layer is None else f"{name}.7"
    assert Site.parse(short) == site


@pytest.mark.parametrize("name", SITES)
def test_every_site_has_axes_that_begin_with_the_batch(name):
    assert site_of(name).axes[0] == "batch"
    assert "pos" in site_of(name).axes or "query_pos" in site_of(name).axes


def test_no_two_sites_print_alike():
    assert len({str(site_of(name)) for name in SITES}) == len(SITES)


@pytest.mark.parametrize(
    ("text", "raw"),
    [
        ("model.layers.3.mlp.gate_proj:output", ("model.layers.3.mlp.gate_proj", "output", None)),
        ("model.norm:input", ("model.norm", "input", None)),
        ("model.layers.0.self_attn.rope:output[1]", ("model.layers.0.self_attn.rope", "output", 1)),
    ],
)
def test_a_raw_path_says_path_side_and_call_and_has_no_axes(text, raw):
    site = Site.parse(text)
    assert site.is_raw
    assert site.raw == raw
    assert site.axes == ()
    assert str(site) == text


@pytest.mark.parametrize(
    ("text", "item", "call"),
    [
        ("model.layers.0.ffn_hc:output.0", 0, None),
        ("model.layers.0.ffn_hc:input.1[2]", 1, 2),
        ("model.norm:input", None, None),
    ],
)
def test_a_raw_path_says_which_part(text, item, call):
    site = Site.parse(text)
    assert site.item == item
    assert site.raw[2] == call
    assert str(site) == text


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(UnknownNameError, match=r"`name` must be a site\. Got 'resid_pots'\. Did you mean resid_po"):
        Site("resid_pots", 3)


def test_an_unknown_hook_gets_the_nearest_with_its_layer():
    with pytest.raises(UnknownNameError, match=r"Did you mean blocks\.4\.hook_resid_post"):
        Site.parse("blocks.4.hook_resid_pst")


def test_a_path_without_a_side_is_told_how_to_say_one():
    with pytest.raises(UnknownNameError, match="A raw module path ends in ':input' or ':output'"):
        Site.parse("model.layers.3.mlp")


@pytest.mark.parametrize("layer", [None, -1, True, 1.5])
def test_a_layered_site_needs_a_block_number(layer):
    with pytest.raises(SelectionError, match=r"`layer` of 'z' must be a block's number, from 0\. Got"):
        Site("z", layer)


@pytest.mark.parametrize("name", ["embed", "final_norm", "model.norm:input"])
def test_a_site_of_which_there_is_one_takes_no_layer(name):
    with pytest.raises(SelectionError, match=r"`layer` must be None for .* which the model has once\. Got 2\."):
        Site(name, 2)


def test_what_is_no_name_is_no_site():
    with pytest.raises(KindError, match=r"`site` must be a name or a Site\. Got 3\."):
        Site.parse(3)
