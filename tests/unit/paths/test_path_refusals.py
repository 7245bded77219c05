"""Paths that cannot exist are refused by name, and nothing is silent."""

import re

import mlx.core as mx
import pytest

import mlx_patch as mp
from mlx_patch.errors import (
    ArchitectureError,
    KindError,
    MissingSiteError,
    SelectionError,
    UnknownNameError,
    ValueRefusedError,
)
from mlx_patch.metrics import LogProb

TOKENS = mx.array([[11, 48, 85, 26, 63, 4, 41, 78]])
ZERO = mp.Scale(0.0)


def refuses(model, kind, message, path, **choices):
    cell = path if isinstance(path, list) else [path]
    with pytest.raises(kind, match=re.escape(message)):
        mp.sweep(model, TOKENS, over=[cell], metric=LogProb(3), **choices)


def test_a_receiver_before_its_sender_is_refused(tiny):
    model = tiny("llama")
    head = ZERO.at("z", layer=1, head=0)
    for receiver in (mp.Receiver("q", layer=0), mp.Receiver("q", layer=1), mp.Receiver("mixer", layer=1)):
        refuses(model, SelectionError, "reads the stream before its sender has written", head.via(receiver))
    itself = "to mlp of layer 0, which reads the stream before its sender has written. No such sender is before it."
    refuses(model, SelectionError, itself, ZERO.at("mlp_out", layer=0).via("mlp", layer=0))
    earlier = "Choose senders of earlier layers: layers=range(2), say."
    refuses(model, SelectionError, earlier, ZERO.at("mlp_out", layer=2).via(mp.Receiver("q", layer=2)))
    mp.paths.edits_of(model, TOKENS, head.via("mlp", layer=1))
    every_layer = {"at": "z", "over": ("layer", "head"), "via": mp.Receiver("q", layer=1)}
    with pytest.raises(SelectionError, match=r"Choose senders of earlier layers: layers=range\(1\), say\."):
        mp.sweep(model, TOKENS, ZERO, metric=LogProb(3), **every_layer)


def test_attention_does_not_feed_the_mlp_beside_it(tiny):
    path = ZERO.at("z", layer=0).via("mlp", layer=0)
    refuses(tiny("gpt_neox-parallel"), SelectionError, "its attention and MLP run in parallel", path)


def test_a_stream_is_no_sender(tiny):
    for edit in (ZERO.at("resid_pre", layer=0), ZERO.at("final_norm"), ZERO.at("model.layers.0.mlp:output")):
        refuses(tiny("llama"), ValueRefusedError, "`at` must be a site inside what writes", edit.via("logits"))


def test_a_sender_that_other_blocks_read_too_is_refused(tiny):
    for name, site in (("hunyuan", "v"), ("afm7", "k")):
        message = f"`at` must not be '{site}' of {name}, if there is a `via`: other blocks read it besides the stream."
        refuses(tiny(name), ArchitectureError, message, ZERO.at(site, layer=0).via("logits"))


def test_a_path_begins_at_an_edit():
    with pytest.raises(KindError, match=r"`sender` must be an Edit or a Path\. Got 5\. Write `edit\.via"):
        mp.Path(5, (mp.Receiver("logits"),))


def test_what_reaches_a_receiver_is_of_its_site_alone(tiny):
    path = ZERO.at("z", layer=0).via("mlp", layer=1)
    [edit] = mp.paths.edits_of(tiny("llama"), TOKENS, path)
    values = edit.intervention.source
    assert values["mlp_out", 1].shape == (1, 8, tiny("llama").d_model)
    with pytest.raises(MissingSiteError, match=r"`site` must be blocks\.1\.hook_mlp_out, .* Got \('resid_pre', 0\)"):
        values["resid_pre", 0]


