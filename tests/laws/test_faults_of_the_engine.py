"""The list of seeded faults, last part: an engine that errs. Each must turn the named law red."""

from contextlib import nullcontext

import mlx.core as mx
import pytest
from faults import Fault

from mlx_patch.architectures import Fused, HeadsFirst, Interleaved, Times, attribute_at
from mlx_patch.engine import Hook, _attention, _hook_state, _prompt_cache, _recipes, _recipes_experts, _tap, _visit
from mlx_patch.errors import EditNotUsedError
from mlx_patch.interventions import Scale, Span, Where, _edit, index_of
from mlx_patch.laws import check_laws, watching
from mlx_patch.model import _hooks, _running

resolve_indices, local = _edit._resolve_indices, Span.local
attend, recipe_of = _recipes.attend, dict(_recipes._RECIPES)
plain_visit, slice_hook, spread = _visit.Visit, _hooks.slice_hook, _recipes_experts.spread


def read_only(self, raw, now):
    self.met, self.acted = self.met + 1, self.acted + 1
    self.action(self.place.point.view.read(raw, self.place.block), now)
    return raw


def in_place(self, value):
    self.whole[index_of(self.picks, self.whole.shape)] = value
    return self.whole


def not_cast(value, own, intervention):
    return mx.broadcast_to(value, own.shape)


def picked(what, pick):
    """Indices along one axis picked otherwise."""
    return lambda axis, choice, size: pick(choice, size) if axis == what else resolve_indices(axis, choice, size)


def moved_by(step):
    return lambda self, pos: tuple((p + step) % self.length for p in local(self, pos))


def left_swapped(frame):
    """Frames leave, and modules keep the class that they had."""
    _tap._registry.frames = tuple(entry for entry in _tap._registry.frames if entry() not in (None, frame))


def sees_the_next(scores, mask):
    queries, keys = scores.shape[-2:]
    allowed = mx.arange(keys - queries, keys)[:, None] + 1 >= mx.arange(keys)
    return mx.where(allowed, scores, mx.array(mx.finfo(scores.dtype).min, scores.dtype))


