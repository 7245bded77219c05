"""What valid calls need: a tiny model with a tokenizer, its runs, results and files. Made once."""

from contextlib import suppress
from copy import copy
from functools import cached_property
from pathlib import Path

import mlx.core as mx
import numpy as np
from dictionary_files import arrays_of, saelens_folder, without
from mlx.utils import tree_flatten
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

import mlx_patch as mp
from mlx_patch.testing import tiny_model

TEMPLATE = "{% for message in messages %}w03 {{ message['role'] }} {{ message['content'] }} w04 {% endfor %}w05"
A, B = [11, 48, 85, 26, 63, 4], [11, 12, 85, 26, 7, 4]
HELD_OUT = ([[1, 5, 9]], [[2, 6, 8]])


def word_tokenizer() -> TokenizerWrapper:
    """A tokenizer of the tiny models' vocabulary, with a chat template."""
    words = Tokenizer(WordLevel({f"w{i:02}": i for i in range(96)}, unk_token="w00"))
    words.pre_tokenizer = WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w01", eos_token="w02", chat_template=TEMPLATE)
    return TokenizerWrapper(fast)


class World:
    """Valid values, by what they are.

    Args:
        folder: For files.
        model: A tiny model with a tokenizer; None is a llama.
    """

    def __init__(self, folder: Path, model: mp.HookedModel | None = None):
        self.folder = folder
        self.model = model or mp.HookedModel(tiny_model("llama"), word_tokenizer(), name="tiny")
        self.tokenizer = self.model.tokenizer
        self.metric = mp.metrics.LogitDiff(7, 30)
        self.replace = mp.Replace(self.cache)
        self.edit = mp.Scale(2.0).at("resid_post", layer=1, pos=2)

    def with_folder(self, folder: Path) -> "World":
        """The same values, with another folder for files."""
        other = copy(self)
        other.__dict__.pop("store_folder", None)
        other.folder = folder
        return other

    def make_everything(self) -> None:
        """Compute every value now that the model has, each of which is computed when it is first used."""
        for name, value in vars(World).items():
            if isinstance(value, cached_property):
                with suppress(mp.PatchError):
                    getattr(self, name)

    @cached_property
    def cache(self) -> mp.ActivationCache:
        return self.model.run_with_cache([B], "all")[1]

    @cached_property
    def result(self) -> mp.SweepResult:
        return self.sweep()

    @cached_property
    def estimate(self) -> mp.Estimate:
        chosen = {"at": "resid_post", "over": ("layer", "pos"), "layers": [0, 1], "positions": [2, 3]}
        return mp.attribute(
            self.model, [A, A[::-1]], mp.Ablate("zero"), metric=self.metric, confirm=2, sample=1, **chosen
        )

    @cached_property
    def edges(self) -> mp.circuits.EdgeScores:
        return mp.circuits.edges(self.model, [A], self.cache, self.metric)

    @cached_property
    def circuit(self) -> mp.circuits.Circuit:
        return self.edges.top(min(40, self.edges.graph.n_edges))

    @cached_property
    def curve(self) -> mp.circuits.FaithfulnessCurve:
        return mp.circuits.faithfulness(self.model, [A, B], mp.Ablate("zero"), self.metric, self.edges, [0, 5])

    @cached_property
    def pair_result(self):
        return mp.sweep_pair(self.model, [A], [B], "resid_post", metric=self.metric, layers=[0, 1])

    @cached_property
    def head_effects(self) -> mp.circuits.HeadEffects:
        return mp.circuits.head_effects(self.model, [A], self.cache, 7, 30)

    @cached_property
    def dictionary(self):
        return mp.dictionaries.load(self.dictionary_folder)

    @cached_property
    def dictionary_folder(self) -> Path:
        arrays = without(arrays_of(np.random.default_rng(0), self.model.d_model, 12), "threshold")
        return saelens_folder(self.folder / "sae", arrays)

    @cached_property
    def store_folder(self) -> Path:
        mp.ActivationStore.capture(self.model, [A, B, [1, 2, 3]], self.folder / "store")
        return self.folder / "store"

    @cached_property
    def store(self) -> mp.ActivationStore:
        return mp.ActivationStore(self.store_folder)

    @cached_property
    def lens(self) -> mp.lens.LogitLens:
        return mp.lens.logit_lens(self.model, [A])

    @cached_property
    def tuned(self) -> mp.lens.TunedLens:
        return mp.lens.fit_tuned_lens(self.model, [A, B, [5, 6, 7], [9, 8, 7]], steps=2, held_out=0.5, skip=0)

    @cached_property
    def jacobian(self) -> mp.lens.JacobianLens:
        return mp.lens.fit_jacobian_lens(self.model, [A, B, [5, 6, 7], [9, 8, 7]], held_out=0.5, skip=0)

    @cached_property
    def parts(self):
        return mp.lens.direct_logits(self.model, [A], 7, 30)

    @cached_property
    def summary(self):
        return mp.lens.attention_summary(self.cache)

    @cached_property
    def pair(self) -> mp.PromptPair:
        clean, corrupted = (self.model.run([tokens], logits_at=-1)[0, 0] for tokens in (A, B))
        change = clean - corrupted
        return mp.PromptPair(A, B, mx.argmax(change).item(), mx.argmin(change).item())

    @cached_property
    def pairs(self) -> mp.PromptPairs:
        return mp.PromptPairs([self.pair, self.pair.swapped], "words")

    @cached_property
    def report(self):
        return self.pairs.check(self.model)

    @cached_property
    def alignment(self) -> mp.Alignment:
        return mp.Alignment(B, A, [(0, 0), (2, 2), (5, 5)])

    @cached_property
    def linear_map(self) -> mp.LinearMap:
        x = np.random.default_rng(0).normal(size=(200, 4))
        return mp.LinearMap.fit(x, 2 * x)

    @cached_property
    def experts(self) -> mp.HookedModel:
        return mp.HookedModel(tiny_model("mixtral"), self.tokenizer)

    @cached_property
    def into_both(self) -> tuple[mp.SweepResult, mp.SweepResult]:
        """The two sweeps of a 2 x 2."""
        return tuple(mp.cross_patch(self.model, self.model, [A], metric=self.metric, layers=[0, 1]) for _ in range(2))

    @cached_property
    def two_by_two(self) -> mp.TwoByTwo:
        return mp.two_by_two(self.model, self.model, [A], self.metric)

    @cached_property
    def contrast(self):
        return mp.recipes.contrast_direction(self.model, [A, B], [[1, 5], [2, 6, 9]], self.raised, HELD_OUT)

    @cached_property
    def raised(self) -> mp.metrics.Metric:
        """A metric that the difference of means raises: of the token whose logit it raises most."""
        groups = ([A, B], [[1, 5], [2, 6, 9]])
        means = [mp.recipes.mean_activations(self.model, prompts, at="resid_pre")[1] for prompts in groups]
        added = mp.Add(means[0] - means[1]).at("resid_pre", layer=1)
        change = mx.squeeze(self.model.run(HELD_OUT[1], [added])[:, -1] - self.model.run(HELD_OUT[1])[:, -1])
        return mp.metrics.LogitDiff(mx.argmax(change).item(), mx.argmin(change).item())

    @cached_property
    def vector(self) -> mx.array:
        vector = mx.arange(self.model.d_model) / self.model.d_model + 1.0
        mx.eval(vector)  # for every thread
        return vector

    @cached_property
    def mean_z(self):
        return mp.recipes.mean_activations(self.model, [A, B], "z")

    def sweep(self) -> mp.SweepResult:
        metrics = [self.metric, mp.metrics.Prob(5)]
        chosen = {"at": "resid_post", "over": ("layer", "pos"), "layers": [0, 1], "positions": [2, 3]}
        return mp.sweep(self.model, [A, B], mp.Ablate("zero"), metric=metrics, **chosen)

    def saved(self, value, name: str) -> Path:
        """A file of a value that has `save`."""
        path = self.folder / name
        if not path.exists():
            value.save(path)
        return path

    def new(self, name: str) -> Path:
        """A path to write to."""
        return self.folder / "out" / name

    @cached_property
    def classes(self) -> list[type]:
        """The class of each module of the model, which a tap exchanges."""
        return self.module_classes()

    def module_classes(self) -> list[type]:
        return [type(module) for _, module in self.model.model.named_modules()]

    @cached_property
    def weights(self) -> list[float]:
        return self.sums_of_weights()

    def sums_of_weights(self) -> list[float]:
        sums = [mx.sum(mx.abs(array)) for _, array in tree_flatten(self.model.model.parameters())]
        return [total.item() for total in sums]

    @cached_property
    def logits(self) -> np.ndarray:
        return np.array(self.model([A]).astype(mx.float32))
