import mlx.core as mx
import mlx.nn as nn
import pytest

from mlx_patch import HookedModel, Site
from mlx_patch.architectures import FAMILIES
from mlx_patch.errors import ArchitectureError, KindError, TokenError
from mlx_patch.testing.zoo import CLASSICS


def test_a_wrapper_holds_the_model_itself(tiny):
    model = tiny()
    assert HookedModel(model.model).model is model.model
    assert model.tokenizer is None


@pytest.mark.parametrize("name", CLASSICS)
def test_a_model_says_its_size(tiny, tokens, name):
    model = tiny(name)
    assert (model.n_layers, model.d_model, model.d_vocab) == (3, 64, 96)
    assert model(tokens).shape == (1, 8, model.d_vocab)


def test_calling_a_model_is_lazy(tiny, tokens):
    assert tiny()(tokens).shape == (1, 8, 96)


def test_a_compiled_model_is_refused(tiny):
    compiled = mx.compile(lambda tokens: tiny().model(tokens))
    with pytest.raises(
        KindError, match=r"`model` must be an mlx\.nn\.Module\. Got .*Pass the model itself, not a compiled"
    ):
        HookedModel(compiled)


def test_the_pair_that_mlx_lm_loads_is_refused(tiny):
    with pytest.raises(KindError, match=r"Got tuple\. Pass the model itself, .* or the pair that mlx_lm\.load returns"):
        HookedModel((tiny().model, None))


def test_an_unknown_architecture_is_refused_with_what_there_is():
    with pytest.raises(
        ArchitectureError, match=r"must be of an architecture that has a table\. Got mlx\.nn\.layers\.linear"
    ):
        HookedModel(nn.Linear(2, 2))


def test_a_table_of_another_architecture_is_refused(tiny, tokens):
    gpt2 = next(family for family in FAMILIES if family.name == "gpt2")
    with pytest.raises(ArchitectureError, match="`family` must be a table of this architecture"):
        HookedModel(tiny("llama").model, family=gpt2).run_with_cache(tokens)


def test_a_table_may_be_given(tiny, tokens):
    llama = next(family for family in FAMILIES if family.name == "llama")
    given = HookedModel(tiny("qwen2").model, family=llama)
    assert mx.array_equal(given.run(tokens), tiny("qwen2").run(tokens)).item()
    assert repr(given) == "HookedModel(llama, 3 layers, d_model 64)"


def test_a_model_lists_its_sites_in_the_order_of_a_forward_pass(tiny):
    sites = tiny().sites
    assert sites[0] == Site("embed")
    assert sites[-1] == Site("final_norm")
    layers = [site.layer for site in sites[1:-1]]
    assert layers == sorted(layers)
    of_one = [site.name for site in sites if site.layer == 1]
    assert of_one.index("resid_pre") < of_one.index("z") < of_one.index("resid_mid") < of_one.index("resid_post")


def test_text_needs_a_tokenizer(tiny):
    with pytest.raises(TokenError, match=r"Pass one to HookedModel\(model, tokenizer\), or pass token ids"):
        tiny().tokenize("hi")


def test_text_is_tokenised_by_the_models_tokenizer(tiny, word_tokenizer):
    assert HookedModel(tiny().model, word_tokenizer).tokenize("w11 w48").tolist() == [[11, 48]]


def test_a_model_says_what_it_is(tiny):
    assert repr(tiny()) == "HookedModel(llama, 3 layers, d_model 64)"
    named = HookedModel(tiny().model, name="some/where")
    assert repr(named) == "HookedModel(some/where: llama, 3 layers, d_model 64)"
    assert named.identity["name"] == "some/where"


def test_a_model_verifies_itself(tiny):
    report = tiny().verify()
    assert report.ok, report
    assert "llama" in str(report)
