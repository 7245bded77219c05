"""mlx_patch and the loop of the D1 script give the same logits, at each layer and both ways, and the same numbers."""

from dataclasses import dataclass

import mlx.core as mx
import pytest
from mlx.utils import tree_map_with_path
from mlx_lm.models import llama

from mlx_patch import HookedModel, Replace
from mlx_patch.testing import smollm2_folder, tiny_model

# Of probabilities, which the study rounds to 8 digits. It unembeds one position where the script unembeds all, and the
# two products add up in another order: by 8 roundings in float32 of logits of up to 30, and a probability by as much.
TOLERANCE = 8 * 2.0**-23 * 30


@dataclass(frozen=True)
class Way:
    """One direction of a pair, as the loop has it.

    Attributes:
        target: The model that is patched.
        donor: The model whose stream is put in.
        tokens: What both read. Shape `(1, pos)`.
        plain: The logits of either by itself.
        patched: The target's logits with the donor's stream after a layer, by layer.
    """

    target: HookedModel
    donor: HookedModel
    tokens: mx.array
    plain: dict[str, mx.array]
    patched: dict[int, mx.array]


def ways(seed_loop, tokens, one, other, every: int = 1) -> list[Way]:
    """Both directions of a pair, by the loop: of every so many layers, and of the last."""
    mask = seed_loop.causal_mask(tokens.shape[1])
    runs = {model: seed_loop.capture_all_activations(model.model, tokens, mask) for model in (one, other)}
    found = []
    for target, donor in ((one, other), (other, one)):
        streams = runs[donor][0]
        layers = sorted({*range(0, len(streams), every), len(streams) - 1})
        patched = {i: seed_loop.patched_forward(target.model, streams, i, tokens, mask) for i in layers}
        found.append(Way(target, donor, tokens, {"target": runs[target][1], "donor": runs[donor][1]}, patched))
    return found


def assert_same_logits(way: Way) -> None:
    """Difference 0, at each layer. The loop's mask is added in float16, where a masked score is -inf; the model's own
    is a choice between a score and the lowest number. Both leave a probability of exactly 0, and all else is alike.
    """
    logits, cache = way.donor.run_with_cache(way.tokens, "resid_post")
    assert mx.array_equal(logits, way.plain["donor"])
    assert max(way.patched) == way.target.n_layers - 1
    for layer, theirs in way.patched.items():
        ours = way.target.run(way.tokens, [Replace(cache).at("resid_post", layer=layer)])
        assert mx.array_equal(ours, theirs), f"layer {layer}: {mx.max(mx.abs(ours - theirs)).item()}"


def assert_same_numbers(d1, d1_data, seed_loop, probe, way: Way) -> None:
    """What the study writes of the target by itself and of every layer is what the script measures."""

    def compare(ours, logits):
        theirs = seed_loop.measure_tool_probability(logits, probe.tokenizer, d1_data.TOOL_STRINGS)
        probabilities = mx.softmax(logits[0, -1].astype(mx.float32))
        assert ours["tool_probs"] == pytest.approx(theirs["tool_probs"], abs=TOLERANCE)
        assert ours["tool_call_prob"] == ours["tool_probs"]["<tool_call>"]
        assert ours["entropy"] == pytest.approx(theirs["entropy"], abs=2e-4)
        top = [token["prob"] for token in theirs["top5"]]
        assert [token["prob"] for token in ours["top5"]] == pytest.approx(top, abs=TOLERANCE)
        # Tokens of one probability, which float16 makes, stand in the order of their ids here, and in the other there.
        ids = [token["id"] for token in ours["top5"]]
        assert probabilities[mx.array(ids)].tolist() == pytest.approx(top, abs=TOLERANCE)
        written = [probe.tokenizer.decode([i]).replace("\n", "\\n") for i in ids]
        assert [token["token"] for token in ours["top5"]] == written
        return theirs["tool_call_prob"]

    before, _ = d1.capture(way.target, probe, None)
    unpatched = compare(before, way.plain["target"])
    _, cache = d1.capture(way.donor, probe, None)
    results, _ = d1.patch(way.target, cache, probe, list(way.patched), before, None)
    for ours, logits in zip(results.values(), way.patched.values(), strict=True):
        assert ours["effect"] == pytest.approx(compare(ours, logits) - unpatched, abs=2 * TOLERANCE)


def perturbed(model: HookedModel, amount: float) -> HookedModel:
    """The model with every weight moved by a fraction of itself, as a little training would."""
    keys = iter(mx.random.split(mx.random.key(0), 4096))

    def moved(path, array):
        return array * (1 + amount * mx.random.normal(array.shape, key=next(keys)))

    model.model.update(tree_map_with_path(moved, model.model.parameters()))
    mx.eval(model.model.parameters())
    return model


@pytest.fixture(scope="module", params=["tiny_ext", "tiny_int"])
def embedded(request, seed_loop, d1, d1_data):
    """Both ways of an embedded pair on the study's conversation."""
    pair = d1.PAIRS[request.param]
    base, instruct = HookedModel.load(pair.base), HookedModel.load(pair.instruct)
    return ways(seed_loop, instruct.tokenize(d1_data.build_conversation()), base, instruct, every=3)


@pytest.mark.slow
def test_the_embedded_pairs_have_the_loop_s_logits(embedded):
    for way in embedded:
        assert_same_logits(way)


@pytest.mark.slow
def test_the_embedded_pairs_have_the_loop_s_numbers(embedded, seed_loop, d1, d1_data):
    probe = d1.Probe(embedded[0].donor, "all")
    for way in embedded:
        assert_same_numbers(d1, d1_data, seed_loop, probe, way)


@pytest.mark.parametrize("precision", ["float32", "float16", "4bit"])
def test_two_tiny_llamas_have_the_loop_s_logits(seed_loop, d1_data, precision):
    text = d1_data.build_conversation()[0]["content"]
    tokens = mx.array([[ord(character) % 96 for character in text[:300]]])
    for way in ways(seed_loop, tokens, *(HookedModel(tiny_model("llama", precision, seed)) for seed in (1, 2))):
        assert_same_logits(way)


@pytest.mark.real
@pytest.mark.slow
def test_smollm2_has_the_loop_s_logits(seed_loop, smollm2):
    other = perturbed(HookedModel.load(smollm2_folder("float32")), 0.02)
    for way in ways(seed_loop, smollm2.tokenize("John gave milk"), smollm2, other, every=10):
        assert_same_logits(way)


@pytest.mark.real
def test_a_tool_call_of_several_tokens_has_the_loop_s_numbers(seed_loop, d1, d1_data, smollm2):
    """Two small llamas with the tokenizer of SmolLM2, to which `<tool_call>` is several tokens."""
    shape = {"hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 48, "num_attention_heads": 4}
    args = llama.ModelArgs.from_dict({"model_type": "llama", "rms_norm_eps": 1e-5, "vocab_size": 49152, **shape})
    one, other = (perturbed(HookedModel(llama.Model(args), smollm2.tokenizer), 0.5) for _ in range(2))
    probe = d1.Probe(one, "all")
    assert len(probe.answer) > 1
    for way in ways(seed_loop, one.tokenize(d1_data.build_conversation()), one, other):
        assert_same_numbers(d1, d1_data, seed_loop, probe, way)