def tiled(queries, keys, values, *rest):
    repeats = (1, queries.shape[1] // keys.shape[1], 1, 1)
    return attend(queries, mx.tile(keys, repeats), mx.tile(values, repeats), *rest)


def without_scale(queries, keys, values, scale, *rest):
    return attend(queries, keys, values, 1.0, *rest)


def before_the_mask(queries, keys, values, scale, mask, sinks, emit):
    def late(event, array):
        return array if event == "attn_scores" else emit(event, array)

    grouped = mx.repeat(keys, queries.shape[1] // keys.shape[1], axis=1)
    emit("attn_scores", (queries * scale) @ grouped.swapaxes(-1, -2))
    return attend(queries, keys, values, scale, mask, sinks, late)


def stored_before_the_edit(self, keys, values):
    all_keys, all_values = self._cache.update_and_fetch(keys, self._on_fresh("v", values))
    return mx.concatenate([all_keys[:, :, : -keys.shape[2]], self._on_fresh("rot_k", keys)], axis=2), all_values


def stored_a_little_off(self, keys, values):
    keys, values = self._on_fresh("rot_k", keys), self._on_fresh("v", values)
    return self._cache.update_and_fetch((1 + 3e-5) * keys, values)


class PutBackALittleOff(_prompt_cache.Restored):
    def __exit__(self, failed, *details):
        super().__exit__(failed, *details)
        for array in _prompt_cache.cached_arrays(self.cache) if failed is not None else ():
            array[...] = (1 + 3e-5) * array


def softmax_by_groups_turned(listener, scope, call):
    """Heads numbered group by group the wrong way round: `(repeat, kv_head)`."""
    replaced, call = recipe_of["softmax"](listener, scope, call)
    softmax = replaced["mx"].softmax

    def turned(scores, *args, **kwargs):
        return softmax(scores.swapaxes(1, 2), *args, **kwargs).swapaxes(1, 2) if scores.ndim == 5 else softmax(scores)

    return {"mx": _recipes.Mlx(softmax=turned)}, call


def expert_weights_read_only(listener, indices, weights, experts):
    spread(listener, indices, weights, experts)
    return indices, weights


def part_at_the_end(self, raw, new, block):
    start, end, total = self._bounds(block)
    heads = raw.reshape(*raw.shape[:-1], total, -1)
    return mx.concatenate([heads[..., :start, :], heads[..., end:, :], new], axis=-2).reshape(raw.shape)


def stacked_otherwise(self, raw, new, block):
    parts = self._split(raw, block)
    columns = [new if i == self.part else parts[..., i, :] for i in range(self.parts)]
    return mx.concatenate(columns, axis=-1).reshape(raw.shape)[..., ::-1]


def late_first(frames, module):
    visit = plain_visit(frames, module)
    visit._pairs.reverse()
    return visit


def other_logits(layout, logits_at):
    return slice_hook(layout, [0, 1] if isinstance(logits_at, list) else 0)


def not_taken_back(self, raw, new, block):
    return new


def taken_back_twice(self, raw, new, block):
    return new / attribute_at(block, self.factor) ** 2


def heads_not_put_back(self, raw, new, block):
    return new.reshape(raw.shape)


def every(wanted, size):
    return tuple(range(size))


def next_head(wanted, size):
    return tuple((n + 1) % size for n in wanted)


EDITS = [
    Fault("an edit is dropped", Hook, "on", read_only, 4),
    Fault("an edit is made in place", Where, "put", in_place, 5),
    Fault("an edit is not cast", _edit, "fitted", not_cast, 3, precision="bfloat16"),
    Fault("an edit comes after what reads it", _visit, "Visit", late_first, 5),
    Fault("an edit is at the next head", _edit, "_resolve_indices", picked("head", next_head), 7),
    Fault("an edit is at every head", _edit, "_resolve_indices", picked("head", every), 7),
    Fault("an edit is in every row", _edit, "_resolve_indices", picked("batch", every), 7),
    Fault("an edit is a position late", Span, "local", moved_by(1), 5),
    Fault("an edit is a position early", Span, "local", moved_by(-1), 5),
    Fault("an edit is at every position", Span, "local", lambda self, pos: tuple(range(self.length)), 5),
    Fault("logits are of other positions", _running, "slice_hook", other_logits, 1),
    Fault("resid_mid leaves the skip behind", _hooks, "_with_rejoin", lambda layout, edit: [edit], 4),
]
VIEWS = [
    Fault("a multiplier is not taken back", Times, "write", not_taken_back, 3, "granite"),
    Fault("a multiplier is taken back twice", Times, "write", taken_back_twice, 3, "granite"),
    Fault("a part is put back at the end", Fused, "write", part_at_the_end, 3, "phi3"),
    Fault("parts are put back in another order", Interleaved, "write", stacked_otherwise, 3, "gpt_neox-parallel"),
    Fault("heads are not put back", HeadsFirst, "write", heads_not_put_back, 3, "gemma2"),
]
ATTENTION = [
    Fault("the mask is off by one", _attention, "masked", sees_the_next, 7),
    Fault("scores are not masked", _attention, "masked", lambda scores, mask: scores, 7),
    Fault("the softmax goes over queries", _attention, "attention_weights", lambda x, sinks: mx.softmax(x, axis=-2), 7),
    Fault("KV heads are tiled, not repeated", _recipes, "attend", tiled, 7),
    Fault("scores are not scaled", _recipes, "attend", without_scale, 1),
    Fault("scores are shown before the mask", _recipes, "attend", before_the_mask, 7),
    Fault("an edit of rot_k is not kept", _recipes._WatchedCache, "update_and_fetch", stored_before_the_edit, 9),
    Fault("keys are kept a little off", _recipes._WatchedCache, "update_and_fetch", stored_a_little_off, 9),
    Fault("heads are numbered by repeat", _recipes._RECIPES, "softmax", softmax_by_groups_turned, 7, "gemma2"),
    Fault("expert weights are only read", _recipes_experts, "spread", expert_weights_read_only, 5, "mixtral"),
]
RUNS = [
    Fault("a class is not restored", _tap, "take_out", left_swapped, 1),
    Fault("a class is not restored after an exception", _tap, "take_out", left_swapped, 6),
    Fault("a prompt cache is not put back", _running, "Restored", nullcontext, 6),
    Fault("a prompt cache is put back a little off", _running, "Restored", PutBackALittleOff, 6),
    Fault("positions start again at a prompt cache", _hook_state, "offset_of", lambda cache: 0, EditNotUsedError),
]


@pytest.fixture
def seeded(monkeypatch):
    """Puts a fault in. What taps left behind is forgotten afterwards."""
    monkeypatch.setattr(_tap, "_registry", _tap._Registry())
    return lambda fault: fault.seed(monkeypatch)


@pytest.mark.parametrize("fault", [*EDITS, *VIEWS, *ATTENTION, *RUNS], ids=str)
def test_a_fault_in_the_engine_is_seen(broken, seeded, fault):
    seeded(fault)
    assert fault.seen in broken(fault.model, precision=fault.precision)


def test_a_class_that_a_run_leaves_is_told_beside_others(tiny, tokens, monkeypatch):
    """Of a run that this thread has made since, even while another module is tapped for a block around."""
    model, edit = tiny(), Scale(2.0).at("mlp_out", layer=0)
    take_out, left = _tap.take_out, []

    def faulty(bench):
        monkeypatch.setattr(_tap, "take_out", left.append)
        yield from watching(bench)
        monkeypatch.setattr(_tap, "take_out", take_out)

    with model.editing(edit):
        model.model(tokens)
        report = check_laws(model, tokens, (faulty,))
    assert [finding.what for finding in report.broken] == ["classes of modules"]
    for frame in left:
        take_out(frame)
