"""What a process holds, measured while its workers rest, and whether that has grown."""

import ctypes
import gc
import os
import random
import signal
import statistics
import sys
import threading
import time
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import mlx.core as mx
import numpy as np

PAGE = os.sysconf("SC_PAGE_SIZE")
LEAST_SAMPLES = 6

LIMITS = {
    "rss_kb": 16_384,
    "heap_bytes": 2**22,
    "active_bytes": 2**16,
    "blocks": 20_000,
    "objects": 1_000,
    "threads": 0,
    "system_threads": 0,
    "files": 0,
    "temporary": 0,
}
"""By how much the median of the last sixth may lie above that of the second sixth.

Threads, open files and temporary files are counted while nothing runs, so one more is one too many. What MLX, `malloc`
and Python count moves by what is in caches of the interpreter and of matplotlib, and by the measurements themselves:
the limits are a few times that, and a few hundred bytes a job in an hour. Resident memory has the holes of the
allocator in it, and so is the bluntest of all. What fills within the first sixth is not compared.
"""


@dataclass(frozen=True)
class Sample:
    """What there was at one rest.

    Attributes:
        seconds: Since the beginning.
        jobs: How many jobs were done.
        rss_kb: Resident memory, after a garbage collection, `mx.clear_cache()` and `malloc_trim`.
        heap_bytes: That `malloc` has given out, arrays among them; 0 where the C library does not tell.
        active_bytes: Of arrays, as MLX counts them.
        blocks: Small pieces of memory that Python has given out.
        objects: That Python's garbage collector tracks.
        threads: Of Python.
        system_threads: Of the process, those of MLX among them.
        files: Open file descriptors.
        temporary: Files that jobs have left in the folder for temporary ones, in theirs, or anywhere with a dot.
        kinds: The most frequent kinds of objects.
        open_files: What the file descriptors are of.
    """

    seconds: float
    jobs: int
    rss_kb: int
    heap_bytes: int
    active_bytes: int
    blocks: int
    objects: int
    threads: int
    system_threads: int
    files: int
    temporary: int
    kinds: dict[str, int] = field(default_factory=dict)
    open_files: tuple[str, ...] = ()


def measured(began: float, jobs: int, folder: Path) -> Sample:
    """A sample of now; what is no longer used is given back before."""
    for _ in range(3):
        gc.collect()
    mx.synchronize()
    mx.clear_cache()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    rss = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE // 1024
    tracked = gc.get_objects()
    classes, count = Counter(map(type, tracked)), len(tracked)
    del tracked
    kinds = {sys.intern(f"{cls.__module__}.{cls.__qualname__}"): n for cls, n in classes.most_common(60)}
    del classes
    return Sample(
        seconds=round(time.monotonic() - began, 2),
        jobs=jobs,
        rss_kb=rss,
        heap_bytes=heap_bytes(),
        active_bytes=mx.get_active_memory(),
        blocks=sys.getallocatedblocks(),
        objects=count,
        threads=threading.active_count(),
        system_threads=len(os.listdir("/proc/self/task")),
        files=len(open_files()),
        temporary=len(left_behind(folder)),
        kinds=kinds,
        open_files=open_files(),
    )


class _MallInfo(ctypes.Structure):
    """What glibc's `mallinfo2` returns, over all arenas."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


def heap_bytes() -> int:
    """The bytes that `malloc` has given out, which has none of the holes that resident memory has."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return 0
    mallinfo2.restype = _MallInfo
    info = mallinfo2()
    return info.uordblks + info.hblkhd


def left_behind(folder: Path) -> list[str]:
    """Files below a folder that are not those of a world, which it writes again and again under the same names.

    Nor are they the kernels that MLX compiles, once each.
    """
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and "mlx" not in path.parts]
    is_hidden = [any(part.startswith(".") for part in path.parts) for path in paths]
    in_world = [any(part.startswith("world") for part in path.parts) for path in paths]
    return [str(path) for path, hidden, kept in zip(paths, is_hidden, in_world, strict=True) if hidden or not kept]


def open_files() -> tuple[str, ...]:
    """What each file descriptor is of; without fonts, which matplotlib keeps open for each thread that draws."""
    names = []
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the one that lists them
            names.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return tuple(sorted(name for name in names if "/mpl-data/fonts/" not in name))


@dataclass(frozen=True)
class Growth:
    """How one number went.

    Attributes:
        early: The median of the second sixth of the samples.
        late: The median of the last sixth.
        limit: By how much it may grow.
        jobs: How many jobs were done from the one to the other.
    """

    early: float
    late: float
    limit: float
    jobs: float

    @property
    def ok(self) -> bool:
        """Whether it did not grow."""
        return self.late - self.early <= self.limit

    @property
    def seen_from(self) -> float:
        """The least leak a job that would be seen."""
        return self.limit / max(1.0, self.jobs)


def growths(samples: list[Sample]) -> dict[str, Growth]:
    """How each number went, from `LEAST_SAMPLES` or more."""
    n = len(samples)
    second, last = samples[n // 6 : n // 3], samples[-(n // 6) :]
    jobs = statistics.median(sample.jobs for sample in last) - statistics.median(sample.jobs for sample in second)
    return {name: _growth(name, limit, second, last, jobs) for name, limit in LIMITS.items()}


def _growth(name: str, limit: float, second: list[Sample], last: list[Sample], jobs: float) -> Growth:
    early, late = (statistics.median(getattr(sample, name) for sample in part) for part in (second, last))
    return Growth(early, late, limit, jobs)


def kinds_that_grew(samples: list[Sample]) -> dict[str, int]:
    """Kinds of objects of which there are more at the end than after the first third."""
    early, late = samples[len(samples) // 3].kinds, samples[-1].kinds
    grown = {kind: count - early[kind] for kind, count in late.items() if count > early.get(kind, count)}
    return dict(sorted(grown.items(), key=lambda entry: -entry[1])[:12])


def settings() -> dict[str, str]:
    """What is one for the whole process, and not a library's to alter."""
    return {
        "filters of warnings": repr(warnings.filters),
        "showwarning": repr(warnings.showwarning),
        "folder": os.getcwd(),
        "environment": repr(sorted(os.environ.items())),
        "numpy's errors": repr(np.geterr()),
        "numpy's printing": repr(np.get_printoptions()),
        "random state of Python": str(hash(random.getstate())),
        "random state of numpy": str(hash(np.random.get_state()[1].tobytes())),
        "Ctrl-C": repr(signal.getsignal(signal.SIGINT)),
        "recursion": str(sys.getrecursionlimit()),
        "standard output": repr((sys.stdout, sys.stderr)),
        "device": repr(mx.default_device()),
    }


def as_json(samples: list[Sample]) -> list[dict]:
    """Samples without what is for who looks for a leak."""
    left_out = ("kinds", "open_files")
    return [{name: value for name, value in asdict(sample).items() if name not in left_out} for sample in samples]
