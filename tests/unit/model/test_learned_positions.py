"""A table of learned positions ends: what goes beyond it is refused, wherever it comes from."""

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models.cache import make_prompt_cache

from mlx_patch import Ablate, HookedModel, Scale, measure, metrics, sweep
from mlx_patch.architectures import BLOCK_ENDS, Family, family_of
from mlx_patch.errors import ValueRefusedError
from mlx_patch.metrics import GenerateMatches, SequenceLogProb
from mlx_patch.model import learned_positions
from mlx_patch.testing import EXCEPTIONS, ZOO, tiny_model

LEARNED = ("gpt2", "gpt_bigcode", "gpt_bigcode-many")
FULL = mx.arange(128)[None] % 96
LONG = mx.arange(129)[None] % 96
REFUSED = r"`tokens` must stay within the 128 positions that the model has learned\. Got 129 in total\. Shorten"
DIFFERENCE = metrics.LogitDiff(3, 4)


@pytest.fixture(params=LEARNED[:2])
def model(request, word_tokenizer):
    return HookedModel(tiny_model(request.param), word_tokenizer)


def filled(model, positions):
    """A prompt cache that holds so many."""
    cache = make_prompt_cache(model.model)
    model.run(FULL[:, :positions], prompt_cache=cache)
    return cache


@pytest.mark.parametrize(
    "way",
    [
        lambda model: model.run(LONG),
        lambda model: model(LONG),
        lambda model: model.run(LONG, [Scale(2.0).at("z")]),
        lambda model: model.run_with_cache(LONG),
        lambda model: model.run_each([[1, 2], LONG[0].tolist()]),
        lambda model: sweep(model, LONG, Ablate("zero"), at="z", over="layer", metric=DIFFERENCE),
        lambda model: sweep(model, [[1, 2], LONG[0].tolist()], Ablate("zero"), at="z", over="layer", metric=DIFFERENCE),
        lambda model: measure(model, LONG, DIFFERENCE),
    ],
)
def test_a_prompt_past_the_table_is_refused(model, way):
    with pytest.raises(ValueRefusedError, match=REFUSED):
        way(model)


def test_a_prompt_that_fills_the_table_runs(model):
    assert mx.array_equal(model.run(FULL), model(FULL)).item()


def test_what_a_prompt_cache_holds_counts(model):
    cache = filled(model, 126)
    for way in (model.run, lambda tokens, prompt_cache: model(tokens, cache=prompt_cache)):
        with pytest.raises(ValueRefusedError, match=REFUSED):
            way(FULL[:, :3], prompt_cache=cache)
    assert cache[0].offset == 126
    model.run(FULL[:, :2], prompt_cache=cache)


def test_other_code_in_an_editing_block_is_refused(model):
    """It leaves the model as it was."""
    plain, cache = model.run(FULL), filled(model, 128)
    with model.editing(Scale(2.0).at("z")):
        model.model(FULL)
        for way in (lambda: model.model(LONG), lambda: model.model(FULL[:, :1], cache=cache)):
            with pytest.raises(ValueRefusedError, match=REFUSED):
                way()
    assert mx.array_equal(model.run(FULL), plain).item()


@pytest.mark.parametrize("way", ["generate", "generate_with_cache", "stream"])
def test_a_text_that_would_go_past_the_table_is_refused(model, way):
    """Before it begins."""
    begin = getattr(model, way)
    with pytest.raises(ValueRefusedError, match=r"`max_tokens` must be 8 or fewer: .* prompt takes 120\. Got 9\."):
        begin(FULL[:, :120], max_tokens=9)
    with pytest.raises(ValueRefusedError, match=r"`max_tokens` must be 8 or fewer: .*Got -1\."):
        begin(FULL[:, :120], max_tokens=-1)
    with pytest.raises(ValueRefusedError, match=r"`max_tokens` must be 4 or fewer: .* prompt takes 124"):
        begin(FULL[:, :4], max_tokens=5, prompt_cache=filled(model, 120))
    with pytest.raises(ValueRefusedError, match=r"`prompt` must stay within the 128 positions .* room for a token"):
        begin(FULL, max_tokens=1)


def test_a_text_that_fills_the_table_is_generated(model):
    assert model.generate(FULL[:, :120], max_tokens=8)


def test_metrics_that_write_or_go_on_are_refused_past_the_table(model):
    writes = GenerateMatches("w01", max_tokens=10)
    cells = {"at": "z", "over": "layer"}
    for way in (measure, lambda *given: sweep(given[0], given[1], Ablate("zero"), metric=given[2], **cells)):
        with pytest.raises(ValueRefusedError, match=r"`tokens` must stay within the 128 .* Got 129 in total"):
            way(model, FULL[:, :120], writes)
    with pytest.raises(
        ValueRefusedError, match=r"`metric` must stay within the 128 .* Got 129 in total\. Measure less"
    ):
        sweep(model, FULL, Ablate("zero"), metric=SequenceLogProb([5, 6]), **cells)


@pytest.mark.parametrize("precision", ["4bit", "bfloat16"])
def test_the_table_is_known_in_every_precision(precision):
    with pytest.raises(ValueRefusedError, match=REFUSED):
        HookedModel(tiny_model("gpt2", precision)).run(LONG)


def test_tables_name_every_embedding_that_is_given_positions():
    """What short runs of the whole zoo show."""
    found, named = {}, {}
    for name in ZOO.keys() - EXCEPTIONS.keys():
        model = tiny_model(name)
        if positions := learned_positions(model):
            found[name] = positions
        if family_of(model).positions:
            named[name] = HookedModel(model).layout.n_positions
    assert found == named == dict.fromkeys(LEARNED, 128)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = nn.Linear(8, 8)

    def __call__(self, x):
        return x + mx.cumsum(self.mlp(x), axis=1)


class Offset(nn.Module):
    """A model whose positions begin at the third row of their table, as OPT's do."""

    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(16, 8), nn.Embedding(22, 8)
        self.blocks, self.norm = [Block(), Block()], nn.RMSNorm(8)

    def __call__(self, tokens):
        x = self.tokens(tokens) + self.places(mx.arange(tokens.shape[1]) + 2)
        for block in self.blocks:
            x = block(x)
        return self.tokens.as_linear(self.norm(x))


@pytest.mark.parametrize(
    "family", [None, Family("mine", BLOCK_ENDS, blocks="blocks", final_norm="norm", width=8, vocabulary=16)]
)
def test_the_table_of_a_model_of_ones_own_is_found(family):
    model = HookedModel(Offset(), family=family)
    assert model.layout.n_positions == 20
    model.run(mx.zeros((1, 20), dtype=mx.int32))
    with pytest.raises(ValueRefusedError, match=r"within the 20 positions .* Got 21"):
        model.run(mx.zeros((1, 21), dtype=mx.int32))
