"""The benchmark runs. What it measures is printed by the script, and not asserted: other work shares the machine."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import mlx.core as mx


def test_the_benchmark_runs(tiny):
    path = Path(__file__).with_name("bench_overhead.py")
    spec = spec_from_file_location("bench_overhead", path)
    assert spec is not None
    assert spec.loader is not None
    bench = sys.modules.setdefault("bench_overhead", module_from_spec(spec))
    spec.loader.exec_module(bench)
    taken = bench.seconds(tiny("llama"), mx.array([[1, 2, 3]]), repetitions=3)
    assert {name: len(times) for name, times in taken.items()} == dict.fromkeys(taken, 3)
    lines = bench.table(taken).splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == list(taken)
    assert set(bench.TARGETS) < set(taken)
