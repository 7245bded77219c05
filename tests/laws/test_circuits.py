"""Law 12 of circuits: edges of a writer sum to its node score; all edges give the host, and none the source.

CI looks at one architecture in three, and at those where a norm stands behind the heads; `EVERY_MODEL=1` at all.
"""

import os

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.errors import ArchitectureError
from mlx_patch.testing import EXCEPTIONS, ZOO

MORE = "more than the stream"
AGAIN = "its blocks run several times"
REFUSED = {
    "afm7": MORE,
    "deepseek_v41": "copies = weight",
    "gemma3n": "predicted",
    "gemma4": "layer_scalar",
    "gemma4_text": "layer_scalar",
    "gemma4_text-experts": "layer_scalar",
    "hunyuan": MORE,
    "hunyuan-dense": MORE,
    "iquestloopcoder": AGAIN,
    "kimi_k3": "stretch",
    "longcat_flash": MORE,
    "longcat_flash_ngram": MORE,
    "muse_spark": "add_attn_alpha",
    "nanbeige": AGAIN,
    "nanbeige-normed-once": AGAIN,
    "rwkv7": MORE,
    "talkie": "a number",
}
NOT_DIFFERENTIABLE = {"recurrent_gemma": "is not a number"}
RUN = [name for name in ZOO if name not in {**EXCEPTIONS, **REFUSED, **NOT_DIFFERENTIABLE}]
NORMED = ("gemma2", "glm4")
SOME = RUN if os.environ.get("EVERY_MODEL") else list(dict.fromkeys([*RUN[::3], *NORMED]))
TOKENS = mx.array([[(11 + 37 * i) % 96 for i in range(8)]])
OTHER = mx.array([[(3 + 29 * i) % 96 for i in range(8)]])
METRIC = mp.metrics.LogitDiff(3, 5)
ROUNDING = {mx.float32: 2e-5, mx.float16: 1e-3}
"""What a sum of products may be off by, as a fraction of the largest, by the dtype of the embedding's own gradient."""


def edit_of(writer, source):
    """The edit that puts in the source's activation at a writer, which `attribute` scores as a node."""
    replace = mp.Replace(source)
    sites = {"mixer": "mixer_out", "mlp": "mlp_out", "head": "z", "input": "embed"}
    return replace.at(sites[writer.kind], layer=writer.layer, head=writer.head)


def scored(model, tokens):
    _, source = model.run_with_cache(tokens, sites=mp.circuits.writer_sites(model))
    return source, mp.circuits.edges(model, TOKENS, source, METRIC)


@pytest.mark.parametrize("name", SOME)
def test_edges_of_a_writer_sum_to_its_node_score(tiny, name):
    model = tiny(name)
    source, edges = scored(model, OTHER)
    nodes = mp.attribute(model, TOKENS, over=[edit_of(writer, source) for writer in edges.graph.writers], metric=METRIC)
    expected = nodes.values - nodes.baseline
    size = np.abs(expected).max()
    assert size > 0.01
    # An estimate is a sum with the baseline, which is rounded as such.
    rounding = 4 * np.finfo(np.float32).eps * np.abs(nodes.baseline).max()
    tolerance = ROUNDING[source["embed"].dtype] * size
    if model.layout.family.rounds:
        tolerance = 0.02 * size
    np.testing.assert_allclose(edges.node_scores().sum(axis=1), expected, atol=tolerance + rounding, rtol=0)


@pytest.mark.parametrize("name", SOME)
def test_the_same_prompt_scores_exactly_nothing(tiny, name):
    _, edges = scored(tiny(name), TOKENS)
    values = edges.values[edges.graph.has_edge]
    assert (values == 0).all()


def logits_of_circuit(model, source, edges, has_edge):
    circuit = mp.circuits.Circuit(edges.graph, has_edge)
    return np.array(mp.circuits.run(model, TOKENS, source, circuit).astype(mx.float32))


@pytest.mark.parametrize("name", SOME)
def test_all_edges_give_the_host_and_none_the_source(tiny, name):
    model = tiny(name)
    source, edges = scored(model, OTHER)
    every_edge = edges.graph.has_edge
    host_logits, source_logits = (np.array(model.run(tokens).astype(mx.float32)) for tokens in (TOKENS, OTHER))
    size = np.abs(host_logits - source_logits).max()
    assert size > 0.01
    for has_edge, expected in ((every_edge, host_logits), (np.zeros_like(every_edge), source_logits)):
        logits = logits_of_circuit(model, source, edges, has_edge)
        np.testing.assert_allclose(logits, expected, atol=1e-4 * size, rtol=0)


@pytest.mark.parametrize("name", REFUSED)
def test_streams_without_a_plain_sum_are_refused(tiny, name):
    with pytest.raises(ArchitectureError, match=rf"the sum of what is added to it\. Got .*{REFUSED[name]}"):
        mp.circuits.writer_sites(tiny(name))


def test_a_mixer_without_heads_is_one_node(tiny):
    model = tiny("mamba")
    _, edges = scored(model, OTHER)
    assert [str(writer) for writer in edges.graph.writers[:2]] == ["input", "mixer0"]
