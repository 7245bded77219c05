"""Edits during some steps of a generation, against loops over whole passes of the bare prompt so far."""

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache

from mlx_patch import Ablate, HookedModel, Scale, steps, sweep
from mlx_patch.errors import EditNotUsedError, KindError, ValueRefusedError
from mlx_patch.interventions import Moment

N = 8
EDIT = Scale(3.0).at("resid_post", layer=0)
CHOICES = {
    "prompt": (steps.prompt, lambda p: p < N),
    "generated": (steps.generated, lambda p: p >= N),
    "every": (steps.every(3), lambda p: p >= N and (p - N) % 3 == 0),
    "when": (steps.when(lambda now: now.position < 10), lambda p: p < 10),
    "both": (steps.generated & steps.when(lambda now: now.step != 2), lambda p: p >= N and p != N + 1),
}


def by_hand(model, tokens, acts, n):
    """Tokens and logits from whole passes, without a prompt cache, edited at the positions that act."""
    prompt, chosen, seen = tokens, [], []
    for _ in range(n):
        pos = [p for p in range(prompt.shape[1]) if acts(p)]
        edits = [Scale(3.0).at("resid_post", layer=0, pos=pos)] if pos else []
        seen.append(model.run(prompt, edits, logits_at=-1)[0, -1])
        chosen.append(int(mx.argmax(seen[-1]).item()))
        prompt = mx.concatenate([prompt, mx.array([[chosen[-1]]])], axis=1)
    return chosen, seen


@pytest.fixture
def llama(tiny, word_tokenizer):
    return HookedModel(tiny("llama").model, word_tokenizer)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "qwen3_next", "mamba"])
@pytest.mark.parametrize("choice", CHOICES)
def test_an_edit_acts_during_its_steps_alone(tiny, tokens, word_tokenizer, name, choice):
    model, (when, acts) = HookedModel(tiny(name).model, word_tokenizer), CHOICES[choice]
    wanted, logits = by_hand(model, tokens, acts, 6)
    responses = list(model.stream(tokens, [EDIT.during(when)], 6))
    assert [r.token for r in responses] == wanted[: len(responses)]
    assert len(responses) >= 4
    for response, row in zip(responses, logits, strict=False):
        assert mx.max(mx.abs(response.logprobs - (row - mx.logsumexp(row)))).item() < 1e-4


def test_the_choices_differ(llama, tokens):
    """So that each test above would fail with another choice."""
    ways = [by_hand(llama, tokens, acts, 6)[1][-1] for _, acts in CHOICES.values()]
    ways.append(by_hand(llama, tokens, lambda p: False, 6)[1][-1])
    gaps = [mx.max(mx.abs(a - b)).item() for n, a in enumerate(ways) for b in ways[:n]]
    assert min(gaps) > 1e-3


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("choice", CHOICES)
def test_a_prompt_read_in_chunks_is_one_prompt(llama, tokens, choice, size):
    when, acts = CHOICES[choice]
    wanted, _ = by_hand(llama, tokens, acts, 6)
    got = [r.token for r in llama.stream(tokens, [EDIT.during(when)], 6, prefill_step_size=size)]
    assert got == wanted[: len(got)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 2048])
def test_positions_are_absolute_in_chunks(llama, tokens, size):
    at = [2, 5, 6, 7, 9]
    wanted, _ = by_hand(llama, tokens, lambda p: p in at, 6)
    edit = Scale(3.0).at("resid_post", layer=0, pos=at)
    assert [r.token for r in llama.stream(tokens, [edit], 6, prefill_step_size=size)] == wanted
    assert wanted != [r.token for r in llama.stream(tokens, (), 6)]


def test_positions_and_steps_go_together(llama, tokens):
    wanted, _ = by_hand(llama, tokens, lambda p: p in (8, 9), 6)
    edit = Scale(3.0).at("resid_post", layer=0, pos=slice(3, 10)).during(steps.generated)
    assert [r.token for r in llama.stream(tokens, [edit], 6)] == wanted


