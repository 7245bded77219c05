"""Checkpoints of sweeps: stopped anywhere they go on to the same bits, and no other sweep goes on from them."""

import json
import os
import signal
import zipfile

import mlx.core as mx
import numpy as np
import pytest

from mlx_patch import ActivationCache, Add, Apply, HookedModel, Interpolate, Replace, Scale, sweep
from mlx_patch.errors import FileError, KindError
from mlx_patch.execution import _run
from mlx_patch.execution.measurements import _logits
from mlx_patch.execution.passes import PassRun
from mlx_patch.files import Format, array_members, read_archive, write_members, written_whole
from mlx_patch.metrics import LogProb
from mlx_patch.testing import tiny_model

ARRAYS = ("values", "done", "baseline", "token_layers", "skipped")


class Stop(Exception):
    """What stops a sweep in a test."""


def stopping_after(passes, error=Stop):
    """A progress function that fails when so many passes are done in this process."""
    seen = []

    def told(done, total):
        seen.append(done)
        if len(seen) == passes:
            raise error

    return told


@pytest.fixture
def counted(monkeypatch):
    """What ran: passes and unpatched runs, in order."""
    ran = []

    def counting(module, name):
        function = getattr(module, name)

        def count(*args, **kwargs):
            ran.append(name)
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, count)

    counting(_run, "_start_pass")
    counting(_logits, "run_unpatched")
    return ran


def source(model, site="resid_post"):
    return model.run_with_cache(mx.array([[12, 8, 5, 6, 3, 40, 1, 7]]), sites=(site,))[1]


@pytest.fixture
def wanted(tiny, tokens):
    """The arguments of a small sweep, 8 cells in 4 passes."""
    model = tiny("llama")
    return arguments(model, tokens)


def arguments(model, tokens, executor="auto"):
    return {
        "model": model,
        "tokens": tokens,
        "intervention": Replace(source(model)),
        "at": "resid_post",
        "over": ("layer", "pos"),
        "layers": [0, 1],
        "positions": [0, 2, 5, 7],
        "metric": LogProb(3),
        "executor": executor,
    }


# On mamba2 and the hybrids with its chunks the unpatched run rounds differently when it is made in other pieces.
MODELS = ["llama", "jamba", "mamba2", "falcon_h1", "nemotron_h", "gemma3n"]


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["auto", "rows"])
@pytest.mark.parametrize("name", MODELS)
def test_stopped_after_any_pass_it_goes_on_to_the_same_bits(tiny, tokens, tmp_path, name, executor):
    wanted = arguments(tiny(name), tokens, executor)
    plain = sweep(**wanted)
    plain.save(tmp_path / "plain.npz")
    path, whole = tmp_path / "stopped", tmp_path / "whole"
    sweep(**wanted, checkpoint=whole)
    passes = len(plain.plan.passes)
    assert passes == 4
    for k in range(1, passes + 1):
        with pytest.raises(Stop):
            sweep(**wanted, checkpoint=path, progress=stopping_after(k))
        result = sweep(**wanted, checkpoint=path)
        assert path.read_bytes() == whole.read_bytes()
        result.save(tmp_path / "result.npz")
        assert (tmp_path / "result.npz").read_bytes() == (tmp_path / "plain.npz").read_bytes()
        path.unlink()


def test_one_pass_a_process_comes_to_the_same_bits(tiny, tokens, tmp_path):
    wanted = {**arguments(tiny("falcon_h1"), tokens), "memory": 1}
    sweep(**wanted, checkpoint=tmp_path / "whole")
    path, stops = tmp_path / "stopped", 0
    while stops < 20:
        try:
            sweep(**wanted, checkpoint=path, progress=stopping_after(2 if stops else 1))  # the first tells what is done
            break
        except Stop:
            stops += 1
    assert stops == 8
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()


