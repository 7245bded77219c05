"""`Receiver` and `Path` as values, and what they refuse."""

import re

import pytest

import mlx_patch as mp
from mlx_patch.errors import KindError, SelectionError, UnknownNameError

SENDER = mp.Scale(0.0).at("z", layer=0, head=1)


def refuses(kind, message, make):
    with pytest.raises(kind, match=re.escape(message)):
        make()


def test_a_path_reads_as_it_is_written():
    assert repr(SENDER.via("q", layer=11, head=3)) == f"{SENDER!r}.via('q', layer=11, head=3)"
    assert repr(SENDER.via("logits")) == f"{SENDER!r}.via('logits')"
    assert repr(SENDER.via("k", layer=2).via("mlp", layer=4)) == f"{SENDER!r}.via('k', layer=2).via('mlp', layer=4)"
    several = [mp.Receiver("mlp", layer=2), mp.Receiver("logits")]
    assert repr(SENDER.via(several)) == f"{SENDER!r}.via([Receiver('mlp', layer=2), Receiver('logits')])"
    assert repr(mp.Receiver("q", layer=[1, 2])) == "Receiver('q', layer=(1, 2))"


def test_receivers_are_equal_by_value():
    assert mp.Receiver("q", layer=1, head=[0]) == mp.Receiver("q", layer=[1], head=0)
    assert len({mp.Receiver("logits"), mp.Receiver("logits")}) == 1
    assert str(mp.Receiver("v", layer=3, head=[0, 2])) == "v.3.0+2"


def test_a_path_keeps_its_receivers_with_another_edit():
    path = SENDER.via("q", layer=1, head=0).via("logits")
    other = mp.Scale(2.0).at("z", layer=0)
    assert path.edit is SENDER
    assert path.with_edit(other).edit is other
    assert repr(path.with_edit(other)) == repr(path).replace(repr(SENDER), repr(other))


def test_receivers_that_there_are_not_are_refused():
    refuses(UnknownNameError, "`receiver` must be a receiver. Got 'queries'.", lambda: mp.Receiver("queries"))
    refuses(SelectionError, "`layer` must be the block of 'q'. Got None.", lambda: mp.Receiver("q"))
    refuses(SelectionError, "`layer` must be None for 'logits'. Got (3,)", lambda: mp.Receiver("logits", layer=3))
    refuses(SelectionError, "`head` must be None for 'mlp'. Got (1,)", lambda: mp.Receiver("mlp", layer=3, head=1))
    refuses(SelectionError, "`layer` must be an int or a list of ints", lambda: mp.Receiver("q", layer="last"))


def test_what_is_no_receiver_is_refused():
    refuses(KindError, "`receiver` must be a name or Receivers. Got 3.", lambda: SENDER.via(3))
    refuses(KindError, "`receiver` must be a name or Receivers. Got [].", lambda: SENDER.via([]))
    refuses(KindError, "`receiver` must be a name or Receivers. Got 'q'.", lambda: SENDER.via(["q"]))
    logits = mp.Receiver("logits")
    refuses(SelectionError, "`layer` and `head` must be left out", lambda: SENDER.via(logits, layer=3))
    refuses(SelectionError, "`receiver` must name each receiver once", lambda: SENDER.via([logits, logits]))
