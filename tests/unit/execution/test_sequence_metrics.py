"""Answers of several tokens and what a model writes: against loops written by hand, alone and in every executor."""

import re

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.errors import KindError, SelectionError, ShapeError, TokenError, ValueRefusedError
from mlx_patch.execution.readouts import AnswerLogProb, in_prompt
from mlx_patch.metrics import GenerateMatches, LogitDiff, LogProb, SequenceLogitDiff, SequenceLogProb, StartsWith

PROMPTS = mx.array([[11, 48, 85, 26, 63], [3, 1, 4, 1, 5]])
OTHER = mx.array([[9, 8, 7, 6, 5]])
NAMES = ["llama", "gemma2", "gpt2", "gpt_oss", "qwen3_next", "mamba"]
METRICS = [
    SequenceLogProb([5, 7, 9]),
    SequenceLogitDiff([[1, 2], [3]], [4, 5, 6]),
    LogProb(3),
    StartsWith([(1, 2), (3,), (3, 4)]),
    LogProb(4, pos=2),
]


def log_prob(model, row, answer, edits=()):
    """By hand: one run an answer's token, each with one token more."""
    total, prompt = 0.0, PROMPTS[row].tolist()
    for i, token in enumerate(answer):
        logits = model.run([[*prompt, *answer[:i]]], edits)[0, -1]
        total += (logits[token] - mx.logsumexp(logits)).item()
    return total


def by_hand(model, edits=()):
    rows = []
    for row, right in enumerate([(1, 2), (3,)]):
        at_2 = model.run(PROMPTS[row : row + 1], edits)[0, 2]
        rows.append(
            [
                log_prob(model, row, (5, 7, 9), edits),
                log_prob(model, row, right, edits) - log_prob(model, row, (4, 5, 6), edits),
                log_prob(model, row, (3,), edits),
                np.exp(log_prob(model, row, (1, 2), edits)) + np.exp(log_prob(model, row, (3,), edits)),
                (at_2[4] - mx.logsumexp(at_2)).item(),
            ]
        )
    return np.array(rows).T


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["auto", "rows", "reference"])
@pytest.mark.parametrize("name", NAMES)
def test_an_answer_is_measured_token_by_token(tiny, name, executor):
    """Behind an edited prompt."""
    model = tiny(name)
    cache = model.run_with_cache(OTHER, "resid_post")[1]
    everywhere = tuple(range(5))
    over, places = ("layer", "pos"), [1, -1, everywhere]
    got = mp.sweep(model, PROMPTS, mp.Replace(cache), "resid_post", over, METRICS, positions=places, executor=executor)
    close = {"rtol": 2e-5, "atol": 2e-5}
    np.testing.assert_allclose(got.baseline, by_hand(model), **close)
    for i, pos in enumerate((1, 4, list(everywhere))):
        rows = cache["resid_post", 1] if i == 2 else cache["resid_post", 1][:, pos : pos + 1]
        edit = mp.Replace(rows).at("resid_post", layer=1, pos=pos)
        np.testing.assert_allclose(got.values[1, i], by_hand(model, [edit]), **close)
    assert got.axes == ("layer", "pos", "metric", "example")
    assert got.coords["metric"] == tuple(metric.name for metric in METRICS)
    assert got.provenance["token_layers"] == got.plan.token_layers
    assert got.provenance["tokens"] == PROMPTS.tolist()
    if executor == "auto" and got.plan.executor == "grow":
        assert got.plan.token_layers == got.plan.minimum
    np.testing.assert_allclose(mp.measure(model, PROMPTS, METRICS), got.baseline, **close)
    whole = mp.measure(model, PROMPTS, METRICS, [mp.Replace(cache).at("resid_post", layer=1)])
    np.testing.assert_allclose(whole, got.values[1, 2], **close)


def test_of_one_token_it_is_the_logit_difference_at_its_cost(tiny):
    """Where each answer is of one token."""
    model = tiny()
    both = [SequenceLogitDiff([3], [4]), LogitDiff(3, 4)]
    got = mp.sweep(model, PROMPTS, mp.Ablate("zero"), "mlp_out", "layer", both)
    np.testing.assert_allclose(got.values[:, 0], got.values[:, 1], atol=1e-5)
    one = mp.plan(model, PROMPTS, mp.Ablate("zero"), "mlp_out", "layer", LogProb(3))
    same = mp.plan(model, PROMPTS, mp.Ablate("zero"), "mlp_out", "layer", SequenceLogProb([3]))
    assert one.token_layers == same.token_layers


