"""Training what interventions hold: gradients through runs are slopes, and a loop finds what the loss asks for.

Slopes are central differences `D(h) = (f(x + h u) - f(x - h u)) / 2h` along unit vectors u, with one step of
Richardson: `(4 D(h) - D(2h)) / 3`. Their error has two parts, and the tolerance is the sum of both:

* the step's: that of `D(h)` is about `|D(h) - D(2h)| / 3`, and Richardson's is smaller;
* rounding: each `f` is the difference of two logits. A sum of n products in another order differs by `sqrt(n) * eps` of
  the largest logit, and each block adds as much. In `(4 D(h) - D(2h)) / 3` four such `f` are weighted with
  `2/3h, 2/3h, 1/12h, 1/12h`: together 1.5 / h.
"""

from copy import deepcopy

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache

import mlx_patch as mp
from mlx_patch.errors import ValueRefusedError
from mlx_patch.testing import tiny_model

STEP = 0.05
WIDTH = 64  # of tiny llama's stream
METRIC = mp.metrics.LogitDiff(3, 7)
PROMPT = [[11, 48, 85, 26, 63, 4, 41, 78]]
BATCH = [*PROMPT, [5, 9, 63, 2, 17, 33, 8, 70]]


def drawn(*shape, seed=0):
    return mx.random.normal(shape, key=mx.random.key(seed))


def interchange(rows):
    """The exchange of a subspace with a source: `h + B^T B (s - h)`."""
    basis, source = mp.Project(rows).basis, drawn(WIDTH, seed=1)
    return mp.Apply(lambda own, site: own + (source - own) @ basis.T @ basis)


def gram_schmidt(rows):
    """The same by hand, where each row depends on those before."""
    basis = []
    for row in rows:
        rest = row
        for unit in basis:
            rest = rest - mx.sum(rest * unit) * unit
        basis.append(rest / mx.linalg.norm(rest))
    return mx.stack(basis)


TRAINED = {
    "vector": (drawn(WIDTH), mp.Add),
    "vector from zero": (mx.zeros(WIDTH), mp.Add),
    "scaled vector": (drawn(WIDTH), lambda vector: mp.Add(vector, scale=0.5)),
    "strength of a vector": (mx.array(0.7), lambda strength: mp.Add(drawn(WIDTH), scale=strength)),
    "factor": (mx.array(0.7), mp.Scale),
    "alpha": (mx.array(0.3), lambda alpha: mp.Interpolate(drawn(WIDTH), alpha)),
    "source": (drawn(WIDTH), mp.Replace),
    "source in part": (drawn(WIDTH), lambda source: mp.Interpolate(source, 0.5)),
    "direction taken out": (drawn(WIDTH), mp.Project),
    "directions kept": (drawn(3, WIDTH), lambda rows: mp.Project(rows, onto=True)),
    "subspace": (drawn(2, WIDTH), interchange),
    "chain": (drawn(WIDTH), lambda vector: mp.Add(vector) | mp.Scale(0.5) | mp.Project(vector + 1.0)),
}
"""Where training starts, and the intervention that holds it."""


def whole(model, intervention):
    return METRIC(model.run(PROMPT, [intervention.at("resid_post", layer=1)]))


def at_positions(model, intervention):
    return METRIC(model.run(PROMPT, [intervention.at("resid_pre", layer=1, pos=[1, 4])], logits_at=-1))


def at_a_selector(model, intervention):
    return METRIC(model.run(PROMPT, [intervention.at("mlp_out", layer=0, pos=mp.pos.token(63))]))


def of_a_batch(model, intervention):
    return METRIC(model.run(BATCH, [intervention.at("attn_out", layer=1, pos=-1)]))


def of_a_row(model, intervention):
    return METRIC(model.run(BATCH, [intervention.at("resid_mid", layer=1, batch=1)]))


def of_a_list(model, intervention):
    prompts = [PROMPT[0], PROMPT[0][:5], BATCH[1]]
    logits = model.run_each(prompts, [intervention.at("resid_post", layer=0, pos=-2)], logits_at=-1)
    return mx.concatenate([METRIC(each) for each in logits])


