"""A decoder that has no table: its blocks are found, and it is read as far as short runs bear the guess out."""

import mlx.core as mx
import mlx.nn as nn
import pytest

from mlx_patch import HookedModel
from mlx_patch.architectures import guessed
from mlx_patch.errors import ArchitectureError, MissingSiteError
from mlx_patch.interventions import Ablate, Replace

D_MODEL, D_VOCAB, TOKENS, OTHER = 8, 13, [[1, 2, 3, 4]], [[5, 6, 7, 8]]


class Stage(nn.Module):
    """One block: a causal mean over positions, then two maps in a row."""

    def __init__(self):
        super().__init__()
        self.blend = nn.Linear(D_MODEL, D_MODEL)
        self.think = [nn.Linear(D_MODEL, D_MODEL), nn.Linear(D_MODEL, D_MODEL)]

    def __call__(self, stream):
        counts = mx.arange(1, stream.shape[1] + 1)[:, None]
        stream = stream + self.blend(mx.cumsum(stream, axis=1) / counts)
        return stream + self.think[1](mx.maximum(self.think[0](stream), 0))


class Decoder(nn.Module):
    """A decoder in which nothing has a name of mlx_lm's."""

    def __init__(self):
        super().__init__()
        self.letters = nn.Embedding(D_VOCAB, D_MODEL)
        self.tower = {"notes": mx.zeros(1)}
        self.stages = [Stage() for _ in range(3)]
        self.tidy = nn.LayerNorm(D_MODEL)
        self.guess = nn.Linear(D_MODEL, D_VOCAB)

    def walk(self, stream):
        for stage in self.stages:
            stream = stage(stream)
        return stream

    def __call__(self, tokens):
        return self.guess(self.tidy(self.walk(self.letters(tokens))))


def made(kind=Decoder):
    mx.random.seed(3)
    return kind()


@pytest.fixture
def model():
    return HookedModel(made())


def test_its_blocks_width_and_vocabulary_are_found(model):
    assert model.layout.family.name == "unknown"
    assert (model.layout.family.blocks, model.n_layers) == ("stages", 3)
    assert (model.d_model, model.d_vocab) == (D_MODEL, D_VOCAB)
    assert [site.name for site in model.sites if site.layer is None] == ["embed"]
    assert {site.name for site in model.sites} == {"embed", "resid_pre", "resid_post"}


def test_watching_leaves_the_logits(model):
    logits, cache = model.run_with_cache(TOKENS, sites=model.sites)
    assert mx.array_equal(logits, model.model(mx.array(TOKENS)))
    assert mx.array_equal(cache["resid_post", 0], cache["resid_pre", 1])


def test_a_patched_stream_decides_the_logits(model):
    wanted, donor = model.run_with_cache(OTHER)
    assert mx.array_equal(model.run(TOKENS, [Replace(donor).at("resid_post", layer=1)]), wanted)


def test_raw_paths_are_read_and_edited(model):
    _, cache = model.run_with_cache(TOKENS, sites="stages.1.blend:output")
    assert cache["stages.1.blend:output"].shape == (1, 4, D_MODEL)
    edited = model.run(TOKENS, [Ablate("zero").at("stages.1.blend:output")])
    assert not mx.array_equal(edited, model.run(TOKENS))


@pytest.mark.parametrize("at", [-1, [0, 2], [1, 3]])
def test_logits_at_positions_are_those_of_all(model, at):
    whole = model.run(TOKENS)
    got = model.run(TOKENS, logits_at=at)
    assert mx.array_equal(got, whole[:, mx.array([at] if isinstance(at, int) else at)])


def test_the_laws_hold(model):
    report = model.verify()
    assert report.ok, str(report)
    assert {finding.law for finding in report.findings} == {1, 2, 3, 4, 5, 6, 10}


@pytest.mark.parametrize("name", ["z", "mlp_out", "pattern", "resid_mid", "final_norm"])
def test_every_other_site_is_refused_with_where_to_read_on(model, name):
    """Where it says how to add a table."""
    message = (
        rf"unknown has no '{name}': .* has no table .* docs/adding-an-architecture\.md .* It has: resid_pre, resid_p"
    )
    with pytest.raises(MissingSiteError, match=message):
        model.run_with_cache(TOKENS, sites=name)


def test_a_guess_is_the_longest_list_of_modules():
    family = guessed(made())
    assert family.blocks == "stages"
    assert set(family.block) == {"resid_pre", "resid_post"}


class Backwards(Decoder):
    def walk(self, stream):
        for stage in reversed(self.stages):
            stream = stage(stream)
        return stream


class Twice(Decoder):
    def walk(self, stream):
        return super().walk(super().walk(stream))


class Skipping(Decoder):
    def walk(self, stream):
        return self.stages[1](self.stages[0](stream))


class Between(Decoder):
    def walk(self, stream):
        for stage in self.stages:
            stream = stage(2 * stream)
        return stream


class Around(Decoder):
    """What enters the first block goes round all of them as well."""

    def walk(self, stream):
        return stream + super().walk(stream)


class Pair(Stage):
    def __call__(self, stream):
        return super().__call__(stream), None


class Pairs(Decoder):
    def __init__(self):
        super().__init__()
        self.stages = [Pair() for _ in range(3)]

    def walk(self, stream):
        for stage in self.stages:
            stream, _ = stage(stream)
        return stream