def test_the_function_is_asked_once_a_pass_and_sees_the_tokens(llama, tokens):
    asked = []

    def always(moment):
        asked.append((moment.step, moment.position, moment.tokens))
        return True

    edits = [EDIT.during(steps.when(always)), Scale(1.0).at("z").during(steps.when(always))]
    written = [r.token for r in llama.stream(tokens, edits, 4, prefill_step_size=5)]
    ids = tokens[0].tolist()
    lengths = [(0, 5), (0, 7), (0, 8), (1, 9), (2, 10), (3, 11), (4, 12)]
    assert asked == [(step, n - 1, tuple([*ids, *written][:n])) for step, n in lengths]


def test_the_prompt_of_a_second_call_is_its_own(llama, tokens):
    """With a prompt cache, `prompt` is what the call is given, and `generated` what it writes."""
    caches = make_prompt_cache(llama.model)
    llama.run(tokens[:, :5], prompt_cache=caches)
    wanted, _ = by_hand(llama, tokens, lambda p: 5 <= p < N, 5)
    got = [r.token for r in llama.stream(tokens[:, 5:], [EDIT.during(steps.prompt)], 5, prompt_cache=caches)]
    assert got == wanted


def test_twice_during_is_where_both_hold():
    assert EDIT.during(steps.generated).during(steps.every(2)) == EDIT.during(steps.generated & steps.every(2))


def test_steps_are_part_of_the_value():
    edit = EDIT.during(steps.every(2))
    assert edit == EDIT.during(steps.every(2))
    assert hash(edit) == hash(EDIT.during(steps.every(2)))
    assert edit not in (EDIT, EDIT.during(steps.every(3)), EDIT.during(steps.generated))
    assert repr(edit) == "Scale(3.0).at('resid_post', layer=0).during(steps.every(2))"
    assert repr(steps.prompt & steps.when(hot)) == "steps.prompt & steps.when(hot)"
    assert repr(EDIT) == "Scale(3.0).at('resid_post', layer=0)"


def hot(moment):
    return moment.step == 99


def test_a_condition_that_never_held_is_told(llama, tokens):
    with pytest.raises(EditNotUsedError, match="or none of its steps came"):
        llama.generate(tokens, [EDIT.during(steps.when(hot))], max_tokens=3)


def test_steps_outside_generation_are_refused(llama, tokens):
    edit, message = EDIT.during(steps.prompt), r"`edits` must not use `during` .*`model\.generate`, `model\.stream`"
    with pytest.raises(KindError, match=message):
        llama.run(tokens, [edit])
    with pytest.raises(KindError, match=message):
        llama.run_with_cache(tokens, edits=[edit])
    with pytest.raises(KindError, match=message):
        llama.run_each([tokens], [edit])
    with pytest.raises(KindError, match=message), llama.editing(edit):
        pass
    with pytest.raises(KindError, match=message):
        sweep(llama, tokens, over=[edit, EDIT], metric=lambda logits: logits[:, -1, 0])


def test_a_condition_must_answer(llama, tokens):
    with pytest.raises(KindError, match=r"`when` must be a function that returns True or False\. Got None"):
        llama.generate(tokens, [EDIT.during(steps.when(lambda now: None))], max_tokens=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [0, -1, True, 1.5])
def test_every_takes_whole_numbers(n):
    with pytest.raises(ValueRefusedError, match=r"`n` must be (a whole number|1 or more)\. Got "):
        steps.every(n)


def test_what_is_no_choice_of_steps_is_refused():
    with pytest.raises(KindError, match=r"`steps` must be a choice of steps\. Got 'prompt'"):
        Ablate("zero").at("z").during("prompt")  # type: ignore[arg-type]
    with pytest.raises(KindError, match="`&` must join two choices of steps"):
        steps.prompt & 3  # type: ignore[operator]
    with pytest.raises(KindError, match="`fn` must be a function of a Moment"):
        steps.when(3)  # type: ignore[arg-type]


def test_a_moment_is_plain():
    assert Moment(1, 8) == Moment(step=1, position=8)
    assert repr(Moment(1, 8)) == "Moment(step=1, position=8)"