def test_a_receiver_that_the_model_lacks_is_refused(tiny):
    head = ZERO.at("z", layer=0)
    refuses(tiny("deepseek_v3"), MissingSiteError, "unfolded from the cached latent", head.via("k", layer=1))
    refuses(tiny("llama"), MissingSiteError, "no 'router_logits': its MLP has no experts", head.via("router", layer=1))
    refuses(tiny("llama"), SelectionError, "`layer` must lie in", head.via("q", layer=99))
    refuses(tiny("llama"), SelectionError, "`head` of k of layer 1 must lie in -2 to 1", head.via("k", layer=1, head=2))
    refuses(tiny("llama"), SelectionError, "must not name a head twice", head.via("k", layer=1, head=[1, -1]))


def test_receivers_with_other_senders_do_not_overlap(tiny):
    model = tiny("llama")
    first, second = ZERO.at("z", layer=0, head=0), ZERO.at("embed")
    head, queries = mp.Receiver("q", layer=1, head=3), mp.Receiver("q", layer=1)
    for others in (queries, mp.Receiver("q", layer=1, head=[-1, 0]), mp.Receiver("mixer", layer=1)):
        cell = [first.via(head), second.via(others)]
        refuses(model, SelectionError, "`via` must not have receivers that overlap, with other senders", cell)
    cell = [first.via("router", layer=1), second.via("mlp", layer=1)]
    refuses(tiny("mixtral"), SelectionError, "Got router of layer 1 and mlp of layer 1 in one cell", cell)
    mp.paths.edits_of(model, TOKENS, [first.via(head), second.via(mp.Receiver("q", layer=1, head=[0, 1]))])
    mp.paths.edits_of(model, TOKENS, [first.via([head, queries])])


def test_a_cell_has_paths_or_edits(tiny):
    cell = [ZERO.at("z", layer=0).via("logits"), ZERO.at("mlp_out", layer=1)]
    refuses(tiny("llama"), ValueRefusedError, "`over` must not have a cell of both paths and edits", cell)


def test_freeze_is_one_of_two(tiny):
    model = tiny("llama")
    head = ZERO.at("z", layer=0)
    refuses(
        model, UnknownNameError, "`freeze` must be 'all' or 'attention'. Got 'mlp'", head.via("logits"), freeze="mlp"
    )
    refuses(model, ValueRefusedError, "`freeze` must be left out where there are no paths", head, freeze="attention")
    together = [head.via("logits"), ZERO.at("mlp_out", layer=1).via("logits")]
    refuses(model, ValueRefusedError, "`freeze` must be 'all' if an MLP sends", together, freeze="attention")


def test_a_run_takes_the_edits_of_a_path_and_no_path(tiny):
    model = tiny("llama")
    path = ZERO.at("z", layer=0).via("q", layer=1, head=0)
    for edits in (path, [path]):
        with pytest.raises(KindError, match=r"`edits` must hold edits, and no paths\. Got .*edits_of"):
            model.run(TOKENS, edits)
    with pytest.raises(KindError, match=r"`paths` must hold paths, which `\.via\(\.\.\.\)` makes"):
        mp.paths.edits_of(model, TOKENS, [path.edit])
    expected = mp.sweep(model, TOKENS, over=[path], metric=LogProb(3)).values[0]
    logits = model.run(TOKENS, mp.paths.edits_of(model, TOKENS, path))
    assert abs(LogProb(3)(logits).item() - expected.item()) < 1e-5


def test_choices_of_receivers_are_checked(tiny):
    choices = {"at": "z", "metric": LogProb(3), "layers": [0]}
    with pytest.raises(KindError, match=r"`via` must hold Receivers\. Got 'logits'"):
        mp.sweep(tiny("llama"), TOKENS, ZERO, over="layer", via="logits", **choices)
    with pytest.raises(ValueRefusedError, match=r"`via` must be given if `over` has 'via'"):
        mp.sweep(tiny("llama"), TOKENS, ZERO, over=("layer", "via"), **choices)
    steps = ZERO.at("z", layer=0).during(mp.steps.generated).via("logits")
    refuses(tiny("llama"), KindError, "must not use `during`", steps)
