"""Paths give what brute force on mlx_lm's own modules gives: everything frozen by hand, one path computed again."""

from dataclasses import replace
from pkgutil import resolve_name

import mlx.core as mx
import numpy as np
import pytest
from paths_by_hand import ByHand, Names

import mlx_patch as mp
from mlx_patch.architectures import Point
from mlx_patch.errors import PatchError
from mlx_patch.metrics import as_metric
from mlx_patch.sites import Site

MODELS = {
    "llama": Names(),
    "qwen3": Names(),
    "gemma2": Names(),
    "gpt_neox-parallel": Names(
        attention="attention",
        heads="attention.dense",
        q="attention.query_key_value",
        k="attention.query_key_value",
        v="attention.query_key_value",
        fused=True,
        embed="model.embed_in",
        norm="model.final_layer_norm",
        n_kv_heads=4,
    ),
    "granite": Names(),
    "mixtral": Names(mlp="block_sparse_moe", router="block_sparse_moe.gate"),
    "deepseek_v3": Names(q="self_attn.q_b_proj", router="mlp.gate"),
}
HOST = mx.array([[11, 48, 85, 26, 63, 4, 41, 78], [5, 42, 79, 20, 57, 94, 35, 72]])
SOURCE = mx.array([[17, 54, 91, 32, 69, 10, 47, 84], [3, 40, 77, 18, 55, 92, 33, 70]])
WEIGHTS = mx.arange(1, 9) / 8
FREEZES = ("all", "attention")
SITES = ("embed", "z", "mixer_out", "mlp_out")
TOLERANCE = 2e-5
"""Of numbers of about 30 in float32, which come from streams that are added up in two orders."""


@pytest.fixture(params=MODELS)
def sides(request, tiny):
    return sides_of(tiny, request.param)


def sides_of(tiny, name):
    """A tiny model as the library has it and by hand, and what patches with the source's activations."""
    model, names = tiny(name), MODELS[name]
    patch = mp.Replace(model.run_with_cache(SOURCE, sites=SITES)[1])
    return model, ByHand(model.model, names, HOST, SOURCE), patch


@as_metric
def weighted(logits):
    """The log-probability of a token, added up over all positions with weights that differ."""
    return ((logits[..., 3] - mx.logsumexp(logits, axis=-1)) * WEIGHTS).sum(axis=1)


def receivers_of(model, names):
    """A receiver of each kind that the last block has: for the library, and by hand."""
    last = model.n_layers - 1
    receivers = [(mp.Receiver("mixer", layer=last), "attention", None), (mp.Receiver("mlp", layer=last), "mlp", None)]
    has_keys = any(site.name == "k" for site in model.sites)
    receivers.append((mp.Receiver("q", layer=last, head=1), "q", 1))
    if has_keys:
        receivers += [(mp.Receiver(name, layer=last, head=1), name, 1) for name in "kv"]
    if names.router:
        receivers.append((mp.Receiver("router", layer=last), "router", None))
    return receivers


def numbers(logits):
    return np.array(weighted(logits))


@pytest.mark.parametrize("freeze", FREEZES)
def test_a_path_is_what_brute_force_gives(sides, freeze):
    model, by_hand, patch = sides
    last = model.n_layers - 1
    senders = [
        (patch.at("z", layer=0, head=1), by_hand.head(0, 1)),
        (patch.at("z", layer=0, head=3), by_hand.head(0, 3)),
        (patch.at("mlp_out", layer=0, pos=[2, 5]), by_hand.whole(("mlp", 0), [2, 5])),
        (patch.at("embed", pos=3), by_hand.whole("embed", 3)),
    ]
    cells, expected = [], []
    for edit, sender in senders:
        cells.append(edit.via("logits"))
        expected.append(numbers(by_hand.direct([sender], freeze)))
        for receiver, name, head in receivers_of(model, by_hand.names):
            cells.append(edit.via(receiver))
            changes = by_hand.through([sender], name, last, head, freeze)
            expected.append(numbers(by_hand.logits(changes)))
    result = mp.sweep(model, HOST, over=cells, metric=weighted, freeze=freeze)
    np.testing.assert_allclose(result.values, np.stack(expected), atol=TOLERANCE)
    assert np.abs(result.values - result.baseline).max(axis=1).min() > 10 * TOLERANCE  # each path carries something
    assert result.provenance["freeze"] == freeze


@pytest.mark.parametrize("freeze", FREEZES)
def test_senders_and_receivers_act_together_as_by_hand(sides, freeze):
    model, by_hand, patch = sides
    last = model.n_layers - 1
    edits = [patch.at("z", layer=0, head=0), patch.at("embed", pos=[1, 6])]
    senders = [by_hand.head(0, 0), by_hand.whole("embed", [1, 6])]
    queries, mlp = mp.Receiver("q", layer=last), mp.Receiver("mlp", layer=last)
    together = by_hand.through(senders, "q", last, None, freeze)
    both = {**together, **by_hand.through(senders, "mlp", last, None, freeze)}
    cells = [
        [edit.via(queries) for edit in edits],
        [edit.via([queries, mlp]) for edit in edits],
        [edit.via([queries, mp.Receiver("logits")]) for edit in edits],
    ]
    expected = [numbers(by_hand.logits(changes)) for changes in (together, both)]
    expected.append(numbers(by_hand.logits(together, by_hand.added_at_the_end(senders, freeze))))
    result = mp.sweep(model, HOST, over=cells, metric=weighted, freeze=freeze)
    np.testing.assert_allclose(result.values, np.stack(expected), atol=TOLERANCE)


