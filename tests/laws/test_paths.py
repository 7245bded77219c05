"""Law 12, the part of paths: on every architecture, what is sent arrives, and what is not sent changes no bit."""

import os

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.errors import ArchitectureError
from mlx_patch.metrics import LogProb
from mlx_patch.testing.zoo import EXCEPTIONS, ZOO

WITHOUT_PATHS = {
    "deepseek_v41": "it has 2 streams, which its blocks mix",
    "gemma3n": "it has 4 streams, which its blocks mix",
    "gemma4": "its blocks add more than mixer and MLP",
    "gemma4_text": "its blocks add more than mixer and MLP",
    "iquestloopcoder": "its blocks run several times",
    "kimi_k3": "later blocks read what enters a block besides the stream",
    "longcat_flash": "a block is 2 layers, which overlap",
    "longcat_flash_ngram": "a block is 2 layers, which overlap",
    "nanbeige": "its blocks run several times",
    "nanbeige-normed-once": "its blocks run several times",
    "talkie": "its blocks add more than mixer and MLP",
}
"""Models that have no paths, and why."""
RUN = [name for name in ZOO if name not in EXCEPTIONS and name not in WITHOUT_PATHS]
SHARE = RUN if os.environ.get("EVERY_MODEL") else RUN[::3]
HOST = mx.array([[11, 48, 85, 26, 63, 4, 41, 78], [5, 42, 79, 20, 57, 94, 35, 72]])
SOURCE = mx.array([[17, 54, 91, 32, 69, 10, 47, 84], [3, 40, 77, 18, 55, 92, 33, 70]])
METRIC = LogProb(3)
WRITERS = ("mixer_out", "mlp_out")
KINDS = {
    "q": "q",
    "k": "k",
    "v": "v",
    "mixer_out": "mixer",
    "router_logits": "router",
    "mlp_out": "mlp",
    "resid_post": "logits",
}
"""The sites of receivers, and their names."""


def receivers_of(model):
    """The receivers of the last block, each kind that it has, with their sites."""
    last = model.n_layers - 1
    receivers = {}
    for site in model.sites:
        if site.layer == last and site.name in KINDS:
            layer = None if site.name == "resid_post" else last
            receivers[site] = mp.Receiver(KINDS[site.name], layer=layer)
    return receivers


def senders_before(model, site, intervention):
    """Every writer that a site of the last block reads, as edits; the embedding first."""
    is_at_end, last = site.name == "resid_post", model.n_layers - 1
    senders = [intervention.at("embed")]
    for writer in model.sites:
        if writer.name not in WRITERS:
            continue
        in_block = writer.name == "mixer_out" and site.name in ("mlp_out", "router_logits")
        is_read = in_block and any(other == mp.Site("resid_mid", last) for other in model.sites)
        if writer.layer < last or is_at_end or is_read:
            senders.append(intervention.at(writer))
    return senders


def captured(model, tokens):
    sites = [site for site in model.sites if site.name in ("embed", *KINDS)]
    return model.run_with_cache(tokens, sites=sites)[1]


@pytest.mark.parametrize("name", SHARE)
def test_what_carries_nothing_changes_no_bit(name, tiny):
    model = tiny(name)
    host = captured(model, HOST)
    own = mp.Replace(host)
    for site, receiver in receivers_of(model).items():
        paths = [sender.via(receiver) for sender in senders_before(model, site, own)[1:]]
        edits = mp.paths.edits_of(model, HOST, paths)
        assert mx.array_equal(model.run(HOST, edits), model.run(HOST)), receiver


@pytest.mark.parametrize("name", SHARE)
def test_all_differences_give_a_receiver_the_source_value(name, tiny):
    model = tiny(name)
    source = captured(model, SOURCE)
    for site, receiver in receivers_of(model).items():
        paths = [sender.via(receiver) for sender in senders_before(model, site, mp.Replace(source))]
        edits = mp.paths.edits_of(model, HOST, paths)
        _, cache = model.run_with_cache(HOST, sites=[site], edits=edits)
        expected = np.array(source[site])
        np.testing.assert_allclose(np.array(cache[site]), expected, atol=2e-5 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("name", SHARE)
def test_paths_to_all_readers_are_the_edit(name, tiny):
    model = tiny(name)
    patch, last = mp.Replace(captured(model, SOURCE)), model.n_layers - 1
    names = {site.name for site in model.sites if site.layer == last}
    readers = {"mlp_out": [mp.Receiver("logits")], "mixer_out": [mp.Receiver("logits")]}
    if {"resid_mid", "mlp_out"} <= names:
        readers["mixer_out"].append(mp.Receiver("mlp", layer=last))
    for writer in names.intersection(WRITERS):
        edit = patch.at(writer, layer=last)
        values = mp.sweep(model, HOST, over=[edit.via(readers[writer]), edit], metric=METRIC).values
        np.testing.assert_allclose(values[0], values[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", WITHOUT_PATHS)
def test_a_model_without_paths_says_why(name, tiny):
    model = tiny(name)
    path = mp.Scale(0.0).at("mlp_out", layer=-1).via("logits")
    with pytest.raises(ArchitectureError, match=rf"`via` must be left out for \w+: {WITHOUT_PATHS[name]}"):
        mp.sweep(model, HOST, over=[path], metric=METRIC)


@pytest.mark.parametrize("name", dict.fromkeys([*SHARE, "rwkv7"]))
def test_a_direct_effect_is_the_run_of_its_edits(name, tiny):
    """A sweep computes what reaches the logits at the positions that are read alone, `edits_of` at all."""
    model = tiny(name)
    patch = mp.Replace(captured(model, SOURCE))
    writers = [site for site in model.sites if site.layer == 0 and site.name in WRITERS]
    paths = [patch.at(writer).via("logits") for writer in writers]
    swept = mp.sweep(model, HOST, over=paths, metric=METRIC, freeze="attention")
    for path, values in zip(paths, swept.values, strict=True):
        logits = model.run(HOST, mp.paths.edits_of(model, HOST, path, freeze="attention"))
        np.testing.assert_allclose(values, np.array(METRIC(logits)), rtol=1e-5, atol=1e-5)
