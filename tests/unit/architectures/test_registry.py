"""Which table a model is read with: its own module's, a base class's, an installed package's."""

import sys

import mlx.nn as nn
import pytest
from mlx_lm.models import llama

from mlx_patch import HookedModel
from mlx_patch.architectures import FAMILIES, _registry, family_of, tables
from mlx_patch.errors import ArchitectureError
from mlx_patch.testing import tiny_model
from mlx_patch.testing.zoo import CLASSICS

PLUGIN = """
import mlx.core as mx
import mlx.nn as nn
from mlx_patch.architectures import Family, Point

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = nn.Linear(4, 4)

    def __call__(self, x):
        return x + self.mlp(x)

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.blocks, self.norm, self.width = nn.Embedding(9, 4), [Block(), Block()], nn.RMSNorm(4), 4
        self.vocabulary = 9

    def __call__(self, tokens, cache=None):
        x = self.wte(tokens)
        for block in self.blocks:
            x = block(x)
        return self.wte.as_linear(self.norm(x))

FAMILY = Family(
    "a_family_of_my_own",
    {"resid_pre": Point("", "input"), "resid_post": Point("", "output"), "mlp_out": Point("mlp", "output")},
    blocks="blocks", final_norm="norm", width="width", vocabulary="vocabulary",
)
"""


def install(folder, monkeypatch, what):
    """A package that publishes a table, as the folder of packages sees it."""
    (folder / "a_family_of_my_own.py").write_text(PLUGIN)
    about = folder / "a_family_of_my_own-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: a-family-of-my-own\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[mlx_patch.architectures]\nmine = {what}\n")
    monkeypatch.syspath_prepend(str(folder))
    _registry._families.cache_clear()


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """An installed package that publishes a table."""
    install(tmp_path, monkeypatch, "a_family_of_my_own:FAMILY")
    import a_family_of_my_own

    yield a_family_of_my_own
    del sys.modules["a_family_of_my_own"]
    _registry._families.cache_clear()


def test_an_installed_table_is_found(plugin):
    model = HookedModel(plugin.Model())
    assert model.layout.family is plugin.FAMILY
    assert (model.n_layers, model.d_model, model.d_vocab) == (2, 4, 9)
    logits, cache = model.run_with_cache([[1, 2, 3]], sites=("resid_post", "mlp_out"))
    assert cache["mlp_out", 1].shape == (1, 3, 4)
    assert logits.shape == (1, 3, 9)


def test_an_installed_table_leaves_the_others(plugin):
    assert family_of(tiny_model("llama")).name == "llama"


@pytest.mark.parametrize("name", CLASSICS)
def test_a_model_is_read_with_the_table_of_its_module(tiny, name):
    family = family_of(tiny(name).model)
    assert family.name == CLASSICS[name][0]
    assert family in FAMILIES


def test_a_module_with_two_tables_is_told_apart_by_its_config(tiny):
    parallel, sequential = (family_of(tiny(f"gpt_neox-{kind}").model) for kind in ("parallel", "sequential"))
    assert parallel is not sequential
    assert "resid_mid" in parallel.absent
    assert "resid_mid" in sequential.block


def test_a_class_of_ones_own_is_read_as_what_it_derives_from():
    class Mine(llama.Model):
        """A llama with another name."""

    model = tiny_model("llama")
    assert family_of(Mine(model.args)).name == "llama"


def test_a_missing_table_is_refused_with_the_remedy():
    """Where an architecture has none."""
    message = (
        r"`model` must be of an architecture that has a table\. Got mlx\.nn\.layers\.linear\. There are tables for "
        r"Klear, afm7, .*gemma2, .*qwen3.*youtu_llm\. Publish one .* entry point of group 'mlx_patch\.architectures'"
    )
    with pytest.raises(ArchitectureError, match=message):
        family_of(nn.Linear(2, 2))


def test_a_table_is_registered_by_its_file(tmp_path, monkeypatch):
    (tmp_path / "a_table_of_mine.py").write_text(
        "from mlx_patch.architectures.tables.llama import LLAMA\n"
        "from mlx_patch.architectures import Family\n"
        "MINE = Family('a_table_of_mine', LLAMA.block)\n"
        "_HALF = Family('half', LLAMA.block)\n"
    )
    monkeypatch.setattr(tables, "__path__", [*tables.__path__, str(tmp_path)])
    assert [family.name for family in tables.families_in([str(tmp_path)]) if family not in FAMILIES] == [
        "a_table_of_mine"
    ]


def test_no_two_tables_serve_one_model(tiny):
    for name, (module, _) in CLASSICS.items():
        model = tiny(name).model
        assert sum(module in family.modules and family.applies(model) for family in FAMILIES) == 1


@pytest.mark.parametrize(
    ("what", "got"),
    [("no_such_module:FAMILY", "No module named"), ("a_family_of_my_own:NOTHING", "NOTHING"), ("math:pi", "a float")],
)
def test_an_installed_table_that_cannot_be_used_is_named(tmp_path, monkeypatch, what, got):
    install(tmp_path, monkeypatch, what)
    model = tiny_model("llama")
    with pytest.raises(ArchitectureError, match=rf"must give a Family.*{got}.*Fix or uninstall a-family-of-my-own"):
        family_of(model)
    _registry._families.cache_clear()
