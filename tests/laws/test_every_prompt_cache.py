"""The laws of runs over each kind of prompt cache that mlx_lm has, which holds tokens already."""

import ast
import inspect
from copy import deepcopy
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.models import cache as caches_of_mlx_lm
from mlx_lm.models.cache import (
    ArraysCache,
    BatchKVCache,
    BatchRotatingKVCache,
    CacheList,
    ConcatenateKVCache,
    QuantizedKVCache,
    make_prompt_cache,
)

from mlx_patch import Apply, HookedModel, Replace
from mlx_patch.architectures import Heads
from mlx_patch.engine import cached_arrays, offset_of
from mlx_patch.errors import KindError
from mlx_patch.laws import REWRITTEN, Bench, decides, largest_deviation, own_value, sums
from mlx_patch.testing import tiny_model

HELD, LENGTH = 9, 13
TOKENS = mx.array([[(11 + 37 * i) % 96 for i in range(LENGTH)]])
REST = TOKENS[:, HELD:]
OTHER = (REST + 48) % 96


def replaced(kind, **how):
    return lambda model: [kind(**how) for _ in make_prompt_cache(model)]


KINDS = {
    "KVCache": ("llama", make_prompt_cache),
    "KVCache and what shares its keys": ("gemma4_text", make_prompt_cache),
    "RotatingKVCache beside KVCache": ("gemma3_text", make_prompt_cache),
    "RotatingKVCache of a given size": ("llama", lambda model: make_prompt_cache(model, max_kv_size=8)),
    "ChunkedKVCache beside KVCache": ("llama4", make_prompt_cache),
    "QuantizedKVCache, 8 bits": ("llama", replaced(QuantizedKVCache, group_size=32, bits=8)),
    "QuantizedKVCache, 4 bits": ("qwen3", replaced(QuantizedKVCache, group_size=32, bits=4)),
    "ConcatenateKVCache": ("llama", replaced(ConcatenateKVCache)),
    "ConcatenateKVCache of the model's last layer": ("afm7", make_prompt_cache),
    "ArraysCache": ("mamba2", make_prompt_cache),
    "ArraysCache beside KVCache": ("qwen3_next", make_prompt_cache),
    "ArraysCache beside RotatingKVCache": ("recurrent_gemma", make_prompt_cache),
    "CacheList of ArraysCache and KVCache": ("falcon_h1", make_prompt_cache),
    "CacheList of two KVCaches": ("deepseek_v32", make_prompt_cache),
    "CacheList of ArraysCache and RotatingKVCache": ("baichuan_m1", make_prompt_cache),
    "DeepSeek V4.1's own": ("deepseek_v41", make_prompt_cache),
}
REFUSED = {
    "BatchKVCache": BatchKVCache(left_padding=[0, 1]),
    "BatchRotatingKVCache": BatchRotatingKVCache(max_size=8, left_padding=[0, 1]),
    "ArraysCache with padded rows": ArraysCache(2, left_padding=[0, 1]),
    "CacheList of a padded batch": CacheList(BatchKVCache(left_padding=[0])),
}
NO_CACHE = {"LRUPromptCache": "it stores whole prompt caches by their tokens, and no model takes it"}
LOSSY = ("RotatingKVCache of a given size", "QuantizedKVCache, 8 bits", "QuantizedKVCache, 4 bits")
"""Kinds over which a prompt in parts is meant to differ from the whole: keys are dropped or rounded."""


class GoingOn:
    """A model whose every run goes on from a copy of a prompt cache."""

    def __init__(self, model, held):
        self._model, self._held = model, held

    def __getattr__(self, name):
        return getattr(self._model, name)

    def run(self, *args, **kwargs):
        return self._model.run(*args, prompt_cache=deepcopy(self._held), **kwargs)

    def run_with_cache(self, *args, **kwargs):
        return self._model.run_with_cache(*args, prompt_cache=deepcopy(self._held), **kwargs)