@pytest.mark.parametrize("freeze", FREEZES)
def test_a_longer_path_is_what_brute_force_gives(sides, freeze):
    model, by_hand, patch = sides
    last = model.n_layers - 1
    first = by_hand.through([by_hand.whole("embed")], "q", 0, 2, freeze)
    queries = patch.at("embed").via("q", layer=0, head=2)
    middle = [(("attention", 0), first)]
    cells = [queries.via("logits"), queries.via("q", layer=last, head=0)]
    expected = [
        numbers(by_hand.direct(middle, freeze)),
        numbers(by_hand.logits(by_hand.through(middle, "q", last, 0, freeze))),
    ]
    result = mp.sweep(model, HOST, over=cells, metric=weighted, freeze=freeze)
    np.testing.assert_allclose(result.values, np.stack(expected), atol=TOLERANCE)
    assert np.abs(result.values - result.baseline).max(axis=1).min() > 10 * TOLERANCE


def next_head(heads_of):
    def heads(self, reader):
        heads = heads_of(self, reader)
        return heads and tuple((head + 1) % self.activations[reader.site].shape[2] for head in heads)

    return heads


def mixer_for_mlp(readers_of):
    def readers(layout, receiver):
        for reader in readers_of(layout, receiver):
            yield replace(reader, site=Site("mixer_out", reader.site.layer)) if receiver.name == "mlp" else reader

    return readers


def source_for_host(run_host):
    return lambda layout, tokens, *rest: run_host(layout, SOURCE, *rest)


def always(value):
    return lambda original: lambda *args: value


FAULTS = {
    "another head receives": ("_host:Host.heads", next_head, "all"),
    "nothing is frozen": ("_host:Host.freezes", always(False), "all"),
    "mlps are frozen, too": ("_host:Host.freezes", always(True), "attention"),
    "attention is not frozen": ("_host:Host.freezes", lambda _: lambda self, writer: writer.is_mlp, "all"),
    "senders of a writer share rows": ("_send:in_rounds", lambda _: lambda jobs: [range(len(jobs))], "all"),
    "the first change is left out": ("_send:Sent.first", lambda first: lambda self: first(self) + 1, "all"),
    "another position is given": ("_host:Host.positions_of", always((3,)), "all"),
    "the mixer receives for the mlp": ("_resolve:readers_of", mixer_for_mlp, "all"),
    "the source is the host": ("_resolve:run_host", source_for_host, "all"),
    "receivers before the logits are lost": (
        "_resolve:added_edit",
        lambda _: lambda source, unchanged: mp.Replace(source).at(source.site),
        "all",
    ),
}
"""By what is wrong: the name of what is replaced, what makes the wrong from the right, and what is frozen."""


def hold_all(sides, freeze):
    test_a_path_is_what_brute_force_gives(sides, freeze)
    test_senders_and_receivers_act_together_as_by_hand(sides, freeze)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_seeded_fault_turns_it_red(fault, tiny, monkeypatch):
    name, wrong, freeze = FAULTS[fault]
    sides = sides_of(tiny, "llama")
    hold_all(sides, freeze)
    module, _, attribute = name.partition(":")
    original = resolve_name(f"mlx_patch.paths.{name}")
    monkeypatch.setattr(f"mlx_patch.paths.{module}.{attribute}", wrong(original))
    with pytest.raises((AssertionError, PatchError, KeyError)):
        hold_all(sides, freeze)


ATTENTION = Point("self_attn", "output")
RETURNED = {"attn_out": ATTENTION, "mixer_out": ATTENTION, "mlp_out": Point("mlp", "output")}
"""What modules of llama-like blocks return, whatever is then made of it."""


def as_returned(send):
    """Senders that send what their modules return; what else is done to it before it is added is forgotten."""

    def sent(host, jobs):
        family = host.layout.family
        model = mp.HookedModel(host.layout.model, family=replace(family, block={**family.block, **RETURNED}))
        _, returned = model.run_with_cache(host.tokens, sites=list(host.activations))
        activations = {site: returned[site] for site in host.activations}
        return send(replace(host, layout=model.layout, activations=activations), jobs)

    return sent


FORGOTTEN = {"the norm behind a sender": "gemma2", "the multiplier of a sender": "granite"}
"""By what is forgotten: a model that has it."""


@pytest.mark.parametrize("fault", FORGOTTEN)
def test_what_is_forgotten_of_a_sender_turns_it_red(fault, tiny, monkeypatch):
    sides = sides_of(tiny, FORGOTTEN[fault])
    hold_all(sides, "all")
    monkeypatch.setattr("mlx_patch.paths._resolve.send", as_returned(resolve_name("mlx_patch.paths._resolve:send")))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        hold_all(sides, "all")


def test_where_nothing_is_forgotten_all_holds(tiny, monkeypatch):
    monkeypatch.setattr("mlx_patch.paths._resolve.send", as_returned(resolve_name("mlx_patch.paths._resolve:send")))
    hold_all(sides_of(tiny, "llama"), "all")