def test_several_lengths_and_several_metrics_go_on_too(tiny, tmp_path):
    """Prompts of several lengths."""
    model = tiny("llama")
    prompts = [[11, 48, 85], [26, 63, 4, 41], [1, 2, 3]]
    wanted = {
        "model": model,
        "tokens": prompts,
        "intervention": Scale(0.0),
        "at": ["mlp_out", "resid_post"],
        "over": ("site", "layer"),
        "positions": [-1],
        "metric": [LogProb([3, 4, 5]), lambda logits: logits[:, 0].max(axis=-1)],
        "memory": 1,
    }
    plain = sweep(**wanted)
    sweep(**wanted, checkpoint=tmp_path / "whole")
    for k in range(1, len(plain.plan.passes)):
        path = tmp_path / f"{k}"
        with pytest.raises(Stop):
            sweep(**wanted, checkpoint=path, progress=stopping_after(k))
        result = sweep(**wanted, checkpoint=path)
        assert path.read_bytes() == (tmp_path / "whole").read_bytes()
        assert np.array_equal(result.values, plain.values)
        assert np.array_equal(result.baseline, plain.baseline)
        assert result.provenance == plain.provenance


def test_what_is_left_alone_is_run(wanted, tmp_path, counted):
    with pytest.raises(Stop):
        sweep(**wanted, checkpoint=tmp_path / "a", progress=stopping_after(3))
    counted.clear()
    told = []
    sweep(**wanted, checkpoint=tmp_path / "a", progress=lambda *done: told.append(done))
    assert counted == ["run_unpatched", "_start_pass"]
    assert told == [(6, 8), (8, 8)]


def test_a_finished_sweep_is_read_and_nothing_is_run(wanted, tmp_path, counted):
    one = sweep(**wanted, checkpoint=tmp_path / "a")
    counted.clear()
    told = []
    other = sweep(**wanted, checkpoint=tmp_path / "a", progress=lambda *done: told.append(done))
    assert counted == []
    assert told == [(8, 8)]
    assert np.array_equal(one.values, other.values)
    assert (one.plan, one.provenance, other.complete) == (other.plan, other.provenance, True)


def test_a_finished_sweep_with_a_nan_baseline_is_not_rerun(wanted, tmp_path, counted):
    def nan(logits):
        return logits[:, -1, 0] * float("nan")

    sweep(**{**wanted, "metric": nan}, checkpoint=tmp_path / "a")
    counted.clear()
    sweep(**{**wanted, "metric": nan}, checkpoint=tmp_path / "a")
    assert counted == []


def test_it_goes_on_by_the_plan_that_it_was_begun_with(wanted, tmp_path):
    with pytest.raises(Stop):
        sweep(**wanted, checkpoint=tmp_path / "a", progress=stopping_after(1))
    result = sweep(**wanted, checkpoint=tmp_path / "a", memory=1)
    assert result.plan == sweep(**wanted).plan != sweep(**wanted, memory=1).plan


def test_a_pass_that_fails_leaves_the_one_before_on_disk(wanted, tmp_path, monkeypatch):
    """And the model as it was."""
    model = wanted["model"]
    classes = [type(module) for module in model.model.modules()]
    rows, made = PassRun.run, []

    def failing(self, *args, **kwargs):
        values = rows(self, *args, **kwargs)
        made.append(self)
        if len(made) == 3:
            raise Stop
        return values

    monkeypatch.setattr(PassRun, "run", failing)
    with pytest.raises(Stop):
        sweep(**wanted, checkpoint=tmp_path / "a")
    assert done(tmp_path / "a") == 4  # two passes of two cells
    assert [type(module) for module in model.model.modules()] == classes
    monkeypatch.undo()
    assert np.array_equal(sweep(**wanted, checkpoint=tmp_path / "a").values, sweep(**wanted).values)


def done(path):
    return int(read_archive(path, "", Format("mlx_patch.sweep.checkpoint", 1), ARRAYS)[1]["done"].sum())


def interrupting(done, total):
    if done >= 4:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("kept", [True, False])
def test_ctrl_c_returns_what_is_done(wanted, tmp_path, kept):
    checkpoint = {"checkpoint": tmp_path / "a"} if kept else {}
    whole = sweep(**wanted)
    result = sweep(**wanted, **checkpoint, progress=interrupting)
    assert not result.complete
    assert result.missing == 4
    ran = ~np.isnan(result.values)
    assert np.array_equal(result.values[ran], whole.values[ran])
    assert np.array_equal(result.baseline, whole.baseline)
    assert result.provenance["token_layers"] < whole.provenance["token_layers"]
    if kept:
        assert done(tmp_path / "a") == 4
        assert np.array_equal(sweep(**wanted, **checkpoint).values, whole.values)