class HeldBench(Bench):
    """What the laws share, of a model over a prompt cache that holds the first tokens."""

    def held(self):
        return deepcopy(self.model._held)

    @cached_property
    def plain(self):
        return self.model.model(self.tokens, cache=self.held())

    def parts_of_the_rest(self, size):
        return [self.tokens[:, start : start + size] for start in range(0, self.tokens.shape[1], size)]

    def unwritten(self):
        """The sites for which attention is not written out. Over quantised keys it rounds otherwise where it is."""
        return [site for site in self.model.sites if site.name not in REWRITTEN]


@cache
def bench(kind):
    name, made = KINDS[kind]
    model = HookedModel(tiny_model(name))
    held = made(model.model)
    model.run(TOKENS[:, :HELD], prompt_cache=held)
    return HeldBench(GoingOn(model, held), REST, OTHER)


every_kind = pytest.mark.parametrize("kind", KINDS)


def classes_in(caches):
    """The names of the classes of prompt caches, of those in lists too."""
    return {name for entry in caches for name in (type(entry).__name__, *classes_in(getattr(entry, "caches", ())))}


def same(one, other):
    return one.dtype == other.dtype and mx.array_equal(one, other).item()


@every_kind
def test_law_1_watching_leaves_the_logits_and_the_cache(kind):
    here = bench(kind)
    plain, watched = here.held(), here.held()
    logits = here.model.model(REST, cache=plain)
    seen, activations = here.model._model.run_with_cache(REST, sites=here.unwritten(), prompt_cache=watched)
    assert same(seen, logits)
    assert all(same(a, b) for a, b in zip(cached_arrays(watched), cached_arrays(plain), strict=True))
    assert offset_of(watched) == LENGTH
    assert activations.positions == tuple(range(HELD, LENGTH))
    allowed = 2 * here.scale.close if kind.startswith("Quantized") else here.exactly("pattern")
    assert largest_deviation(here.captured_run[0], logits) <= allowed
    assert here.n_changed() == 0


@every_kind
@pytest.mark.parametrize("law", [sums, own_value, decides], ids=["2", "3", "4"])
def test_laws_2_to_4_hold_over_it(kind, law):
    here = bench(kind)
    quantised = kind.startswith("Quantized")
    broken = [f for f in law(here) if not f.held and not (quantised and f.deviation <= 2 * here.scale.close)]
    assert broken == []


@every_kind
def test_law_5_an_edit_does_not_reach_back(kind):
    here, at = bench(kind), 2
    for name in here.names:
        edited = here.run(Replace(here.donor[1]).at(name, pos=HELD + at))
        assert largest_deviation(edited[:, :at], here.plain[:, :at]) <= 2 * here.scale.close, name
        assert not same(edited[:, at], here.plain[:, at]), name


class Planned(Exception):
    """Raised on purpose."""


def fail(activation, site):
    raise Planned


