"""Prompts of unequal length on a real model: the name's position restores the answer, wherever it stands."""

import mlx.core as mx
import pytest

from mlx_patch import Replace, align, pos, sweep
from mlx_patch.metrics import LogitDiff

CLEAN = "When John and Mary went to the shops, John gave a bottle of milk to"
LONGER = "Last night, when John and Mary went to the old shops, Mary gave a bottle of milk to"

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def prompts(smollm2):
    return smollm2.tokenize(CLEAN), smollm2.tokenize(LONGER)


def test_a_clean_run_of_another_length_restores_the_answer(smollm2, prompts):
    clean, longer = prompts
    assert clean.shape != longer.shape
    metric = LogitDiff(" Mary", " John")
    alignment = align(clean, longer, smollm2.tokenizer)
    logits, cache = smollm2.run_with_cache(clean, "resid_post", logits_at=-1)
    giver = pos.text("Mary gave").first
    result = sweep(
        smollm2,
        longer,
        Replace(cache, positions=alignment),
        "resid_post",
        ("layer", "pos"),
        metric,
        layers=[3, 27],
        positions=[giver, pos.last],
    )
    ended = metric.resolve(smollm2.tokenizer)(logits).item()
    share = (result.values[..., 0] - result.baseline[0]) / (ended - result.baseline[0])
    assert ended > 2
    assert result.baseline[0] < -2
    assert share[0, 0] > 0.7  # early, the name carries it
    assert abs(share[0, 1]) < 0.1
    assert abs(share[1, 0]) < 0.1
    assert share[1, 1] > 0.7  # late, the last position
    [at] = giver.resolve(longer, smollm2.tokenizer)
    [source] = pos.text("John gave").first.resolve(clean, smollm2.tokenizer)
    assert alignment.source_of(at) == source
    row = Replace(cache["resid_post", 3][:, source : source + 1]).at("resid_post", layer=3, pos=at)
    by_hand = metric.resolve(smollm2.tokenizer)(smollm2.run(longer, [row], logits_at=-1)).item()
    assert abs(result.values[0, 0, 0] - by_hand) < 1e-4


def test_turns_of_a_real_template(smollm2):
    chat = [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "Which planet is red?"},
        {"role": "assistant", "content": "Mars."},
        {"role": "user", "content": "And which has rings?"},
    ]
    tokens = smollm2.tokenize(chat)
    text = smollm2.tokenizer.decode(tokens[0].tolist())
    wanted = smollm2.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == wanted
    for number, message in enumerate(chat):
        chosen = pos.turn(number).resolve(tokens, smollm2.tokenizer)
        assert smollm2.tokenizer.decode(mx.take(tokens[0], mx.array(chosen)).tolist()) == message["content"]
    assert pos.role("system").resolve(tokens, smollm2.tokenizer) == pos.turn(0).resolve(tokens, smollm2.tokenizer)
