"""Models whose runs mean nothing, or in which an edit would stay: active dropout, compiled parts, traced calls."""

import re

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.tuner.utils import linear_to_lora_layers

from mlx_patch import Ablate, HookedModel, Scale, metrics, sweep
from mlx_patch.engine import is_compiling
from mlx_patch.errors import KindError
from mlx_patch.testing import tiny_model

ZERO = Ablate("zero").at("mlp_out", layer=0)
TOKENS = mx.array([[3, 5, 7, 9]])


def adapted(dropout):
    """A model with LoRA layers, which begin in training mode, whatever the model is in."""
    raw = tiny_model("llama").eval()
    linear_to_lora_layers(raw, 3, {"rank": 2, "scale": 4.0, "dropout": dropout})
    return HookedModel(raw)


ENTRIES = {
    "run": lambda model: model.run(TOKENS),
    "an edited run": lambda model: model.run(TOKENS, [ZERO]),
    "run_with_cache": lambda model: model.run_with_cache(TOKENS),
    "run_each": lambda model: model.run_each([TOKENS]),
    "editing": lambda model: model.editing(ZERO).__enter__(),
    "sweep": lambda model: sweep(model, TOKENS, Ablate("zero"), "mlp_out", metric=metrics.Entropy()),
    "verify": lambda model: model.verify(),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_active_dropout_is_refused_at_every_entry(entry):
    model = adapted(0.5)
    classes = [type(module) for module in model.model.modules()]
    message = r"in training mode, with an active Dropout at 'model\.layers\.\d\..*dropout'.*`model\.model\.eval\(\)`"
    with pytest.raises(KindError, match=message):
        ENTRIES[entry](model)
    assert [type(module) for module in model.model.modules()] == classes
    model.model.eval()
    if entry != "editing":
        ENTRIES[entry](model)


def test_training_mode_without_active_dropout_runs():
    model = adapted(0.0)
    model.model.train()
    assert mx.array_equal(model.run(TOKENS), model.run(TOKENS))


class Noise(nn.Module):
    """Dropout of one's own, in a method."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def __call__(self, x):
        return self.drawn(x) if self.training else x

    def drawn(self, x):
        return x * (mx.random.uniform(shape=x.shape) > self.rate)


def test_dropout_of_ones_own_is_known():
    raw = tiny_model("llama").eval()
    raw.model.layers[1].mlp.noise = Noise(0.5)
    with pytest.raises(KindError, match=r"active Noise at 'model\.layers\.1\.mlp\.noise'"):
        HookedModel(raw).run(TOKENS)
    raw.model.layers[1].mlp.noise = Noise(0)
    HookedModel(raw).run(TOKENS)


class Block(nn.Module):
    """A block that compiles its body at its first call, as mlx_lm's kimi_k3 does on Metal."""

    def __init__(self):
        super().__init__()
        self.up, self.down, self._step = nn.Linear(16, 32), nn.Linear(32, 16), None

    def body(self, x):
        return x + self.down(nn.gelu(self.up(x)))

    def __call__(self, x):
        self._step = self._step or mx.compile(self.body)
        return self._step(x)


class Made(Block):
    """A block that is given its compiled body from outside."""

    def __call__(self, x):
        return self._step(x)


class Given(nn.Module):
    """A block that compiles nothing, and is given its body from outside."""

    def __init__(self):
        super().__init__()
        self.up, self._step = nn.Linear(16, 16), None

    def __call__(self, x):
        return self._step(x)


def closed_over(module):
    def called(x):
        return module(x)

    return called


GIVEN = {
    "a default": (lambda module: lambda x, module=module: module(x), False),
    "a closure": (closed_over, False),
    "no module": (lambda module: lambda x: 2 * x, True),
}


class Namesake(nn.Module):
    """A block that compiles a pattern of text."""

    def __call__(self, x):
        return x if re.compile("x").match("x") else 0 * x


class Within(nn.Module):
    """A block that compiles in a function inside its call, beside one that compiles nothing."""

    def __call__(self, x):
        def compiled():
            return mx.compile(mx.abs)

        def called(function):
            return function(x)

        return called(compiled())


class LM(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.emb, self.layers, self.head = nn.Embedding(60, 16), [kind() for _ in range(3)], nn.Linear(16, 60)

    def __call__(self, tokens):
        return self.through(tokens, lambda block, x: block(x))

    def through(self, tokens, run):
        x = self.emb(tokens)
        for block in self.layers:
            x = run(block, x)
        return self.head(x)


@pytest.mark.slow  # as the run at the lower bounds compiles nothing
@pytest.mark.parametrize("kind", [Block, Made])
def test_an_edit_inside_a_compiled_part_does_not_stay(kind):
    lm = LM(kind)
    if kind is Made:
        for block in lm.layers:
            block._step = mx.compile(lambda x, block=block: block.body(x))
    right = lm.through(TOKENS, lambda block, x: block.body(x))
    model, edit = HookedModel(lm), Ablate("zero").at("layers.0.down:output")
    edited = model.run(TOKENS, [edit])
    assert mx.allclose(lm(TOKENS), right, atol=1e-5)
    assert mx.allclose(model.run(TOKENS), right, atol=1e-5)
    assert mx.array_equal(model.run(TOKENS, [edit]), edited)  # what was compiled meanwhile is run as it is written
    assert not mx.allclose(edited, right, atol=1e-5)
    assert model.verify().ok
    assert is_compiling()


def test_compiling_stays_off_for_who_switched_it_off():
    model = HookedModel(LM(Block))
    mx.disable_compile()
    try:
        with model.editing(Scale(2.0).at("layers.0.down:output")):
            model.model(TOKENS)
        assert not is_compiling()
    finally:
        mx.enable_compile()


def test_a_model_that_compiles_nothing_itself_runs_compiled(tiny):
    model = tiny()
    with model.editing(ZERO):
        model.model(TOKENS)
        assert is_compiling()


@pytest.mark.parametrize(("kind", "is_kept"), [(Namesake, True), (Within, False)])
def test_only_blocks_that_compile_run_uncompiled(kind, is_kept):
    could_compile = is_compiling()
    model = HookedModel(LM(kind))
    with model.editing(Scale(2.0).at("layers.0:output")):
        model.model(TOKENS)
        assert is_compiling() == (is_kept and could_compile)


@pytest.mark.parametrize("kind", GIVEN)
def test_compiled_functions_that_reach_modules_run_uncompiled(kind):
    could_compile = is_compiling()
    lm, (made_of, is_kept) = LM(Given), GIVEN[kind]
    for block in lm.layers:
        block._step = mx.compile(made_of(block.up))
    model = HookedModel(lm)
    with model.editing(Scale(2.0).at("layers.0:output")):
        model.model(TOKENS)
        assert is_compiling() == (is_kept and could_compile)


@pytest.mark.parametrize("transformed", [mx.compile, mx.vmap])
def test_a_traced_call_is_refused(tiny, transformed):
    model, batch = tiny(), mx.concatenate([TOKENS[None], TOKENS[None]])
    given = batch if transformed is mx.vmap else TOKENS
    message = r"`tokens` must have values\. Got an array inside mx\.compile or mx\.vmap.*Call it outside them"
    with pytest.raises(KindError, match=message):
        transformed(model.run)(given)
    with pytest.raises(KindError, match=message), model.editing(ZERO):
        transformed(model.model)(given)
    assert mx.array_equal(model.run(TOKENS), model.model(TOKENS))


def test_a_gradient_through_edited_embeddings_is_not_refused(tiny):
    model = tiny()
    embedded = model.model.model.embed_tokens(TOKENS)
    with model.editing(Scale(2.0).at("mlp_out", layer=0)):
        slope = mx.grad(lambda x: model.model(None, input_embeddings=x)[0, -1, 3])(embedded)
    assert mx.any(slope != 0).item()
