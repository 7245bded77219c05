"""The example of fitted lenses, on an embedded model: what it does with SmolLM2 takes 20 minutes."""

import sys
from pathlib import Path

import numpy as np
import pytest

import mlx_patch as mp

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import fit_lenses

    yield fit_lenses
    sys.modules.pop("fit_lenses")


def test_the_corpus_and_the_figure_are_made(example, tmp_path, monkeypatch):
    model = mp.HookedModel.load(EXAMPLES / "models" / "tiny_instruct_ext")
    prompts = example.corpus(model, 3)
    assert [prompt.shape for prompt in prompts] == [(24,)] * 3
    assert prompts[0].tolist() == example.corpus(model, 1)[0].tolist()
    assert prompts[0].tolist() != prompts[1].tolist()
    layers = (0, 4)
    monkeypatch.setattr(example, "LAYERS", layers)
    monkeypatch.setattr(example, "SITES", [mp.Site("resid_post", layer) for layer in layers])
    plain = example.divergences(model, prompts, None)
    kl = [mp.lens.logit_lens(model, prompt).kl()[list(layers), 0, 1:] for prompt in prompts]
    np.testing.assert_allclose(plain, np.mean(kl, axis=(0, 2)), rtol=1e-3)
    example.draw({"logit lens": plain}, {"logit lens": np.array([9, 0])}, tmp_path / "lenses.png")
    assert (tmp_path / "lenses.png").read_bytes().startswith(b"\x89PNG")
