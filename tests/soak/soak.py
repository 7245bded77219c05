"""An hour of mixed work in threads and tasks: no growth, no wrong number, no altered model.

`python tests/soak/soak.py --minutes 60 --record soak.json` runs it, from the project's root. It ends with status 1 if a
promise did not hold. Nothing of it runs under pytest but `test_soak.py`, which shows in seconds that it can fail.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import asdict
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "helpers"), str(Path(__file__).parents[2])]

from soaking.engine import Soak  # noqa: E402
from soaking.every_job import MODELS, jobs_on, shared_models  # noqa: E402
from soaking.meters import Sample, as_json, kinds_that_grew, left_behind  # noqa: E402
from soaking.record import Record  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Soak, print a table, and write a record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=60.0, help="seconds from one measurement to the next")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="threads that do jobs; two more serve the tasks")
    parser.add_argument("--tasks", type=int, default=3)
    parser.add_argument("--models", nargs="*", default=[*MODELS], choices=[*MODELS])
    parser.add_argument("--jobs", default="", help="only jobs with this in their name")
    parser.add_argument("--record", type=Path, help="a file of JSON")
    options = parser.parse_args(arguments)
    record_path = options.record.absolute() if options.record else None
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        soak = prepared(Path(folder), options)
        print(f"{len(soak.jobs)} jobs on {len(soak.models)} models; each is now done twice alone", flush=True)
        began = time.monotonic()
        soak.compute_alone(lambda text: None)
        print(f"alone: {time.monotonic() - began:.0f} s", flush=True)
        record = soak.run(60 * options.minutes, options.every, tell)
        files = left_behind(Path(folder))
        os.chdir("/")
    print(report(record))
    print("left behind:", *files[:20])
    if record_path is not None:
        about = {"arguments": {name: str(value) for name, value in vars(options).items()}, **described(record)}
        record_path.write_text(json.dumps(about, indent=1), encoding="utf-8")
    return 0 if all(record.verdicts.values()) else 1


def prepared(folder: Path, options: argparse.Namespace) -> Soak:
    """The jobs, in a process whose settings stay as they are from here on."""
    import matplotlib

    matplotlib.use("Agg")
    warnings.simplefilter("ignore")
    temporary = folder / "temporary"
    temporary.mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    (folder / "here").mkdir()
    os.chdir(folder / "here")  # where a hostile text would be a file
    models = shared_models(options.models)
    jobs = [job for job in jobs_on(options.models) if options.jobs in job.name]
    return Soak(jobs, models, folder, seed=options.seed, n_threads=options.threads, n_actors=options.tasks)


def tell(sample: Sample) -> None:
    print(
        f"{sample.seconds / 60:6.1f} min {sample.jobs:8,} jobs {sample.rss_kb / 1024:8.1f} MB resident"
        f" {sample.heap_bytes / 1e6:8.2f} MB of heap {sample.active_bytes / 1e6:8.2f} MB of arrays"
        f" {sample.blocks:9,} blocks {sample.objects:9,} objects {sample.system_threads:3} threads"
        f" {sample.files:3} files {sample.temporary:3} temporary",
        flush=True,
    )


def report(record: Record) -> str:
    """What was done and found, for people."""
    kinds = Counter()
    for name, count in record.done.items():
        kinds[name.partition(": ")[2].partition(" ")[0].rstrip(":")] += count
    lines = [
        f"\n{record.n_jobs:,} jobs in {record.seconds / 60:.1f} minutes, {len(record.done):,} different ones",
        *(f"  {count:8,} {kind}" for kind, count in kinds.most_common()),
        f"\n{'':16} {'2nd sixth':>14} {'last sixth':>14} {'limit':>10}  seen from, a job",
    ]
    for name, growth in record.growths().items():
        lines.append(
            f"{name:16} {growth.early:14,.0f} {growth.late:14,.0f} {growth.limit:10,.0f}  {growth.seen_from:.3g}"
        )
    lines += ["", *(f"{'held' if held else 'BROKEN':7}{promise}" for promise, held in record.verdicts.items())]
    lines += [f"wrong: {wrong}" for wrong in record.wrong[:20]]
    lines += [f"altered: {altered}" for altered in record.altered[:20]]
    if not all(growth.ok for growth in record.growths().values()):
        lines.append(f"kinds of objects that grew: {kinds_that_grew(record.samples)}")
        lines += ["open files:", *record.samples[-1].open_files]
    return "\n".join(lines)


def described(record: Record) -> dict:
    """The same, for programs."""
    return {
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "minutes": round(record.seconds / 60, 2),
        "jobs": record.n_jobs,
        "different_jobs": len(record.done),
        "verdicts": record.verdicts,
        "growth": {name: {**asdict(growth), "ok": growth.ok} for name, growth in record.growths().items()},
        "wrong": [asdict(wrong) for wrong in record.wrong],
        "altered": record.altered,
        "samples": as_json(record.samples),
        "done": dict(sorted(record.done.items())),
    }


if __name__ == "__main__":
    raise SystemExit(main())
