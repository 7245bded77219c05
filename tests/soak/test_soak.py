"""A soak of a second or two: it holds on what is sound, and each of its verdicts can fail."""

import gc
import os
import threading
import warnings
from tempfile import NamedTemporaryFile

import mlx.core as mx
import mlx.nn as nn
import pytest
from soaking.edits import jobs_of_runs
from soaking.engine import Soak
from soaking.every_job import jobs_on, shared_models
from soaking.jobs import Job
from soaking.meters import LIMITS
from soaking.mistakes import jobs_of_mistakes

NAME = "llama"
# A soak that is over leaves generators in the middle, which end in another thread than they began in.
pytestmark = pytest.mark.filterwarnings("ignore:.*generate_step:pytest.PytestUnraisableExceptionWarning")

KEPT: list = []
"""What a seeded leak holds on to."""


@pytest.fixture
def soaked(tmp_path):
    """Runs a soak of some jobs, and returns its record."""

    def soaked(jobs, least_jobs=12, **how):
        soak = Soak(jobs, shared_models([NAME]), tmp_path, **how)
        soak.compute_alone()
        KEPT.clear()
        KEPT.append(soak)
        return soak.run(0.5, 0.05, least_jobs=least_jobs)

    gc.collect()
    gc.freeze()  # what pytest holds, through which every measurement would go
    yield soaked
    gc.unfreeze()
    KEPT.clear()
    gc.collect()  # what is left over ends here, and not beside another test


def broken(record):
    return {promise for promise, held in record.verdicts.items() if not held}


def test_a_soak_of_sound_work_holds(soaked):
    quick = ("plain", "hooks", "Scale", "a block", "a run", "a stack", "a stream", "a capture")
    jobs = [job for job in [*jobs_of_runs(NAME), *jobs_of_mistakes(NAME)] if job.name.endswith(quick)]
    record = soaked(jobs, least_jobs=2 * len(jobs))
    assert record.wrong == []
    assert record.altered == []
    assert {promise for promise in broken(record) if "growth" not in promise} == set()  # which settles within minutes
    assert len(record.done) == len(jobs)


def test_every_job_has_a_name_of_its_own():
    names = [job.name for job in jobs_on(["llama", "jamba"])]
    assert len(names) == len(set(names)) > 500


def one_job(fault):
    """A sound job, with a fault once it is no longer alone."""

    def do(place):
        logits = place.model.run([[1, 2, 3]], logits_at=-1)
        if KEPT:
            return fault(place, logits)
        return logits

    return [Job(f"{NAME}: seeded", do, NAME)]


def off_by_a_bit(place, logits):
    bits = logits.view(mx.uint32)
    return mx.where(mx.arange(bits.shape[-1]) == 5, bits + 1, bits).view(mx.float32)


def an_error(place, logits):
    raise ZeroDivisionError("seeded")


@pytest.mark.parametrize("fault", [off_by_a_bit, an_error, lambda place, logits: None])
def test_a_wrong_number_is_found(soaked, fault):
    record = soaked(one_job(fault))
    assert "no wrong number" in broken(record)
    assert record.wrong[0].job == f"{NAME}: seeded"


def keeping(make):
    def fault(place, logits):
        KEPT.append(make(place))
        return logits

    return fault


def an_array(place):
    array = mx.zeros(8192) + 1
    mx.eval(array)
    return array


def a_waiting_thread(place):
    thread = threading.Thread(target=KEPT[0].ended.wait, daemon=True)
    thread.start()
    return thread


LEAKS = {
    "active_bytes": an_array,
    "rss_kb": lambda place: bytearray(os.urandom(1) * 2**20),
    "heap_bytes": lambda place: bytearray(os.urandom(1) * 2**18),
    "blocks": lambda place: [str(number) for number in range(3000)],
    "objects": lambda place: [[] for _ in range(100)],
    "files": lambda place: open(os.devnull),
    "temporary": lambda place: NamedTemporaryFile(dir=place.folder.parent / "temporary"),
    "threads": a_waiting_thread,
    "system_threads": a_waiting_thread,
}


@pytest.mark.parametrize("number", LIMITS)
def test_a_leak_is_found(soaked, number):
    made = []

    def make(place):
        if len(made) < 400:
            made.append(LEAKS[number](place))
        return made[-1]

    try:
        assert f"no growth of {number}" in broken(soaked(one_job(keeping(make))))
    finally:
        KEPT[0].ended.set()
        for leaked in made:
            getattr(leaked, "close", lambda: None)()


def altered_weight(place, logits):
    weight = mx.ones(64)
    mx.eval(weight)  # for the other threads
    place.model.model.model.norm.weight = weight
    return logits


Exchanged = type("RMSNorm", (nn.RMSNorm,), {})


def exchanged_class(place, logits):
    place.model.model.model.norm.__class__ = Exchanged
    return logits


def silenced(place, logits):
    warnings.simplefilter("ignore", RuntimeWarning)
    return logits


def moved(place, logits):
    os.environ["SOAKED"] = "1"
    return logits


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (altered_weight, "weights of llama"),
        (exchanged_class, "classes of llama"),
        (silenced, "filters of warnings"),
        (moved, "environment"),
    ],
)
def test_what_is_altered_is_found(soaked, fault, what, monkeypatch):
    monkeypatch.setenv("SOAKED", "0")
    with warnings.catch_warnings():
        record = soaked(one_job(fault))
    assert "no altered model or setting" in broken(record)
    assert record.altered[0].startswith(what)


def test_a_job_that_hangs_is_found(soaked):
    ended = threading.Event()

    def hang(place, logits):
        ended.wait(20)
        return logits

    record = soaked(one_job(hang), patience=0.3)
    ended.set()
    assert "nothing hung" in broken(record)
    assert "6 measurements or more" in broken(record)
