"""Seeded faults over nine packages, and which of them the tests notice. Run by hand; README.md here says how.

Not cosmic-ray: each of its mutants starts Python anew and runs one command for all, and it takes no sample. Not mutmut:
it leaves out decorated functions, properties, fields of classes and tables, which is half of what this package is made
of, and takes no sample either. Both would run minutes of tests for a mutant that one test kills in a second.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable
from difflib import unified_diff
from pathlib import Path

from mutant_draw import PACKAGES, draw, read_draw, write_draw
from mutant_map import TestMap
from mutant_runs import KILLED, NO_TESTS, SURVIVED, Run, Slot, import_ahead
from mutations import Mutant

ROOT = Path(__file__).parents[2]
MAPPED = ("tests/unit", "tests/laws", "tests/properties", "tests/golden", *(f"mlx_patch/{name}" for name in PACKAGES))
"""What is measured, and what mutants are tried against."""

STAGES = (10, 60, 240)
"""Seconds of tests, as the map measured them, that a mutant meets first, and those it meets if it survives."""

CONTROL_STAGES = 2
"""Of these, how many a control runs."""


def copy_tree(to: Path) -> None:
    """The project's files, tracked or new, in a new folder."""
    shutil.rmtree(to, ignore_errors=True)
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listing.stdout.split("\0")):
        if (ROOT / name).exists():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def make_map(work: Path, args: argparse.Namespace) -> None:
    """Draw, copy the tree for each worker, and run the tests once under coverage.py."""
    work.mkdir(parents=True, exist_ok=True)
    write_draw(work / "draw.jsonl", draw(ROOT, args.seed, args.count))
    for place in range(args.workers + 1):
        copy_tree(work / f"tree-{place}")
    tree = work / "tree-0"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tree), str(tree / "tests" / "mutants")]),
        "MUTANT_MAP": str(work),
        "PARAMETERS": str(args.parameters),
        "COVERAGE_FILE": str(work / "coverage"),
    }
    packages = [f"--cov={tree / 'mlx_patch' / name}" for name in PACKAGES]
    options = ["-q", "-p", "mutant_map", "-p", "no:cacheprovider", "-m", "not slow and not real", "--cov-report="]
    command = [sys.executable, "-m", "pytest", *options, "--cov-context=test", *packages, "-n", str(args.workers)]
    subprocess.run([*command, *(args.tests or MAPPED)], cwd=tree, env=environment, check=False)


def stage_of(tests: list[str], seconds: dict[str, float], stage: int) -> list[str]:
    """The tests of one stage: those that fit into its seconds, after those of the stages before."""
    place = 0
    for limit in STAGES[: stage + 1]:
        begin, spent = place, 0.0
        while place < len(tests) and (place == begin or spent + seconds[tests[place]] <= limit):
            spent += seconds[tests[place]]
            place += 1
    return tests[begin:place]


class Campaign:
    """Mutants on their way through the stages, on a few copies of the tree.

    Args:
        work: The folder of the map, the copies and the results.
        workers: How many processes run tests at a time.
    """

    def __init__(self, work: Path, workers: int) -> None:
        self.map = TestMap(work, work / "tree-0")
        self.results = work / "results.jsonl"
        self.slots = [Slot(work / f"tree-{place}") for place in range(1, workers + 1)]
        self.queue: deque[tuple[Mutant, int, bool]] = deque()
        self.running: dict[int, tuple[Run, Mutant, int, bool]] = {}

    def run(self, mutants: Iterable[Mutant], controls: bool = False) -> None:
        """Try each mutant; as a control, the same tests on the source as it is."""
        self.queue.extend((mutant, 0, controls) for mutant in mutants)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            while self.queue or self.running:
                while self.queue and self.slots:
                    self._start(*self.queue.popleft())
                time.sleep(0.05)
                self._collect()
        finally:
            for run, *_ in self.running.values():
                run.end()

    def _start(self, mutant: Mutant, stage: int, control: bool) -> None:
        reaching = self.map.reaching(mutant)
        tests = stage_of(reaching, self.map.seconds, stage)
        if not tests:
            self._record(mutant, stage, control, {"outcome": SURVIVED if stage else NO_TESTS}, 0.0)
            return
        seconds = 150 + 6 * sum(self.map.seconds[test] for test in tests)
        run = Run(None if control else mutant, tests, self.slots.pop(), seconds)
        run.start()
        self.running[run.pid] = run, mutant, stage, control

    def _collect(self) -> None:
        for pid, (run, mutant, stage, control) in list(self.running.items()):
            outcome = run.outcome()
            if outcome is None:
                continue
            del self.running[pid]
            self.slots.append(run.slot)
            if outcome["outcome"] == SURVIVED and stage + 1 < (CONTROL_STAGES if control else len(STAGES)):
                self.queue.append((mutant, stage + 1, control))
            else:
                self._record(mutant, stage, control, outcome, time.monotonic() - run.deadline + run.seconds)

    def _record(self, mutant: Mutant, stage: int, control: bool, outcome: dict, seconds: float) -> None:
        name = f"{mutant.name} control" if control else mutant.name
        more = {"stage": stage, "executed": self.map.executed(mutant), "seconds": round(seconds, 1)}
        record = {"name": name} | outcome | more
        with self.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(f"{name:18} {outcome['outcome']:9} {seconds:5.1f} s  {outcome.get('test', '')[:100]}", flush=True)