@pytest.mark.parametrize(
    "edit",
    [
        mp.Ablate("noise", scale=2.0).at("embed"),
        mp.Ablate("mean").at("mlp_out", layer=1),
        mp.Scale(0.5).at("pattern", layer=0, head=1),
        mp.Scale(0.0).at("z", layer=1, head=0, pos=-1),
        mp.Scale(0.0).at("mlp_out", layer=0, pos=mp.pos.last),
        mp.Scale(0.0).at("mlp_post", layer=0, pos=slice(1, None)),
    ],
    ids=repr,
)
@pytest.mark.parametrize("executor", ["auto", "reference"])
def test_edits_see_the_prompt_alone(tiny, edit, executor):
    """Whatever is behind a prompt, the prompt's own metrics are those of a run without it."""
    model = tiny()
    beside = mp.sweep(model, PROMPTS, over=[edit], metric=[LogProb(3), SequenceLogProb([5, 7, 9])], executor=executor)
    alone = mp.sweep(model, PROMPTS, over=[edit], metric=LogProb(3), executor="reference")
    np.testing.assert_allclose(beside.values[:, 0], alone.values, atol=1e-5)
    assert abs(alone.values - alone.baseline).max() > 1e-3


def test_a_source_of_as_many_rows_goes_row_by_row(tiny):
    model = tiny()
    cache = model.run_with_cache(PROMPTS[::-1], "resid_post")[1]
    metric = SequenceLogProb([[5, 7, 9], [1]])
    got = mp.sweep(model, PROMPTS, mp.Replace(cache), "resid_post", "layer", metric, positions=2)
    rows = cache["resid_post", 0][:, 2:3]
    for row, answer in enumerate([(5, 7, 9), (1,)]):
        edit = mp.Replace(rows[row : row + 1]).at("resid_post", layer=0, pos=2)
        assert abs(got.values[0, row] - log_prob(model, row, answer, [edit])) < 1e-4


def test_lists_of_prompts_and_aligned_sources(tiny):
    model = tiny()
    prompts = [PROMPTS[:1], mx.array([[3, 1, 4, 1, 5, 9, 2]])]
    alignment = mp.align(OTHER, prompts[1])
    cache = model.run_with_cache(OTHER, "resid_post")[1]
    both = [mp.Replace(cache), mp.Replace(cache, positions=alignment)]
    metric = SequenceLogProb([[5, 7], [9, 8, 7]])
    got = mp.sweep(model, prompts, both, "resid_post", "layer", metric, positions=-1)
    for i, answer in enumerate([[5, 7], [9, 8, 7]]):
        own = SequenceLogProb(answer)
        alone = mp.sweep(model, prompts[i], both[i], "resid_post", "layer", own, positions=-1, executor="reference")
        np.testing.assert_allclose(got.values[:, i], alone.values[:, 0], atol=2e-5)


def test_a_checkpoint_goes_on(tiny, tmp_path):
    model, arguments = tiny(), {"over": "layer", "metric": METRICS, "at": "mlp_out"}
    whole = mp.sweep(model, PROMPTS, mp.Ablate("zero"), **arguments)
    for _ in range(2):
        kept = mp.sweep(model, PROMPTS, mp.Ablate("zero"), **arguments, checkpoint=tmp_path / "c")
        np.testing.assert_array_equal(kept.values, whole.values)
    assert mp.SweepResult.load(_saved(kept, tmp_path)).values.shape == whole.values.shape


def _saved(result, folder):
    result.save(folder / "r.npz")
    return folder / "r.npz"


def test_a_pair_is_swept_with_answers_of_several_tokens(tiny):
    model, metric = tiny(), SequenceLogProb([5, 7])
    clean, corrupted = PROMPTS[:1], PROMPTS[1:]
    pair = mp.sweep_pair(model, clean, corrupted, "resid_post", over="layer", metric=metric)
    assert pair.denoising.values.shape == (model.n_layers, 1)
    assert abs(pair.denoising.values[0, 0]) < 50