def test_ctrl_c_while_the_file_is_written_loses_nothing(wanted, tmp_path, monkeypatch):
    writes, whole = [], zipfile.ZipFile.writestr

    def interrupted(self, *args):
        writes.append(args)
        if len(writes) == 8:  # in the second file
            raise KeyboardInterrupt
        return whole(self, *args)

    monkeypatch.setattr(zipfile.ZipFile, "writestr", interrupted)
    result = sweep(**wanted, checkpoint=tmp_path / "a")
    assert result.missing == 4
    assert done(tmp_path / "a") == 4
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_ctrl_c_before_anything_is_done_goes_through(wanted, tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(_logits, "run_unpatched", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(**wanted, checkpoint=tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def changed_weights(model):
    other = HookedModel(tiny_model("llama", seed=1))
    assert other.identity == model.identity
    return other


def fill(by):
    return Apply(lambda activation, site: activation * by, name="times")


def metric_of(token):
    return lambda logits: logits[:, -1, token]


DIFFERENCES = {
    "model": (lambda now: {"model": changed_weights(now["model"])}, r"another model \(weights\). Give another path"),
    "dtype": (
        lambda now: {"model": HookedModel(tiny_model("llama", "float16"))},
        r"another model \(dtype: 'float32' in the file, 'float16' here, weights\)",
    ),
    "tokens": (
        lambda now: {"tokens": mx.array([[11, 48, 85, 26, 63, 4, 41, 77]])},
        r"another prompt \(number 1 of 1: 8 tokens, which differs\)",
    ),
    "rows": (
        lambda now: {"tokens": mx.concatenate([now["tokens"]] * 2)},
        r"another prompt \(1 in the file, 2 here\)",
    ),
    "source": (
        lambda now: {"intervention": Replace(doubled(now["intervention"].source))},
        r"another intervention \(number 1 of 1: Replace\(ActivationCache.*\), which differs\)",
    ),
    "intervention": (
        lambda now: {"intervention": Scale(2.0)},
        r"another intervention \(number 1 of 1: Replace\(.*\) in the file, Scale\(2.0\) here\)",
    ),
    "site": (lambda now: {"at": "resid_pre", "intervention": Scale(2.0)}, r"another choice of cells \(site\)"),
    "layers": (lambda now: {"layers": [1, 0]}, r"another choice of cells \(layer\)"),
    "positions": (lambda now: {"positions": [0, 2, 5, 6]}, r"another choice of cells \(pos\)"),
    "number": (
        lambda now: {"layers": [1]},
        r"another choice of cells \(number: 8 in the file, 4 here, site, layer, pos",
    ),
    "order": (lambda now: {"over": ("pos", "layer")}, r"another choice of cells \(layer, pos\)"),
    "metric": (
        lambda now: {"metric": LogProb(4)},
        r"another metric \(.*log_prob\(3\) in the file, log_prob\(4\) here",
    ),
    "metric's position": (
        lambda now: {"metric": LogProb(3, pos=6, name="log_prob(3)")},
        r"another metric \(.*log_prob\(3\), which differs",
    ),
    "executor": (lambda now: {"executor": "rows"}, r"another executor \(name: 'grow' in the file, 'rows' here\)"),
}


def doubled(cache):
    arrays = {site: 2 * array for site, array in cache.items()}
    return ActivationCache(arrays, cache.tokens, cache.positions, cache.n_positions, cache.model, cache.n_layers)


@pytest.mark.parametrize("what", DIFFERENCES)
def test_a_checkpoint_of_another_sweep_is_refused(wanted, tmp_path, counted, what):
    """With the difference named."""
    change, message = DIFFERENCES[what]
    if what == "site":
        wanted["intervention"] = Scale(2.0)
    sweep(**wanted, checkpoint=tmp_path / "a")
    before = (tmp_path / "a").read_bytes()
    counted.clear()
    with pytest.raises(FileError, match=rf"`checkpoint` must belong to this sweep. Got .*a, which has {message}"):
        sweep(**{**wanted, **change(wanted)}, checkpoint=tmp_path / "a")
    assert counted == []
    assert (tmp_path / "a").read_bytes() == before


PAIRS = {
    "array": (lambda: Add(mx.ones(64)), lambda: Add(2 * mx.ones(64)), "another intervention"),
    "function": (lambda: fill(2.0), lambda: fill(3.0), "another intervention"),
    "alpha": (lambda: Interpolate(mx.ones(64), 0.5), lambda: Interpolate(mx.ones(64), 0.25), "another intervention"),
}


@pytest.mark.parametrize(("one", "other", "message"), PAIRS.values(), ids=PAIRS)
def test_what_interventions_hold_counts_and_not_where_it_lies(wanted, tmp_path, one, other, message):
    sweep(**{**wanted, "intervention": one()}, checkpoint=tmp_path / "a")
    sweep(**{**wanted, "intervention": one()}, checkpoint=tmp_path / "a")
    with pytest.raises(FileError, match=message):
        sweep(**{**wanted, "intervention": other()}, checkpoint=tmp_path / "a")


def test_functions_as_metrics_count_by_what_they_close_over(wanted, tmp_path):
    sweep(**{**wanted, "metric": metric_of(3)}, checkpoint=tmp_path / "a")
    sweep(**{**wanted, "metric": metric_of(3)}, checkpoint=tmp_path / "a")
    with pytest.raises(FileError, match=r"another metric \(number 1 of 1: <lambda>, which differs\)"):
        sweep(**{**wanted, "metric": metric_of(4)}, checkpoint=tmp_path / "a")


def test_other_versions_are_refused_and_named(wanted, tmp_path):
    sweep(**wanted, checkpoint=tmp_path / "a")
    rewrite(tmp_path / "a", lambda about: about["identity"]["library version"].update(mlx="0.1", mlx_lm="0.2"))
    with pytest.raises(
        FileError, match=r"another library version \(mlx: '0.1' in the file, '.*' here, mlx_lm: '0.2' in"
    ):
        sweep(**wanted, checkpoint=tmp_path / "a")


def test_a_model_is_the_same_wherever_it_was_loaded_from(wanted, tmp_path):
    sweep(**wanted, checkpoint=tmp_path / "a")
    elsewhere = HookedModel(wanted["model"].model, name="elsewhere")
    sweep(**{**wanted, "model": elsewhere}, checkpoint=tmp_path / "a")


def rewrite(path, change, arrays=None):
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    about = json.loads(members["about.json"])
    change(about)
    write_members(path, {**members, "about.json": json.dumps(about).encode(), **(arrays or {})})


DAMAGES = {
    "empty": (lambda path: path.write_bytes(b""), r"a file that mp.sweep\(checkpoint=...\) wrote. Got .*damaged or of"),
    "truncated": (
        lambda path: path.write_bytes(path.read_bytes()[:-30]),
        r"damaged or of another kind: .*Give another",
    ),
    "one bit": (lambda path: path.write_bytes(flipped(path.read_bytes())), r"damaged or of another kind: Bad CRC-32"),
    "foreign": (
        lambda path: path.write_text("{}"),
        r"which is damaged or of another kind: .* Give another path, or del",
    ),
    "another kind": (
        lambda path: rewrite(path, lambda about: about.update(format="mlx_patch.SweepResult/1")),
        r"which is of another kind. Give another path, or delete it.",
    ),
    "another version": (
        lambda path: rewrite(path, lambda about: about.update(format="mlx_patch.sweep.checkpoint/0")),
        r"`checkpoint` must have format version 1. Got .*, which has version 0. Give another path, or delete it.",
    ),
    "no plan": (
        lambda path: rewrite(path, lambda about: about.pop("plan")),
        r"which is inconsistent: 'plan'. Give another",
    ),
    "a pass is missing": (
        lambda path: rewrite(path, lambda about: about["plan"]["passes"].pop()),
        r"is inconsistent: its plan does not have every cell once, where it begins",
    ),
    "shape": (
        lambda path: rewrite(path, lambda about: None, {"done.npy": b"\x93NUMPY\x01\x00" + bytes(2)}),
        r"must be a file that mp.sweep\(checkpoint=...\) wrote",
    ),
}


def flipped(content):
    at = content.index(b'"identity"')
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_or_foreign_file_is_refused(wanted, tmp_path, what):
    damage, message = DAMAGES[what]
    sweep(**wanted, checkpoint=tmp_path / "a")
    damage(tmp_path / "a")
    with pytest.raises(FileError, match=message):
        sweep(**wanted, checkpoint=tmp_path / "a")


def test_no_part_of_a_file_is_read_as_the_whole(wanted, tmp_path):
    sweep(**wanted, checkpoint=tmp_path / "a")
    whole = (tmp_path / "a").read_bytes()
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        (tmp_path / "part").write_bytes(whole[:length])
        with pytest.raises(FileError, match="damaged"):
            done(tmp_path / "part")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            "nowhere/a",
            FileError,
            r"`checkpoint` must be in a folder that can be written to. Got .*: No such directory.",
        ),
        ("", FileError, r"`checkpoint` must be a file's name. Got .*, which is a directory. Choose another name."),
        (3, KindError, r"`checkpoint` must be a path\. Got 3\."),
    ],
)
def test_a_path_that_cannot_be_is_refused_before_anything_runs(wanted, tmp_path, monkeypatch, given, error, message):
    monkeypatch.setattr("mlx_patch.sweeps._sweep.make_experiment", pytest.fail)
    with pytest.raises(error, match=message):
        sweep(**wanted, checkpoint=tmp_path / given if isinstance(given, str) else given)


