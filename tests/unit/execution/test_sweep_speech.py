"""Sweeps in which the model writes are stopped, kept and gone on with as others are."""

import copy
import re

import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.errors import FileError
from mlx_patch.execution.measurements import _generated_text
from mlx_patch.metrics import GenerateMatches, LogProb, SequenceLogProb

pytestmark = pytest.mark.slow


PROMPTS = ["Mars (planet", "Mars (planet 4, dia"]
RULE = GenerateMatches(r"\d", max_tokens=3)


@pytest.fixture(scope="module")
def embedded():
    return mp.HookedModel.load("examples/models/tiny_instruct_ext")


def stopping_after(cells):
    """A progress function that is Ctrl-C when so many cells are done."""

    def told(done, total):
        if done >= cells:
            raise KeyboardInterrupt

    return told


@pytest.fixture
def sweep(embedded):
    def sweep(metric=RULE, **more):
        return mp.sweep(embedded, PROMPTS, mp.Scale(-1.0), "mlp_out", "layer", metric, layers=range(4), **more)

    return sweep


@pytest.fixture
def whole(sweep):
    result = sweep()
    assert len(np.unique(result.values)) == 2
    return result


def test_ctrl_c_keeps_what_was_written(sweep, whole):
    part = sweep(progress=stopping_after(3))
    done = ~np.isnan(part.values)
    assert 0 < done.sum() < done.size
    np.testing.assert_array_equal(part.values[done], whole.values[done])


def test_a_stopped_sweep_goes_on_and_writes_nothing_twice(sweep, whole, tmp_path, monkeypatch):
    path, texts, match_rates = tmp_path / "night.npz", [], _generated_text.match_rates
    sweep(progress=stopping_after(3), checkpoint=path)
    monkeypatch.setattr(_generated_text, "match_rates", lambda *given: texts.append(given) or match_rates(*given))
    again = sweep(checkpoint=path)
    assert len(texts) < 2 * (4 + 1)  # two prompts, four layers and the unpatched run
    np.testing.assert_array_equal(again.values, whole.values)
    np.testing.assert_array_equal(again.baseline, whole.baseline)
    assert again.provenance["token_layers"] == whole.provenance["token_layers"]
    texts.clear()
    sweep(checkpoint=path)
    assert not texts
    with pytest.raises(FileError, match="which has another metric"):
        sweep(GenerateMatches(r"\d", max_tokens=4), checkpoint=path)


@pytest.mark.parametrize("cells", [1, 5])
def test_ctrl_c_keeps_what_other_metrics_measured(sweep, whole, cells):
    metrics = [LogProb(5), RULE, SequenceLogProb([5, 7])]
    every, part = sweep(metrics), sweep(metrics, progress=stopping_after(cells))
    np.testing.assert_array_equal(every.values[:, 1], whole.values)
    np.testing.assert_array_equal(part.values[:, [0, 2]], every.values[:, [0, 2]])
    assert np.isnan(part.values[:, 1]).any()


def test_ctrl_c_before_the_first_text_keeps_other_metrics(sweep, whole, monkeypatch):
    """What they measured."""

    def stopped(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(_generated_text, "match_rates", stopped)
    part = sweep([LogProb(5), RULE])
    assert np.isnan(part.values[:, 1]).all()
    assert np.isnan(part.baseline[1]).all()
    assert not np.isnan(part.values[:, 0]).any()
    with pytest.raises(KeyboardInterrupt):
        sweep()


def test_ctrl_c_in_other_metrics_writes_nothing(sweep, embedded, monkeypatch):
    calls = []

    def third(logits):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return logits[:, -1, 3]

    monkeypatch.setattr(_generated_text, "match_rates", lambda *given: pytest.fail("it wrote on"))
    part = sweep([third, RULE], executor="reference")
    assert np.isnan(part.values).any()
    assert not np.isnan(part.values[:, 0]).all()


def test_the_end_of_text_token_ends_a_text(embedded):
    """What comes behind it would match; each row of a batch ends by itself."""
    prompts = [embedded.tokenize(prompt)[0].tolist() for prompt in ("Mars (planet", "Venus (planet")]
    written = [r.token for r in embedded.stream(prompts[0], max_tokens=3)]
    ending = copy.copy(embedded.tokenizer)
    ending._eos_token_ids = {written[1]}
    model = mp.HookedModel(embedded.model, ending)
    first, third = (re.escape(embedded.tokenizer.decode([written[i]]).strip()) for i in (0, 2))
    assert first != third
    for pattern, plain, ended in ((f"{first}.*{third}", 1, 0), (f"{first}\\s*$", 0, 1)):
        metric = GenerateMatches(pattern, max_tokens=3)
        assert mp.measure(embedded, prompts[0], metric) == plain
        assert mp.measure(model, prompts[0], metric) == ended
    both = mp.measure(model, prompts, GenerateMatches(".", max_tokens=3))
    assert both.tolist() == [1, 1]


PATTERNS = (r"w[0-4]\d", r"w\d[0-4] w\d[5-9]", r"w[5-9]\d$")


@pytest.mark.parametrize("samples", [0, 3])
@pytest.mark.parametrize("name", ["llama", "gemma3_text", "mamba2", "jamba", "qwen3_next", "gemma3n", "llama-sliding"])
def test_cells_that_begin_late_write_what_whole_runs_give(tiny, word_tokenizer, name, samples):
    """Over KV, rotating and recurrent caches, for two prompts of one length and one of another."""
    model = mp.HookedModel(tiny(name).model, word_tokenizer)
    prompts = [[(11 + 37 * (i + 20 * row)) % 96 for i in range(9 + row // 2)] for row in range(3)]
    metrics = [GenerateMatches(pattern, max_tokens=4, samples=samples) for pattern in PATTERNS]
    over = [mp.Scale(-3.0).at("resid_post", layer=layer, pos=pos) for layer in (0, 1) for pos in (3, -1)]
    ask = {"over": over, "metric": metrics}
    fast, whole = (mp.sweep(model, prompts, executor=how, **ask) for how in ("auto", "reference"))
    np.testing.assert_array_equal(fast.values, whole.values)
    np.testing.assert_array_equal(fast.baseline, whole.baseline)
    assert len(np.unique(whole.values)) > 1
    spared = not model.layout.family.uncut
    assert (fast.provenance["token_layers"] < whole.provenance["token_layers"]) == spared


def test_a_cell_that_begins_late_runs_only_what_is_behind_it(embedded):
    """A pattern that nothing matches lets the model write to the end."""
    prompt, rule = "Mars (planet 4, diameter 6792km)", GenerateMatches("(?!)", max_tokens=5)
    ask = {"intervention": mp.Scale(0.5), "at": "mlp_out", "layers": [0, 1], "positions": [-3], "metric": rule}
    planned, got = mp.plan(embedded, prompt, **ask), mp.sweep(embedded, prompt, **ask)
    length, layers = embedded.tokenize(prompt).shape[1], embedded.n_layers
    assert [one.start for one in planned.passes] == [length - 3] * 2
    assert planned.token_layers == layers * (length + 2 * 3)
    assert planned.written == layers * (1 + 3 * 4)
    assert got.provenance["token_layers"] == planned.token_layers + planned.written
    both = [rule, LogProb(5)]
    ask |= {"metric": both}
    planned, got = mp.plan(embedded, prompt, **ask), mp.sweep(embedded, prompt, **ask)
    assert got.plan == planned
    assert got.provenance["token_layers"] == planned.token_layers + planned.written
