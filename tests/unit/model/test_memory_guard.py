"""What cannot fit into memory is refused before it is computed; whatever fits runs."""

import mlx.core as mx
import pytest

import mlx_patch as mp
from mlx_patch.errors import ValueRefusedError

METRIC = mp.metrics.LogitDiff(7, 30)


@pytest.fixture
def memory(monkeypatch):
    """Sets the bytes that the machine seems to have."""
    return lambda size: monkeypatch.setattr("mlx_patch.model._room._memory", lambda: size)


def test_a_batch_that_the_memory_cannot_hold_is_refused(tiny, memory):
    """A million prompts of 20 tokens, whose attention scores alone would fit, end the process of an unguarded run."""
    tokens, scores = mx.zeros((10**6, 20), mx.int32), 10**6 * 4 * 20 * 20 * 4
    memory(scores + 2**20)
    with pytest.raises(ValueRefusedError, match=r"Got 1000000 prompts of 20 positions, whose .* take \d+ GiB on a CPU"):
        tiny("llama").run(tokens)


def test_every_verb_is_guarded(tiny, memory):
    model, tokens = tiny("llama"), mx.zeros((64, 8), mx.int32)
    memory(64 * 8 * model.d_model * 4)
    for verb in (mp.sweep, mp.attribute):
        with pytest.raises(ValueRefusedError, match=r"`tokens` must leave memory for the run\."):
            verb(model, tokens, mp.Ablate("zero"), "resid_post", metric=METRIC, layers=[0])
    with pytest.raises(ValueRefusedError, match=r"`tokens` must leave memory for the run\."):
        mp.lens.logit_lens(model, tokens)


@pytest.mark.parametrize(("precision", "size"), [("float32", 4), ("bfloat16", 2)])
def test_what_is_taken_at_once_is_counted(tiny, memory, precision, size):
    """A layer's stream and neurons; scores, in float32; logits with captures: the largest of them, and not a "
    "byte more."""
    model, tokens = tiny("llama", precision), mx.zeros((64, 8), mx.int32)
    layer = 64 * 8 * (2 * model.d_model + model.model.args.intermediate_size)
    for sites, count in ((("embed",), 1), ("resid_post", 3), ("all", 20)):
        streams = sum(site.axes[-1] == "d_model" for site in model.run_with_cache(tokens[:1], sites)[1])
        end = 64 * 8 * (model.d_vocab + streams * model.d_model)
        assert streams >= min(count, model.n_layers)
        needed = max(layer * size, end * size, 64 * model.n_heads * 8 * 8 * 4)
        memory(needed)
        model.run_with_cache(tokens, sites)
        memory(needed - 1)
        with pytest.raises(ValueRefusedError, match="memory for the run"):
            model.run_with_cache(tokens, sites)
        memory(layer * size)
        assert model.run(tokens, logits_at=-1).shape == (64, 1, 96)