def test_a_folder_that_cannot_be_written_to_is_refused_first(wanted, tmp_path, monkeypatch):
    """Before anything runs."""
    monkeypatch.setattr(os, "access", lambda folder, mode: folder != tmp_path)  # root may write everywhere
    monkeypatch.setattr("mlx_patch.sweeps._sweep.make_experiment", pytest.fail)
    with pytest.raises(FileError, match=r"can be written to. Got .*a: Permission denied. Choose another folder."):
        sweep(**wanted, checkpoint=tmp_path / "a")


def test_a_metric_that_cannot_be_known_again_is_refused(wanted, tmp_path, counted):
    """Before anything runs."""
    held = object()
    with pytest.raises(KindError, match=r"`metric` must consist of .* 'held', which it closes over, a builtins.object"):
        sweep(**{**wanted, "metric": lambda logits: (held, logits[:, -1, 0])[1]}, checkpoint=tmp_path / "a")
    assert counted == []


def test_what_a_killed_process_left_is_removed(wanted, tmp_path):
    """And what is being written is not."""
    left, other = tmp_path / ".partial-a.npz-1x.npz", tmp_path / ".partial-b.npz-3z.npz"
    for file in (left, other):
        file.write_text("part")
    with written_whole(tmp_path / "a.npz") as being_written:
        sweep(**wanted, checkpoint=tmp_path / "a.npz")
        assert sorted(tmp_path.iterdir()) == sorted([being_written, other, tmp_path / "a.npz"])
        being_written.write_bytes((tmp_path / "a.npz").read_bytes())


