"""SmolLM2 writes with edits what it should: mlx_lm's own text, or the text that a loop of whole passes gives."""

import mlx.core as mx
import mlx_lm
import pytest
from mlx_lm.sample_utils import make_sampler

from mlx_patch import Scale, steps

pytestmark = pytest.mark.real
PROMPT = "The Rhine, the Danube and the Volga are"


@pytest.fixture(scope="module")
def prompt(smollm2):
    return smollm2.tokenize(PROMPT)


@pytest.mark.parametrize("temp", [0.0, 0.8])
def test_a_text_under_an_edit_that_changes_nothing_is_mlx_lms(smollm2, prompt, temp):
    runs = (
        lambda how: mlx_lm.stream_generate(smollm2.model, smollm2.tokenizer, prompt[0].tolist(), 16, **how),
        lambda how: smollm2.stream(prompt, [Scale(1.0).at("resid_post")], 16, **how),
    )
    texts = []
    for run in runs:
        mx.random.seed(1)
        texts.append([r.token for r in run({"sampler": make_sampler(temp, top_p=0.9)})])
    assert texts[0] == texts[1]
    assert len(texts[0]) == 16


def test_generated_tokens_alone_are_edited(smollm2, prompt):
    """Against whole passes; the first token is the unpatched model's."""
    n, text, wanted = prompt.shape[1], prompt, []
    edit = Scale(0.0).at("mlp_out", layer=range(4, 16))
    for _ in range(5):
        more = [Scale(0.0).at("mlp_out", layer=range(4, 16), pos=slice(n, None))] if text.shape[1] > n else []
        wanted.append(int(mx.argmax(smollm2.run(text, more, logits_at=-1)).item()))
        text = mx.concatenate([text, mx.array([wanted[-1:]])], axis=1)
    assert [r.token for r in smollm2.stream(prompt, [edit.during(steps.generated)], 5)] == wanted
    plain = [r.token for r in smollm2.stream(prompt, (), 5)]
    assert plain[0] == wanted[0]
    assert plain != wanted


def test_captures_of_a_generation_are_those_of_the_whole_text(smollm2, prompt):
    _, cache = smollm2.generate_with_cache(prompt, "resid_post", max_tokens=4, pos="generated", prefill_step_size=4)
    _, whole = smollm2.run_with_cache(cache.tokens, "resid_post", pos=slice(prompt.shape[1], None))
    assert cache.positions == whole.positions
    for site in whole:
        assert mx.max(mx.abs(cache[site] - whole[site])).item() < 1e-4 * mx.max(mx.abs(whole[site])).item()
