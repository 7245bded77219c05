"""The benchmark runs. What it measures is printed by the script, and not asserted: other work shares the machine."""

import mlx.core as mx


def test_the_benchmark_runs(tiny, benchmark_script):
    bench = benchmark_script("bench_overhead")
    taken = bench.seconds(tiny("llama"), mx.array([[1, 2, 3]]), repetitions=3)
    assert {name: len(times) for name, times in taken.items()} == dict.fromkeys(taken, 3)
    lines = bench.table(taken).splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == list(taken)
    assert set(bench.TARGETS) < set(taken)
