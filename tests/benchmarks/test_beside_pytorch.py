"""The comparison's own half computes what plain runs do; what needs torch runs by hand, and compares numbers itself."""

import mlx.core as mx
import pytest

import mlx_patch as mp

EMBEDDED = "examples/models/tiny_instruct_ext"
ANSWER, FOIL = 3, 5


@pytest.fixture
def bench(benchmark_script):
    return benchmark_script("beside_pytorch")


@pytest.fixture
def tasks(benchmark_script, monkeypatch, bench):
    """The tasks of mlx_patch, on an embedded model and short prompts."""
    monkeypatch.syspath_prepend(str(bench.HERE / "beside"))
    monkeypatch.chdir(bench.ROOT)
    prompts = {
        "short": [1, 9, 8, 7],
        "other": [1, 5, 6, 7],
        "long": [1, *range(20, 30)],
        "reversed": [1, *range(30, 20, -1)],
    }
    return benchmark_script("with_mlx_patch").prepare(
        {"folder": EMBEDDED, "answer": ANSWER, "foil": FOIL, **prompts}
    ), prompts


def by_hand(prompt, source, site, layer, pos, head=None):
    """The metric of a plain run with one patch."""
    model = mp.HookedModel.load(EMBEDDED)
    _, cache = model.run_with_cache(mx.array([source]), site)
    logits = model.run(mx.array([prompt]), [mp.Replace(cache).at(site, layer=layer, pos=pos, head=head)])[0, -1]
    return (logits[ANSWER] - logits[FOIL]).item()


def test_the_grid_is_that_of_plain_runs(tasks):
    run, prompts = tasks
    values = run["grid"]([[2, 1], [4, 3]])
    expected = [
        by_hand(prompts["short"], prompts["other"], "resid_post", layer, pos) for layer, pos in ((2, 1), (4, 3))
    ]
    assert values == pytest.approx(expected, abs=0.05)  # float16


def test_patches_at_the_last_position_are_those_of_plain_runs(tasks):
    run, prompts = tasks
    long, other = prompts["long"], prompts["reversed"]
    assert run["last"]([[3]]) == pytest.approx([by_hand(long, other, "resid_post", 3, -1)], abs=0.05)
    assert run["heads"]([[3, 2]]) == pytest.approx([by_hand(long, other, "z", 3, -1, 2)], abs=0.05)


@pytest.mark.parametrize("task", ["grid", "last", "heads"])
def test_a_share_is_some_of_the_cells(bench, task):
    """Spread over the layers; heads over the heads too."""
    everything = [cell[: len(bench.cells_of(task, 16)[0])] for cell in map(list, bench.cells_of_all(task, 16))]
    few = bench.cells_of(task, 16, 0.1)
    assert 0 < len(few) < len(everything) / 5
    assert all(cell in everything for cell in few)
    assert len({layer for layer, *_ in few}) == 3


def test_ratios_are_taken_within_a_repetition(bench):
    """A repetition that was slow for all says as much as the others."""

    def answers(*seconds):
        return [{"seconds": taken, "busy": taken / 2, "peak": 100.0, "values": [1.0]} for taken in seconds]

    rows = bench.lines("grid", {bench.OURS: answers(1, 10, 1), bench.LENS: answers(3, 30, 4)})
    assert rows == [
        "| grid | mlx_patch | 1.00 | 0.50 | 1.00 | 1.00 | 100 |",
        "| grid | TransformerLens | 4.00 | 2.00 | 3.00 | 3.00 | 100 |",
    ]


def test_numbers_that_differ_are_found(bench):
    found = {bench.OURS: [{"values": [1.0, 2.0]}], bench.NNSIGHT: [{"values": [1.0, 2.5]}]}
    assert bench.apart(found) == 0.5