def run_campaign(work: Path, args: argparse.Namespace) -> None:
    """Try the mutants that have no result yet, after a control of each package.

    Raises:
        SystemExit: Tests of a control fail without any fault, so that nothing would be told of mutants.
    """
    modules = set().union(*(json.loads(file.read_text(encoding="utf-8")) for file in work.glob("modules*.json")))
    import_ahead(sorted(modules))
    done = results_of(work)
    mutants = read_draw(work / "draw.jsonl")
    chosen = [mutant for mutant in mutants if mutant.name in args.only or not args.only]
    firsts = {mutant.name.split("-")[0]: mutant for mutant in reversed(mutants)}
    campaign = Campaign(work, args.workers)
    if not args.only:
        campaign.run([mutant for mutant in firsts.values() if f"{mutant.name} control" not in done], controls=True)
        results = results_of(work)
        if red := [mutant.name for mutant in firsts.values() if results[f"{mutant.name} control"]["outcome"] == KILLED]:
            sys.exit(f"These tests fail on the source as it is: {', '.join(red)} control. {work} has the logs.")
    campaign.run([mutant for mutant in chosen if mutant.name not in done or args.only])


def results_of(work: Path) -> dict[str, dict]:
    """The last result of each mutant."""
    file = work / "results.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return {record["name"]: record for record in map(json.loads, lines)}


def show(work: Path, args: argparse.Namespace) -> None:
    """Print counts by package, and what survived."""
    mutants, results = read_draw(work / "draw.jsonl"), results_of(work)
    print("| package | drawn | killed | survived |\n|---|---|---|---|")
    for package in PACKAGES:
        names = [mutant.name for mutant in mutants if mutant.name.startswith(f"{package}-")]
        counts = Counter(results.get(name, {}).get("outcome", "not run") for name in names)
        survived = counts[SURVIVED] + counts[NO_TESTS]
        print(f"| {package} | {len(names)} | {sum(counts.values()) - survived - counts['not run']} | {survived} |")
    for mutant in mutants:
        if results.get(mutant.name, {}).get("outcome") in args.outcomes or mutant.name in args.only:
            print(f"\n{mutant.name} {mutant.operator}: {results.get(mutant.name)}\n{difference(mutant)}")


def difference(mutant: Mutant) -> str:
    """The mutant as a unified diff of the project's file."""
    source = (ROOT / mutant.path).read_text(encoding="utf-8")
    lines = (text.splitlines(keepends=True) for text in (source, mutant.applied(source)))
    return "".join(unified_diff(*lines, mutant.path, f"{mutant.path} {mutant.function}", n=2))


def try_one(work: Path, args: argparse.Namespace) -> None:
    """Run pytest on one mutant, in a copy of the tree as it is now."""
    mutant = {mutant.name: mutant for mutant in read_draw(work / "draw.jsonl")}[args.name]
    tree = work / "tree-try"
    copy_tree(tree)
    path = tree / mutant.path
    path.write_text(mutant.applied(path.read_text(encoding="utf-8")), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *args.tests]
    sys.exit(subprocess.run(command, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, check=False).returncode)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--work", type=Path, required=True, help="a folder outside the project, of which 200 MB are used"
    )
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("map", help="draw, and measure which tests execute which lines")
    verb.add_argument("--seed", type=int, default=1)
    verb.add_argument("--count", type=int, default=220)
    verb.add_argument("--parameters", type=int, default=8, help="sets of parameters of each test, at most; 0 is all")
    verb.add_argument("--workers", type=int, default=2)
    verb.add_argument("tests", nargs="*")
    verb.set_defaults(does=make_map)
    verb = verbs.add_parser("run", help="try each mutant that has no result yet")
    verb.add_argument("--only", nargs="*", default=[])
    verb.add_argument("--workers", type=int, default=2)
    verb.set_defaults(does=run_campaign)
    verb = verbs.add_parser("show", help="counts, and survivors as diffs")
    verb.add_argument("--outcomes", nargs="*", default=[SURVIVED, NO_TESTS])
    verb.add_argument("--only", nargs="*", default=[])
    verb.set_defaults(does=show)
    verb = verbs.add_parser("try", help="run pytest on one mutant of the tree as it is now")
    verb.add_argument("name")
    verb.add_argument("tests", nargs="+")
    verb.set_defaults(does=try_one)
    args = parser.parse_args()
    args.does(args.work.absolute(), args)


if __name__ == "__main__":
    main()