def over_a_prompt_cache(model, intervention):
    """The edits of the first part reach the second through the prompt cache."""
    prompt_cache = make_prompt_cache(model.model)
    model.run([PROMPT[0][:5]], [intervention.at("resid_post", layer=0, pos=[1, 4])], prompt_cache=prompt_cache)
    edit = intervention.at("resid_post", layer=1, pos=6)
    return METRIC(model.run([PROMPT[0][5:]], [edit], prompt_cache=prompt_cache))


def inside_editing(model, intervention):
    with model.editing(intervention.at("resid_post", layer=1)):
        return METRIC(model.model(mx.array(PROMPT)))


def of_an_activation(model, intervention):
    """A loss of what a run captured."""
    edit = intervention.at("resid_post", layer=0, pos=3)
    _, cache = model.run_with_cache(PROMPT, "resid_post", [edit])
    return cache["resid_post", 2][..., 0].sum()


RUNS = (
    whole,
    at_positions,
    at_a_selector,
    of_a_batch,
    of_a_row,
    of_a_list,
    over_a_prompt_cache,
    inside_editing,
    of_an_activation,
)


def rounding(model):
    """How far a loss of two logits is off: see the top of this file."""
    largest = mx.max(mx.abs(model.run(BATCH))).item()
    terms = model.model.args.intermediate_size
    return 2 * model.n_layers * terms**0.5 * float(mx.finfo(mx.float32).eps) * largest


def difference(loss, value, unit, step):
    return (float(loss(value + step * unit)) - float(loss(value - step * unit))) / (2 * step)


def assert_is_the_slope(loss, value, noise, examples=1):
    """Along the gradient, where the slope is steepest, and along a random vector."""
    gradient = mx.grad(loss)(value)
    assert gradient.shape == value.shape
    assert mx.any(gradient != 0).item()
    for toward in (gradient, drawn(*value.shape, seed=2)):
        unit = toward / mx.sqrt(mx.sum(toward * toward))
        near, far = (difference(loss, value, unit, step) for step in (STEP, 2 * STEP))
        slope = (4 * near - far) / 3
        tolerance = abs(near - far) / 3 + 1.5 * examples * noise / STEP
        assert abs(float(mx.sum(gradient * unit)) - slope) <= tolerance
        if toward is gradient:
            assert abs(slope) > 4 * tolerance  # so that neither 0 nor half of it would pass


@pytest.mark.parametrize("trained", TRAINED)
@pytest.mark.parametrize("precision", ["float32", "4bit"])
def test_the_gradient_is_the_slope(tiny, precision, trained):
    model, (start, intervention) = tiny("llama", precision), TRAINED[trained]
    loss = lambda value: whole(model, intervention(value)).sum()  # noqa: E731
    assert_is_the_slope(loss, start, rounding(model))


@pytest.mark.parametrize("trained", ["vector", "alpha", "direction taken out", "subspace"])
@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.__name__)
def test_it_is_the_slope_in_every_kind_of_run(tiny, run, trained):
    model, (start, intervention) = tiny(), TRAINED[trained]
    loss = lambda value: run(model, intervention(value)).sum()  # noqa: E731
    assert_is_the_slope(loss, start, rounding(model), examples=3)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.5])
def test_a_gradient_that_is_off_is_told(tiny, share):
    """A seeded fault: a share of the gradient is cut, or added."""
    model = tiny()

    def loss(vector):
        faulty = share * vector + (1.0 - share) * mx.stop_gradient(vector)
        return whole(model, mp.Add(faulty)).sum()

    with pytest.raises(AssertionError):
        assert_is_the_slope(loss, drawn(WIDTH), rounding(model))