class PositionsFirst(Decoder):
    def walk(self, stream):
        return super().walk(stream.swapaxes(0, 1)).swapaxes(0, 1)


class Deaf(Decoder):
    def __call__(self, tokens):
        return super().__call__(mx.zeros_like(tokens))


class Noisy(Decoder):
    """In training, as `mlx.nn` makes every module until `eval()`."""

    def walk(self, stream):
        return super().walk(nn.Dropout(0.5)(stream))


class LastOnly(Decoder):
    def __call__(self, tokens):
        return super().__call__(tokens)[:, -1]


class WantsMore(Decoder):
    def __call__(self, tokens, image):
        return super().__call__(tokens)


class InTwo(Decoder):
    """Blocks in a list of lists."""

    def __init__(self):
        super().__init__()
        self.stages = [[Stage() for _ in range(n)] for n in (2, 3)]

    def walk(self, stream):
        for stages in self.stages:
            for stage in stages:
                stream = stage(stream)
        return stream


class Apart(Decoder):
    """A block before the others, and one behind them, under other names."""

    def __init__(self):
        super().__init__()
        self.prelude, self.coda = Stage(), Stage()

    def walk(self, stream):
        return self.coda(super().walk(self.prelude(stream)))


class Blend(nn.Module):
    """What reads other positions, and is no block."""

    def __init__(self):
        super().__init__()
        self.stage = nn.Linear(D_MODEL, D_MODEL)

    def __call__(self, stream):
        return stream + self.stage(mx.cumsum(stream, axis=1))


class Prelude(Decoder):
    def __init__(self):
        super().__init__()
        self.prelude = Blend()

    def walk(self, stream):
        return super().walk(self.prelude(stream))


class Coda(Prelude):
    def walk(self, stream):
        return self.prelude(Decoder.walk(self, stream))


class BatchNorm(Decoder):
    """Its rows depend on one another."""

    def walk(self, stream):
        return super().walk(stream - mx.mean(stream, axis=0, keepdims=True))


REFUSED = {
    InTwo: r"its blocks seem to be at 'stages\.1', but there are more modules of that kind: stages\.0\.0, stages\.0\.1",
    Apart: r"at 'stages', but there are more modules of that kind: coda, prelude",
    Prelude: r"what enters block 0 depends on other positions, so there are more blocks before it",
    Coda: r"what follows its last block reads other positions, so there are more blocks after it",
    BatchNorm: r"the logits of a row depend on other rows",
    Backwards: r"the modules at 'stages' must be called in order, once each\. Got 2, 1, 0",
    Twice: r"must be called in order, once each\. Got 0, 1, 2, 0, 1, 2",
    Skipping: r"must be called in order, once each\. Got 0, 1\.",
    Between: r"what enters block 1 is not what leaves block 0",
    Around: r"what leaves its last block does not decide its logits",
    Pairs: r"must be an array to be read or edited\. Got tuple",
    PositionsFirst: r"must take and return arrays \(batch, pos, d_model\)\. Got \(5, 2, 8\)",
    Deaf: r"its logits do not depend on the tokens",
    Noisy: r"its logits change when its blocks are captured",
    LastOnly: r"must be logits \(batch, pos, d_vocab\)\. Got \(2, 13\)",
    WantsMore: r"it raised TypeError: .*image",
}


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_what_a_short_run_does_not_bear_out_is_refused(kind):
    begins = (
        r"`model` must be of an architecture that has a table\. Got .*test_unknown, which has none and cannot be read.*"
    )
    ends = r"docs/adding-an-architecture\.md says how to add a table\."
    with pytest.raises(ArchitectureError, match=f"{begins}: .*{REFUSED[kind]}.*{ends}"):
        HookedModel(made(kind))


def test_a_model_without_a_list_of_modules_is_refused():
    with pytest.raises(ArchitectureError, match="it has no list of modules that could be its blocks"):
        HookedModel(nn.Linear(2, 2))


def test_a_refused_model_is_left_as_it_was():
    model = made(Around)
    classes = [type(module) for module in model.modules()]
    with pytest.raises(ArchitectureError):
        HookedModel(model)
    assert [type(module) for module in model.modules()] == classes


class Choosing(Stage):
    """A block with more experts than there are blocks."""

    def __init__(self):
        super().__init__()
        self.experts = [nn.Linear(D_MODEL, D_MODEL) for _ in range(5)]

    def __call__(self, stream):
        return stream + self.experts[0](super().__call__(stream))


class Experts(Decoder):
    def __init__(self):
        super().__init__()
        self.stages = [Choosing() for _ in range(3)]


def test_experts_are_not_taken_for_blocks():
    assert HookedModel(made(Experts)).layout.family.blocks == "stages"


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "mamba", "pixtral"])
def test_an_architecture_that_mlx_lm_adds_later_is_read(tiny, name, monkeypatch):
    by_table = HookedModel(tiny(name).model)
    monkeypatch.setattr("mlx_patch.architectures._registry._families", tuple)
    guess = HookedModel(by_table.model)
    assert guess.layout.family.name == "unknown"
    assert guess.layout.blocks == by_table.layout.blocks
    assert (guess.d_model, guess.d_vocab) == (by_table.d_model, by_table.d_vocab)
    report = guess.verify()
    assert report.ok, str(report)
    assert 9 in {finding.law for finding in report.findings}


def test_an_architecture_of_mlx_lm_keeps_its_table(tiny):
    assert HookedModel(tiny("llama").model).layout.family.name == "llama"
