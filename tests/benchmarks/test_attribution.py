"""The benchmark of attribution runs. What it measures is printed by the script, and not asserted."""

import mlx.core as mx

import mlx_patch as mp


def test_the_benchmark_runs(tiny, benchmark_script):
    bench = benchmark_script("bench_attribution")
    source, host = mx.array([[1, 2, 3]]), mx.array([[1, 5, 3]])
    metric = mp.metrics.LogitDiff(3, 5)
    timed = bench.variants(tiny("llama"), source, host, ("z", "mlp_out"), metric, confirm=2, steps=2, neurons=True)
    taken = bench.costs(timed, repetitions=2)
    names = ["bare", "logits_at=-1", "gradient", "gradient, memory=1", "confirm=2"]
    names += ["integrated, 2 steps", "the same, memory=1", "every neuron"]
    assert list(taken) == names
    assert all(len(cost.seconds) == 2 and cost.peak > cost.at_rest for cost in taken.values())
    assert len(bench.table(taken).splitlines()) == 9