def test_a_split_prompt_has_the_gradient_of_the_whole(tiny):
    """The vector acts in the part that the prompt cache holds, and reaches the logits through it.

    A unit step moves no logit by more than about 1 here, so an entry is as exact as the loss itself.
    """
    model = tiny()

    def split(vector):
        edit = mp.Add(vector).at("resid_post", layer=0, pos=2)
        prompt_cache = make_prompt_cache(model.model)
        model.run([PROMPT[0][:5]], [edit], prompt_cache=prompt_cache)
        return METRIC(model.run([PROMPT[0][5:]], prompt_cache=prompt_cache)).sum()

    def unsplit(vector):
        return METRIC(model.run(PROMPT, [mp.Add(vector).at("resid_post", layer=0, pos=2)])).sum()

    gradients = [np.array(mx.grad(loss)(drawn(WIDTH))) for loss in (split, unsplit)]
    np.testing.assert_allclose(*gradients, atol=rounding(model))
    assert np.abs(gradients[0]).max() > 100 * rounding(model)


def test_two_vectors_have_each_their_own_gradient(tiny):
    def loss(vectors):
        edits = [mp.Add(vector).at("resid_post", layer=layer) for layer, vector in enumerate(vectors)]
        return METRIC(tiny().run(PROMPT, edits)).sum()

    start = drawn(2, WIDTH)
    both = mx.grad(loss)(start)
    for layer in (0, 1):
        alone = mx.grad(lambda vector, layer=layer: loss([vector, start[1]] if layer == 0 else [start[0], vector]))
        np.testing.assert_allclose(np.array(both[layer]), np.array(alone(start[layer])), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_models_give_a_float32_vector_its_gradient(tiny, precision):
    """Of some 40 roundings one after the other, bfloat16's are off by 2^-8 each: together by 2.5%. Four times that."""

    def gradient(model):
        return mx.grad(lambda vector: whole(model, mp.Add(vector)).sum())(drawn(WIDTH))

    half, full = gradient(tiny("llama", precision)), gradient(tiny())
    assert half.dtype == mx.float32
    assert mx.max(mx.abs(half - full)).item() < 0.1 * mx.max(mx.abs(full)).item()


def test_each_answer_of_a_batch_has_its_own_share(tiny, word_tokenizer):
    """A `LogitDiff` of texts, with an answer of its own in each row."""
    model = mp.HookedModel(tiny().model, word_tokenizer)
    metric = mp.metrics.LogitDiff(["w03", "w20"], ["w07", "w30"]).resolve(word_tokenizer)
    edits = lambda vector: [mp.Add(vector).at("resid_post", layer=1, pos=-1)]  # noqa: E731
    both = mx.grad(lambda vector: metric(model.run(BATCH, edits(vector))).sum())(drawn(WIDTH))
    rows = zip(BATCH, [(3, 7), (20, 30)], strict=True)
    alone = [
        mx.grad(lambda vector, row=row, ids=ids: mp.metrics.LogitDiff(*ids)(model.run([row], edits(vector))).sum())
        for row, ids in rows
    ]
    np.testing.assert_allclose(np.array(both), np.array(sum(each(drawn(WIDTH)) for each in alone)), atol=1e-4)


def test_a_projected_direction_has_no_slope_along_its_span(tiny):
    """Neither its length nor the basis of its span matters."""
    rows = drawn(2, WIDTH)
    for onto in (False, True):
        gradient = mx.grad(lambda rows, onto=onto: whole(tiny(), mp.Project(rows, onto=onto)).sum())(rows)
        within = np.array(gradient @ rows.T)
        assert np.abs(within).max() < 1e-4 * np.abs(np.array(gradient)).max() * np.linalg.norm(np.array(rows))


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16])
def test_a_subspace_has_the_gradient_of_gram_and_schmidt(tiny, dtype):
    rows, source = drawn(3, WIDTH).astype(dtype), drawn(WIDTH, seed=1)

    def loss(rows, orthonormal):
        basis = orthonormal(rows)
        exchange = mp.Apply(lambda own, site: own + (source - own) @ basis.T @ basis)
        return whole(tiny(), exchange).sum()

    by_project = mx.grad(lambda rows: loss(rows, lambda rows: mp.Project(rows).basis))(rows)
    by_hand = mx.grad(lambda rows: loss(rows, gram_schmidt))(rows.astype(mx.float32))
    assert by_project.dtype == dtype
    tolerance = 1e-5 if dtype == mx.float32 else 1e-3
    largest = mx.max(mx.abs(by_hand)).item()
    np.testing.assert_allclose(np.array(by_project), np.array(by_hand), atol=tolerance * largest)