def test_a_complete_checkpoint_is_read_on_a_read_only_disk(wanted, tmp_path, monkeypatch, counted):
    """One that is not complete is refused before anything runs."""
    with pytest.raises(Stop):
        sweep(**wanted, checkpoint=tmp_path / "half", progress=stopping_after(1))
    whole = sweep(**wanted, checkpoint=tmp_path / "whole")
    counted.clear()
    monkeypatch.setattr(os, "access", lambda folder, mode: folder != tmp_path)
    with pytest.raises(FileError, match=r"can be written to. Got .*half: Permission denied."):
        sweep(**wanted, checkpoint=tmp_path / "half")
    assert np.array_equal(sweep(**wanted, checkpoint=tmp_path / "whole").values, whole.values)
    assert counted == []


def test_without_a_checkpoint_nothing_is_fingerprinted(wanted, monkeypatch):
    monkeypatch.setattr("mlx_patch.execution._execute.sweep_identity", None)
    assert sweep(**wanted).complete


def test_numbers_of_another_size_are_refused(wanted, tmp_path):
    sweep(**wanted, checkpoint=tmp_path / "a")
    fewer = array_members({"values": np.zeros((3, 1, 1), np.float32)})
    rewrite(tmp_path / "a", lambda about: None, fewer)
    with pytest.raises(FileError, match=r"is inconsistent: 'values' has shape \(3, 1, 1\), not \(8, 1, 1\)"):
        sweep(**wanted, checkpoint=tmp_path / "a")
