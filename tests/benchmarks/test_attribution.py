"""The benchmark of attribution runs. What it measures is printed by the script, and not asserted."""

import mlx.core as mx

import mlx_patch as mp


def test_the_benchmark_runs(tiny, benchmark_script):
    bench = benchmark_script("bench_attribution")
    source, host = mx.array([[1, 2, 3]]), mx.array([[1, 5, 3]])
    metric = mp.metrics.LogitDiff(3, 5)
    timed = bench.variants(tiny("llama"), source, host, ("z", "mlp_out"), metric, confirm=2, steps=2, neurons=True)
    taken = bench.costs(timed, repetitions=2)
    assert list(taken) == ["bare", "gradient", "confirm=2", "integrated, 2 steps", "every neuron"]
    assert all(len(cost.seconds) == 2 and cost.peak > 0 for cost in taken.values())
    assert len(bench.table(taken).splitlines()) == 6