def test_granite_has_a_gradient_where_the_edit_changes_something(tiny):
    """It multiplies what it adds to the stream; what an edit leaves alone there stays bit for bit."""
    model = tiny("granite")
    loss = lambda vector: METRIC(model.run(PROMPT, [mp.Add(vector).at("mlp_out", layer=1)])).sum()  # noqa: E731
    assert_is_the_slope(loss, 0.01 * drawn(WIDTH), rounding(model))


def steered(vector):
    return [mp.Add(vector).at("resid_post", layer=1, pos=-1)]


def loss_of(model):
    """Minus the log-probability of token 3 after two prompts, in nats."""
    metric = mp.metrics.LogProb(3)
    return lambda vector: -metric(model.run(BATCH, steered(vector), logits_at=-1)).mean()


def train(loss, value, steps=30):
    optimizer, losses = optim.Adam(learning_rate=0.1), []
    for _ in range(steps):
        current, gradient = mx.value_and_grad(loss)(value)
        value = optimizer.apply_gradients({"value": gradient}, {"value": value})["value"]
        mx.eval(value, optimizer.state)
        losses.append(current.item())
    return value, losses


@pytest.mark.parametrize("precision", ["float32", "4bit"])
def test_a_trained_vector_transfers_to_other_prompts(tiny, precision):
    """And a random one of its norm does not."""
    model = tiny("llama", precision)
    vector, losses = train(loss_of(model), 0.01 * drawn(WIDTH))
    assert losses[0] > 1.0
    assert losses[-1] < 0.1
    noise = drawn(WIDTH, seed=5)
    control = noise * mx.linalg.norm(vector) / mx.linalg.norm(noise)
    prob = mp.metrics.Prob(3)
    for held_out in ([[70, 12, 31, 90]], [[8, 44, 27, 61, 19, 2]]):
        assert prob(model.run(held_out, steered(vector))).item() > 0.8
        assert prob(model.run(held_out, steered(control))).item() < 0.2
        assert prob(model.run(held_out)).item() < 0.2


@pytest.mark.parametrize("is_training", [False, True])
def test_training_leaves_the_model_as_it_was(is_training):
    """Its parameters, the mode of each module, and their classes."""
    model = mp.HookedModel(tiny_model("llama"))
    model.model.train(is_training)
    parameters = deepcopy(tree_flatten(model.model.parameters()))
    modules = [(path, type(module), module.training) for path, module in model.model.named_modules()]
    train(loss_of(model), 0.01 * drawn(WIDTH), steps=3)
    after = dict(tree_flatten(model.model.parameters()))
    assert all(mx.array_equal(array, after[name]).item() for name, array in parameters)
    assert len(after) == len(parameters)
    assert [(path, type(module), module.training) for path, module in model.model.named_modules()] == modules


def test_a_vector_that_has_become_nan_is_refused(tiny):
    with pytest.raises(ValueRefusedError, match="`value` must not hold NaN"):
        mx.grad(loss_of(tiny()))(mx.full((WIDTH,), float("nan")))


def test_a_saved_vector_does_what_it_did(tiny, tmp_path):
    vector, path = drawn(WIDTH), str(tmp_path / "vector.safetensors")
    mx.save_safetensors(path, {"vector": vector}, metadata={"layer": "1"})
    arrays, metadata = mx.load(path, return_metadata=True)
    assert metadata["layer"] == "1"
    logits = [tiny().run(PROMPT, steered(each)) for each in (vector, arrays["vector"])]
    assert mx.array_equal(*logits).item()
