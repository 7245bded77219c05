"""The benchmark of paths runs. What it measures is printed by the script, and not asserted."""

import mlx.core as mx
from paths_by_hand import Names

import mlx_patch as mp


def test_the_benchmark_runs(tiny, benchmark_script):
    bench = benchmark_script("bench_paths")
    model, source, host = tiny("llama"), mx.array([[1, 2, 3]]), mx.array([[1, 5, 3]])
    metric, receiver = mp.metrics.LogitDiff(3, 5), mp.Receiver("q", layer=2, head=1)
    timed = bench.variants(model, source, host, metric, receiver)
    taken = bench.seconds(timed, repetitions=2)
    assert {name: len(times) for name, times in taken.items()} == dict.fromkeys(timed, 2)
    assert len(bench.table(taken).splitlines()) == len(timed) + 1
    results = {name: timed[name]() for name in ("to logits", "to queries")}
    for brute in bench.brute_force(model, source, host, metric, receiver, [(0, 1), (1, 3)], results, Names()):
        assert brute.apart < 1e-5
        assert brute.line().startswith(f"brute force {brute.name}")
