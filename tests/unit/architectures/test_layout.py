import mlx.core as mx
import mlx.nn as nn
import pytest

from mlx_patch import SITES, Site
from mlx_patch.architectures import FAMILIES, HasModule, Point, layout_of
from mlx_patch.errors import MissingSiteError, SelectionError
from mlx_patch.testing.zoo import CLASSICS


@pytest.fixture
def layout(tiny):
    return tiny("llama").layout


@pytest.mark.parametrize("name", CLASSICS)
def test_every_site_of_every_model_is_in_one_of_its_modules(tiny, name):
    layout = tiny(name).layout
    modules = {id(module) for module in layout.model.modules()}
    for site in layout.sites:
        assert id(layout.place(site).module) in modules
        assert layout.place(site).site == site


@pytest.mark.parametrize("name", CLASSICS)
def test_every_site_has_the_axes_of_the_vocabulary(tiny, tokens, name):
    model = tiny(name)
    sizes = {"batch": 1, "pos": 8, "query_pos": 8, "key_pos": 8, "d_model": 64}
    _, cache = model.run_with_cache(tokens, sites=model.sites)
    for site, array in cache.items():
        assert array.ndim == len(site.axes)
        for axis, size in zip(site.axes, array.shape, strict=True):
            assert sizes.get(axis, size) == size, f"{site}: {axis}"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: f"{family.name} {family.variant}")
def test_every_table_accounts_for_every_site(family):
    layered = {name for name, kind in SITES.items() if kind.layered}
    assert layered == family.block.keys() | family.absent.keys()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: f"{family.name} {family.variant}")
def test_every_reason_why_a_site_is_absent_reads_as_a_clause(family):
    assert all(reason[0].islower() and not reason.endswith(".") for reason in family.absent.values())


def test_layers_are_selected_from_either_end(layout):
    assert layout.select("z", (0, -1)) == (Site("z", 0), Site("z", 2))
    assert layout.select("z", None) == tuple(Site("z", layer) for layer in range(3))
    assert layout.select("embed", None) == (Site("embed"),)


@pytest.mark.parametrize("layer", [3, -4])
def test_a_layer_that_is_not_there_is_refused(layout, layer):
    with pytest.raises(SelectionError, match=rf"`layer` must lie in -3 to 2\. Got {layer}"):
        layout.select("z", (layer,))
    with pytest.raises(SelectionError, match=r"`layer` must lie in -3 to 2\. Got 9"):
        layout.place(Site("z", 9))


@pytest.mark.parametrize(
    ("name", "site", "reason"),
    [
        ("llama", "expert_weights", "llama has no 'expert_weights': its MLP has no experts"),
        ("gpt2", "rot_q", "gpt2 has no 'rot_q': its positions are learned"),
        ("gpt_neox-parallel", "resid_mid", "gpt_neox has no 'resid_mid': its attention and MLP run in parallel"),
        ("mixtral", "mlp_post", "mixtral has no 'mlp_post': its neurons belong to experts"),
    ],
)
def test_a_site_that_is_lacking_is_refused_with_the_reason(tiny, name, site, reason):
    """One that the architecture lacks."""
    layout = tiny(name).layout
    message = rf"{reason}.*\. It has: resid_pre, .*resid_post\."
    with pytest.raises(MissingSiteError, match=message):
        layout.select(site, None)
    with pytest.raises(MissingSiteError, match=message):
        layout.place(Site(site, 0))


def test_blocks_are_those_that_the_forward_pass_walks(tiny):
    layout = tiny("qwen2").layout
    assert all(block is own for block, own in zip(layout.blocks, layout.model.model.layers, strict=True))
    assert mx.array_equal(layout.blocks[0].self_attn.q_proj.weight, layout.model.layers[0].self_attn.q_proj.weight)


def test_a_layout_with_a_given_table_reads_by_it(tiny):
    family = next(family for family in FAMILIES if family.name == "granite")
    assert layout_of(tiny("llama").model, family).family is family


@pytest.mark.parametrize(
    ("given", "serves"),
    [
        (None, True),
        (HasModule("self_attn"), True),
        (HasModule("self_attn", class_name="Attention"), True),
        (HasModule("self_attn", class_name="Linear"), False),
        (HasModule("mixer"), False),
        (HasModule("self_attn.q_proj.weight"), False),
        (lambda block: isinstance(block.mlp, nn.Linear), False),
    ],
)
def test_a_point_serves_the_blocks_in_which_its_condition_holds(tiny, given, serves):
    """An array is no module."""
    assert Point("mlp", "output", given=given).serves(tiny("llama").layout.blocks[0]) is serves