@pytest.mark.parametrize("fault", ["a position early", "negative from the appended end"])
def test_seeded_faults_show(tiny, monkeypatch, fault):
    if fault == "a position early":
        right = AnswerLogProb.positions
        monkeypatch.setattr(AnswerLogProb, "positions", lambda self, n: tuple(pos - 1 for pos in right(self, n)))
    else:
        monkeypatch.setattr(
            "mlx_patch.execution.readouts._answer_runs.in_prompt", lambda edit, prompt: in_prompt(edit, prompt - 1)
        )
    model = tiny()
    edit = mp.Scale(0.0).at("resid_post", layer=0, pos=-1)
    try:
        got = mp.sweep(model, PROMPTS, over=[edit], metric=SequenceLogProb([5, 7]))
    except SelectionError:
        return
    assert abs(got.values[0, 0] - log_prob(model, 0, (5, 7), [mp.Scale(0.0).at("resid_post", layer=0, pos=4)])) > 1e-3


def test_texts_become_the_tokenizers_own_tokens(word_tokenizer):
    assert SequenceLogProb("w05 w07").resolve(word_tokenizer).slots == (((5, 7),),)
    assert SequenceLogProb(["w05 w07", "w03"]).resolve(word_tokenizer).slots == (((5, 7), (3,)),)
    assert StartsWith(["w05", "w05 w07"]).resolve(word_tokenizer).slots == (((5,),),)
    assert StartsWith("w05", variants=True).resolve(word_tokenizer).slots == (((5,),),)
    assert SequenceLogitDiff("w05 w07", "w03").name == "sequence_logit_diff('w05 w07', 'w03')"


