"""Ragged prompts, stores and a pair of base and adapter, on SmolLM2."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_patch import Ablate, ActivationStore, HookedModel, Replace
from mlx_patch.errors import OutlierPositionWarning
from mlx_patch.provenance import checksum
from mlx_patch.testing import smollm2_folder

ADAPTER = Path(__file__).parents[2] / "examples" / "models" / "smollm2_d1_adapter"
PROMPTS = ["The cat sat on", "Paris", "Mary went to the", "One two three"]
SITES = ("resid_post.12", "z.12", "mlp_post.12")

pytestmark = pytest.mark.real


def test_ragged_prompts_give_what_each_gives_by_itself(smollm2):
    chat = [{"role": "user", "content": "Hi"}]
    prompts = [*PROMPTS, smollm2.tokenize(chat)[:, -6:]]
    assert len({smollm2.tokenize(prompt).shape[1] for prompt in PROMPTS}) > 1
    for prompt, logits in zip(prompts, smollm2.run_each(prompts, logits_at=-1), strict=True):
        alone = smollm2.run(smollm2.tokenize(prompt) if isinstance(prompt, str) else prompt, logits_at=-1)
        assert mx.allclose(logits, alone, atol=1e-3, rtol=1e-4).item()
        assert mx.argmax(logits).item() == mx.argmax(alone).item()


def test_a_store_s_mean_ablates_to_that_of_the_concatenation(smollm2, tmp_path):
    store = ActivationStore.capture(smollm2, PROMPTS, tmp_path / "store", sites=SITES, shard_mb=0.02)
    assert len(list(store.path.glob("shard-*"))) > 1
    caches = [smollm2.run_with_cache(smollm2.tokenize(prompt), sites=SITES, logits_at=-1)[1] for prompt in PROMPTS]
    with pytest.warns(OutlierPositionWarning, match="position 0 dominates the mean at"):  # an attention sink
        mean = store.mean()
    prompt = smollm2.tokenize(PROMPTS[0])
    whole = {site: np.concatenate([np.array(cache[site][0]) for cache in caches]) for site in SITES}
    edits = [Ablate("mean", mean).at("z", layer=12, head=[1, 4]), Ablate("mean", mean).at("mlp_post", layer=12)]
    ablated = smollm2.run(prompt, edits, logits_at=-1)
    by_hand = {site: mx.array(rows.astype(np.float64).mean(axis=0).astype(np.float32)) for site, rows in whole.items()}
    edits = [
        Replace(by_hand["z.12"][[1, 4]]).at("z", layer=12, head=[1, 4]),
        Replace(by_hand["mlp_post.12"]).at("mlp_post", layer=12),
    ]
    assert mx.allclose(ablated, smollm2.run(prompt, edits, logits_at=-1), atol=1e-3, rtol=1e-4).item()
    assert mx.max(mx.abs(ablated - smollm2.run(prompt, logits_at=-1))).item() > 0.1
    for site in SITES:
        assert np.allclose(store.numpy(site), whole[site], atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "4bit"])
def test_base_and_adapter_share_their_weights(precision):
    base = HookedModel.load(smollm2_folder(precision))
    tokens = base.tokenize("The cat sat on")
    before, sums = base.run(tokens), checksum(base.model)
    weights = sum(array.nbytes for _, array in tree_flatten(base.model.parameters()))
    active = mx.get_active_memory()
    donor = base.with_adapter(ADAPTER)
    mx.eval(donor.model.parameters())
    grown = mx.get_active_memory() - active
    added = sum(array.nbytes for name, array in tree_flatten(donor.model.parameters()) if "lora_" in name)
    assert added <= grown < added + weights / 50
    loaded = HookedModel.load(smollm2_folder(precision), adapter_path=ADAPTER)
    logits, cache = loaded.run_with_cache(tokens)
    assert mx.array_equal(donor.run(tokens), logits).item()
    assert donor.identity == loaded.identity == cache.model
    assert donor.identity["adapter"].startswith("lora ")
    assert mx.max(mx.abs(logits - before)).item() > 0.1
    patched = base.run(tokens, [Replace(cache).at("resid_post", layer=29)])
    assert mx.array_equal(patched, logits).item()
    assert mx.array_equal(base.run(tokens), before).item()
    assert (checksum(base.model), base.identity["adapter"]) == (sums, "")
