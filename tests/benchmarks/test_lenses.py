"""The benchmark of lenses runs. What it measures is printed by the script, and not asserted."""

import mlx.core as mx


def test_the_benchmark_runs(tiny, benchmark_script):
    bench = benchmark_script("bench_lenses")
    costs = bench.variants(tiny("llama"), mx.array([[1, 2, 3]]), 3, 5)
    bench.measure(costs, repetitions=2)
    assert all(len(cost.seconds) == 2 for cost in costs.values())
    lines = bench.table(costs).splitlines()
    assert len(lines) == len(costs) + 1
    assert [line.split()[-1] for line in lines if "<=" in line] == ["1.5"] * 4 + ["2"]