REFUSED = {
    "on logits": (lambda m: SequenceLogProb([5])(mx.zeros((1, 2, 96))), KindError, "Use mp.measure"),
    "writing on logits": (
        lambda m: GenerateMatches("a")(mx.zeros((1, 2, 96))),
        KindError,
        "measured on generated text",
    ),
    "empty": (lambda m: SequenceLogProb(""), ValueRefusedError, "must hold a token. Got ''"),
    "empty list": (lambda m: SequenceLogProb([[]]), ValueRefusedError, "must hold a token. Got an empty list"),
    "no answer": (lambda m: SequenceLogProb(3.5), KindError, "must be a text, token ids, or a list of answers"),
    "mixed": (lambda m: SequenceLogProb([[1], 2]), KindError, "must be texts or token ids. Got 2"),
    "negative": (lambda m: SequenceLogProb([1, -2]), SelectionError, "must be token ids from 0. Got -2"),
    "the same": (lambda m: SequenceLogitDiff([1], [1]), ValueRefusedError, "must differ from `right`"),
    "no tokenizer": (lambda m: mp.measure(m, PROMPTS, SequenceLogProb("a")), TokenError, "`tokenizer` must be given"),
    "past the vocabulary": (lambda m: mp.measure(m, PROMPTS, SequenceLogProb([99])), SelectionError, "model's 96 tok"),
    "three for two": (
        lambda m: mp.measure(m, PROMPTS, SequenceLogProb([[1], [2], [3]])),
        ShapeError,
        "one answer for all examples, or one per example, 2. Got 3",
    ),
    "no expression": (lambda m: GenerateMatches("("), ValueRefusedError, "must be a regular expression. Got '\\('"),
    "no text": (lambda m: GenerateMatches(3), KindError, "`pattern` must be a text. Got 3"),
    "no tokens": (lambda m: GenerateMatches("a", max_tokens=0), ValueRefusedError, "must be 1 or more. Got 0"),
    "half a token": (lambda m: GenerateMatches("a", max_tokens=0.5), KindError, "must be a whole number. Got 0.5"),
    "cold": (lambda m: GenerateMatches("a", temperature=0), ValueRefusedError, "`temperature` must be above 0. Got 0"),
    "silent": (lambda m: mp.measure(m, PROMPTS, GenerateMatches("a")), KindError, "`tokenizer` must be given for gen"),
    "kept": (
        lambda m: mp.sweep(m, PROMPTS, mp.Scale(0.0), "z", metric=[GenerateMatches("a"), LogProb(3)], checkpoint="x"),
        KindError,
        "`checkpoint` must be left out if GenerateMatches",
    ),
    "swept in silence": (
        lambda m: mp.sweep(m, PROMPTS, mp.Scale(0.0), "z", metric=GenerateMatches("a")),
        KindError,
        "`tokenizer` must be given for gen",
    ),
    "twice": (
        lambda m: mp.sweep(m, PROMPTS, mp.Scale(0.0), "z", metric=[GenerateMatches("a"), GenerateMatches("a")]),
        ValueRefusedError,
        "metrics of different names",
    ),
    "among others": (
        lambda m: mp.measure(m, PROMPTS, [GenerateMatches("a"), LogProb(3)]),
        KindError,
        "must be one metric if it is GenerateMatches. Got 2",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_measured_is_refused(tiny, name):
    act, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        act(tiny())


# What a model writes


@pytest.fixture(scope="module")
def embedded():
    return mp.HookedModel.load("examples/models/tiny_instruct_ext")


def test_what_is_written_is_what_generation_gives(embedded):
    prompt = "Mars (planet"
    tokens = embedded.tokenize(prompt)
    edits = [mp.Scale(0.0).at("mlp_out", layer=layer, pos=slice(0, tokens.shape[1])) for layer in range(4)]
    plain, *texts = (embedded.generate(prompt, own, max_tokens=9) for own in [[], *[[edit] for edit in edits]])
    assert len({plain, *texts}) > 1
    for pattern in (r"\d", "diameter", "^ 4", "m$"):
        metric = GenerateMatches(pattern, max_tokens=9)
        got = mp.sweep(embedded, prompt, over=edits, metric=[LogProb(5), metric])
        assert got.values[:, 1, 0].tolist() == [float(re.search(pattern, text) is not None) for text in texts]
        assert got.baseline[1, 0] == float(re.search(pattern, plain) is not None)
        assert mp.measure(embedded, prompt, metric) == got.baseline[1]


@pytest.mark.parametrize("beside", [[], [LogProb(5), SequenceLogProb([5, 7])]])
def test_what_writing_costs_is_planned_and_counted(embedded, beside):
    """A pattern that nothing matches lets the model write to the end; one that anything does, one token."""
    prompt, longest = "Mars (planet", embedded.tokenize("Mars (planet").shape[1] + 4
    ask = {"intervention": mp.Scale(0.5), "at": "mlp_out", "layers": [0, 1]}
    never = [*beside, GenerateMatches("(?!)", max_tokens=5)]
    planned, got = mp.plan(embedded, prompt, metric=never, **ask), mp.sweep(embedded, prompt, metric=never, **ask)
    assert got.plan == planned
    assert got.provenance["token_layers"] == planned.token_layers + planned.written
    assert planned.written == 3 * embedded.n_layers * (longest if beside else 4)
    assert f"what the model writes: {planned.written:,} token-layers more at most" in str(planned)
    at_once = mp.sweep(embedded, prompt, metric=[*beside, GenerateMatches("", max_tokens=5)], **ask)
    assert at_once.provenance["token_layers"] == got.provenance["token_layers"] - 3 * embedded.n_layers * 4
    assert (got.values[..., -1, :] == 0).all() if beside else (got.values == 0).all()


def test_half_a_character_decides_nothing():
    assert not GenerateMatches(r"\W").decided("caf\ufffd")
    assert not GenerateMatches("a$").decided("a")
    assert GenerateMatches("a").decided("a")


def test_samples_give_a_rate_that_the_seed_decides(embedded):
    metric = GenerateMatches("[aeiou]", max_tokens=1, samples=12, temperature=8.0, seed=1)
    one, again = (mp.measure(embedded, "Mars (planet", metric) for _ in "ab")
    assert one == again
    assert 0 < one[0] < 1
    assert (one * 12 == np.round(one * 12)).all()
    with_axis = mp.sweep(embedded, ["Mars (planet", "Venus"], mp.Scale(0.0), "mlp_out", "layer", metric, layers=[0, 1])
    assert with_axis.axes == ("layer", "example")
    assert with_axis.values.shape == (2, 2)


def test_a_text_is_resolved_before_it_is_measured():
    with pytest.raises(
        TokenError, match=r"`answer` must be token ids when it is measured\. Got ' Mars'\. Use `metric\."
    ):
        _ = SequenceLogProb(" Mars").slots
