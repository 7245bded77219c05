"""Answers of several tokens and what SmolLM2 writes: against mlx_lm's own forward pass and its own generation."""

import re

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp

pytestmark = pytest.mark.real

PROMPT = "The first man on the Moon was"
RIGHT, WRONG = " Neil Armstrong", " Buzz Aldrin"
LAYERS = [20]


def log_prob(model, answer, edits=()):
    """From mlx_lm's own logits of prompt and answer, gathered position by position."""
    prompt = model.tokenize(PROMPT)
    ids = model.tokenizer.encode(answer, add_special_tokens=False)
    whole = mx.concatenate([prompt, mx.array([ids])], axis=1)
    with model.editing(*edits):
        logits = model.model(whole)[0]
    rows = logits[prompt.shape[1] - 1 : -1]
    assert len(ids) > 1
    return sum((row[token] - mx.logsumexp(row)).item() for row, token in zip(rows, ids, strict=True))


def test_a_name_of_several_tokens_is_the_sum_of_its_tokens(smollm2):
    right, wrong = log_prob(smollm2, RIGHT), log_prob(smollm2, WRONG)
    last = smollm2.tokenize(PROMPT).shape[1] - 1
    metrics = [
        mp.metrics.SequenceLogProb(RIGHT),
        mp.metrics.SequenceLogitDiff(RIGHT, WRONG),
        mp.metrics.StartsWith(RIGHT),
        mp.metrics.LogProb(" Neil"),
    ]
    ask = {"at": "resid_post", "over": ("layer", "pos"), "layers": LAYERS, "positions": [1, -1]}
    got = mp.sweep(smollm2, PROMPT, mp.Scale(0.5), metric=metrics, **ask)
    np.testing.assert_allclose(got.baseline[:3, 0], [right, right - wrong, np.exp(right)], rtol=1e-3, atol=1e-4)
    assert got.baseline[1, 0] > 0
    assert got.baseline[0, 0] < got.baseline[3, 0]
    assert got.provenance["token_layers"] == got.plan.token_layers == got.plan.minimum
    for i, layer in enumerate(LAYERS):
        for j, pos in enumerate((1, last)):
            edit = mp.Scale(0.5).at("resid_post", layer=layer, pos=pos)
            values = [log_prob(smollm2, answer, [edit]) for answer in (RIGHT, WRONG)]
            expected = [values[0], values[0] - values[1], np.exp(values[0])]
            np.testing.assert_allclose(got.values[i, j, :3, 0], expected, rtol=1e-3, atol=1e-3)
    assert abs(got.values - got.baseline).max() > 0.1


def test_what_it_writes_is_what_mlx_lm_generates(smollm2):
    last = smollm2.tokenize(PROMPT).shape[1] - 1
    edits = [mp.Scale(scale).at("resid_post", layer=layer, pos=last) for layer, scale in ((28, 0.02), (28, 1.0))]
    texts = [smollm2.generate(PROMPT, [edit], max_tokens=4) for edit in edits]
    assert len(set(texts)) > 1
    pattern = re.escape(texts[1].strip())
    got = mp.sweep(smollm2, PROMPT, over=edits, metric=mp.metrics.GenerateMatches(pattern, max_tokens=4))
    assert got.values[:, 0].tolist() == [float(re.search(pattern, text) is not None) for text in texts] == [0, 1]