@every_kind
def test_law_6_a_run_that_fails_leaves_the_cache_as_it_was(kind):
    here = bench(kind)
    held = here.held()
    before = [mx.array(array) for array in cached_arrays(held)]
    for site in (here.model.sites[0], here.model.sites[len(here.model.sites) // 2], here.end):
        with pytest.raises(Planned):
            here.model._model.run(REST, [Apply(fail).at(site.name, layer=site.layer)], prompt_cache=held)
        assert all(same(a, b) for a, b in zip(cached_arrays(held), before, strict=True)), site
        assert offset_of(held) == HELD
    assert same(here.model._model.run(REST, prompt_cache=held), here.plain)


@pytest.mark.parametrize("kind", [kind for kind, (name, _) in KINDS.items() if name != "mamba2"])
def test_law_7_patterns_sum_to_1_and_see_no_later_key(kind):
    here, new = bench(kind), REST.shape[1]
    layers = here.layers("pattern")
    assert layers
    for layer in layers:
        pattern = here.captured_run[1]["pattern", layer]
        whole = mx.ones(pattern.shape[:-1])
        sinks = here.heads.sinks
        assert sinks or largest_deviation(mx.sum(pattern, axis=-1), whole) <= here.scale.close
        further = here.heads.further
        more = further(here.model.layout.blocks[layer], HELD + new).size if further else 0
        of_positions = pattern[..., : pattern.shape[-1] - more]
        assert mx.max(mx.abs(mx.triu(of_positions[..., -new:], 1))).item() == 0.0


@pytest.mark.parametrize(
    "kind", [kind for kind, (name, _) in KINDS.items() if name in ("llama", "qwen3", "gemma3_text")]
)
def test_law_7_patterns_over_what_the_cache_gives_back_make_z(kind):
    here, held = bench(kind), bench(kind).held()
    assert here.heads == Heads()
    own = here.model._model.run_with_cache(REST, sites=("pattern", "z"), prompt_cache=held)[1]
    for layer in here.layers("pattern"):
        values = held[layer].keys_and_values()[1]
        if isinstance(values, tuple):
            values = mx.dequantize(*values, group_size=held[layer].group_size, bits=held[layer].bits)
        pattern, z = own["pattern", layer], own["z", layer]
        assert pattern.shape[-1] == HELD + REST.shape[1]  # of all positions, those that are gone too
        gone = pattern.shape[-1] - values.shape[2]
        assert not pattern[..., :gone].any().item()
        pattern = pattern[..., gone:]
        by_query_head = mx.repeat(values, z.shape[2] // values.shape[1], axis=1)
        assert largest_deviation((pattern @ by_query_head).swapaxes(1, 2), z) <= 2 * here.scale.close, layer


@pytest.mark.parametrize("size", [1, 2], ids=["token by token", "two at a time"])
@every_kind
def test_law_9_parts_give_what_the_bare_model_gives(kind, size):
    """Parts of the rest of the prompt, over the cache."""
    here, plain, watched = bench(kind), bench(kind).held(), bench(kind).held()
    parts = here.parts_of_the_rest(size)
    bare = mx.concatenate([here.model.model(part, cache=plain) for part in parts], axis=1)
    seen = [here.model._model.run_with_cache(part, sites=here.unwritten(), prompt_cache=watched) for part in parts]
    assert same(mx.concatenate([logits for logits, _ in seen], axis=1), bare)
    if kind not in LOSSY:
        whole = here.model.model(TOKENS, cache=make_prompt_cache(here.model.model))[:, HELD:]
        assert largest_deviation(bare, whole) <= here.scale.half_the_digits
        own = largest_deviation(bare, here.plain)
        for site in here.unwritten():
            got = mx.concatenate([activations[site] for _, activations in seen], axis=1)
            assert largest_deviation(got, here.captured_run[1][site]) <= here.scale.beside(own), site


@pytest.mark.parametrize("kind", REFUSED)
def test_padded_rows_are_refused(kind):
    message = r"`prompt_cache` must hold the same number of positions in each row\. Got a padded batch .* Group prompts"
    with pytest.raises(KindError, match=message):
        HookedModel(tiny_model("llama")).run(TOKENS, prompt_cache=[REFUSED[kind]] * 3)


def classes_of_mlx_lm():
    """The names of the prompt caches that the installed mlx_lm defines, for all models and beside some."""
    base = caches_of_mlx_lm._BaseCache
    defined = {
        name for name, kind in vars(caches_of_mlx_lm).items() if inspect.isclass(kind) and issubclass(kind, base)
    }
    (folder,) = find_spec("mlx_lm.models").submodule_search_locations
    for path in Path(folder).glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        defined |= {node.name for node in tree.body if isinstance(node, ast.ClassDef) and node.name.endswith("Cache")}
    return defined - {base.__name__}


def test_every_prompt_cache_is_held_to_the_laws_or_refused():
    """Where this fails, mlx_lm has another: give it a line in KINDS, or in REFUSED with its test."""
    held = {name for kind in KINDS for name in classes_in(bench(kind).held())}
    accounted = held | {type(entry).__name__ for entry in REFUSED.values()} | set(NO_CACHE)
    assert len(held) >= 8
    assert accounted == classes_of_mlx_lm()
