"""Works through jobs for some time, in threads and in tasks, and compares each number with the one computed alone.

A few workers share the models. A thread does one job after another, with up to two others suspended in between. In the
loop of asyncio a few actors do jobs in the loop's own thread, suspended at each step, or hand them to other threads.
From time to time all rest, and what the process holds is measured.
"""

import asyncio
import contextlib
import faulthandler
import random
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlx.core as mx
from hostile.world import World

import mlx_patch as mp
from soaking.contents import digest_of_model, first_difference, text_of
from soaking.gate import Gate
from soaking.jobs import Job, Place, Planned
from soaking.meters import LEAST_SAMPLES, Sample, measured, settings
from soaking.record import Record, Wrong

MOST_SUSPENDED = 2


class Soak:
    """Jobs, the models that they share, and what they give alone.

    Args:
        jobs: What to do.
        models: The models, by name, which all workers share.
        folder: For files.
        seed: Decides who does which job next.
        n_threads: How many threads do jobs.
        n_actors: How many tasks do jobs in a loop.
        patience: Seconds after which workers that do not come to rest hang.
    """

    def __init__(
        self,
        jobs: list[Job],
        models: dict[str, mp.HookedModel],
        folder: Path,
        *,
        seed: int = 0,
        n_threads: int = 2,
        n_actors: int = 3,
        patience: float = 300.0,
    ):
        self.jobs, self.models, self.folder, self.seed = jobs, models, folder, seed
        self.drawn = [job for job in jobs for _ in range(1 if job.rarely else 10)]
        self.record, self.gate = Record(), Gate(patience)
        self.lock, self.counting, self.ended = threading.Lock(), threading.Lock(), threading.Event()
        self.threads = [f"thread {number}" for number in range(n_threads)]
        self.actors = [f"task {number}" for number in range(n_actors)]
        self.temporary = folder / "temporary"
        self.temporary.mkdir(parents=True, exist_ok=True)
        self.alone: dict[str, str] = {}
        self.shared: dict[str, World] | None = None
        self.unsettled: list[str] = []
        self.before = self.state()

    def state(self) -> dict[str, str]:
        """The weights and classes of each model, and the settings of the process."""
        state = settings()
        for name, model in self.models.items():
            state[f"weights of {name}"] = digest_of_model(model.model)
            modules = [module for _, module in model.model.named_modules()]
            state[f"classes of {name}"] = repr([(id(type(module)), module.training) for module in modules])
        return state

    def compute_alone(self, announce: Callable[[str], None] = lambda text: None) -> None:
        """What each job gives while nothing else runs: twice, in places of their own.

        Raises:
            RuntimeError: A job gives something else the second time, or fails otherwise than it may.
        """
        first, second = (Place(self.folder / name, self.models) for name in ("alone", "alone again"))
        for job in self.jobs:
            began = time.monotonic()
            self.alone[job.name] = self.result(job, first)
            if (again := self.result(job, second)) != self.alone[job.name]:
                self.unsettled.append(f"{job.name}: {first_difference(again, self.alone[job.name])}")
            announce(f"{time.monotonic() - began:.2f} s  {job.name}")
        if self.unsettled:
            raise RuntimeError("\n".join(["jobs that differ from one time to the next:", *self.unsettled]))
        for name in self.models:
            first.name = name
            first.world.make_everything()
        self.shared = first.worlds

    def place(self, name: str) -> Place:
        return Place(self.folder / name, self.models, self.shared)

    def run(
        self, seconds: float, every: float, tell: Callable[[Sample], None] = lambda sample: None, least_jobs: int = 0
    ) -> Record:
        """Soak for so long, and rest so often, in seconds; longer where too few measurements or jobs are done by then.

        Args:
            seconds: How long.
            every: From one rest to the next.
            tell: Called with each sample.
            least_jobs: How many jobs there are from one rest to the next, at the least.
        """
        names = [*self.threads, *self.actors]
        workers = [threading.Thread(target=self.work, args=(name,), name=name, daemon=True) for name in self.threads]
        if self.actors:
            workers.append(threading.Thread(target=self.loop, name="loop", daemon=True))
        began = time.monotonic()
        for worker in workers:
            worker.start()
        while time.monotonic() - began < seconds or len(self.record.samples) < LEAST_SAMPLES:
            self.wait(every, least_jobs)
            with self.gate.all_resting(names) as do_rest:
                if not do_rest:
                    self.record.hung = True
                    faulthandler.dump_traceback(all_threads=True)
                    break
                self.record.samples.append(measured(began, self.record.n_jobs, self.folder))
                self.look(self.record.samples[-1])
                tell(self.record.samples[-1])
        self.gate.over = True
        for worker in workers:
            worker.join(self.gate.patience)
        self.record.seconds = time.monotonic() - began
        return self.record

    def wait(self, seconds: float, least_jobs: int) -> None:
        """Wait so long, and until so many jobs are done, unless they hang."""
        until, enough = time.monotonic() + seconds + self.gate.patience, self.record.n_jobs + least_jobs
        time.sleep(seconds)
        while self.record.n_jobs < enough and time.monotonic() < until:
            time.sleep(0.01)

    def look(self, sample: Sample) -> None:
        """Note what is not as it was before."""
        for name, value in self.state().items():
            if value != self.before[name] and len(self.record.altered) < 50:
                difference = value if len(value) < 200 else f"{len(value)} characters"
                self.record.altered.append(f"{name} after {sample.jobs} jobs: {difference}")

    # What a worker does

    def work(self, name: str) -> None:
        """Do jobs one after the other, some of them suspended while others are done."""
        with self.noted_if_it_ends(name):
            chance, places = random.Random(f"{self.seed} {name}"), [self.place(f"{name} {n}") for n in range(3)]
            suspended: list[tuple[Job, Place, Generator]] = []
            while not self.gate.over:
                job = chance.choice(self.drawn)
                if self.gate.closed:
                    while suspended:
                        self.finished(*suspended.pop(), name)
                    self.gate.rest(name)
                elif suspended and (job.in_steps or chance.random() < 0.5):
                    self.stepped(suspended, chance.randrange(len(suspended)), name)
                elif job.in_steps and len(suspended) < MOST_SUSPENDED:
                    used = [place for _, place, _ in suspended]
                    place = next(place for place in places[1:] if place not in used)
                    place.name = job.model
                    suspended.append((job, place, job.do(place)))
                else:
                    self.check(job, self.result(job, places[0]), name)

    def stepped(self, suspended: list[tuple[Job, Place, Generator]], index: int, name: str) -> None:
        """One more step of a job that is suspended."""
        job, place, steps = suspended[index]
        try:
            place.name = job.model
            next(steps)
        except StopIteration as stopped:
            del suspended[index]
            self.check(job, text_of(stopped.value, place.folder), name)
        except Exception as error:
            del suspended[index]
            self.check(job, text_of(error, place.folder), name)

    def finished(self, job: Job, place: Place, steps: Generator, name: str) -> None:
        """All further steps of a job."""
        self.check(job, self.drained(place, job, steps), name)

    def loop(self) -> None:
        """The loop that tasks run in."""
        with self.noted_if_it_ends("loop"):
            asyncio.run(self.tasks())

    async def tasks(self) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2, "handed over"))
        await asyncio.gather(*map(self.act, self.actors))

    async def act(self, name: str) -> None:
        """Do jobs in the loop and in other threads, with edits of its own in force meanwhile or not."""
        with self.noted_if_it_ends(name):
            chance, place = random.Random(f"{self.seed} {name}"), self.place(name)
            while not self.gate.over:
                await self.gate.rest_in_loop(name)
                await asyncio.sleep(0)
                job = chance.choice(self.drawn)
                if job.in_steps:
                    self.check(job, await self.awaited(job, place, chance.random() < 0.5), name)
                elif chance.random() < 0.5:
                    async with self.around(place, chance):
                        self.check(job, await asyncio.to_thread(self.result, job, place), f"{name}, handed over")
                else:
                    self.check(job, self.result(job, place), name)

    @contextlib.asynccontextmanager
    async def around(self, place: Place, chance: random.Random) -> AsyncIterator[None]:
        """Sometimes a block of edits, which must not reach what is handed to another thread, nor any other task."""
        model = self.models[chance.choice([*self.models])]
        if chance.random() < 0.5:
            yield
            return
        edit = mp.Ablate("zero").at("resid_post", layer=0)
        with model.editing(edit):
            model.model(mx.array([[1, 2]]))  # or the edit has never acted
            yield

    async def awaited(self, job: Job, place: Place, to_the_end: bool) -> str:
        """A job in steps, with other tasks in between; or all steps at once."""
        place.name = job.model
        steps = job.do(place)
        if to_the_end:
            return self.drained(place, job, steps)
        while (text := self.step(place, job, steps)) is None:
            await asyncio.sleep(0)
        return text

    def result(self, job: Job, place: Place) -> str:
        """The contents of what a job gives, or of the error that it ends in."""
        place.name = job.model
        with self.lock if job.by_itself else contextlib.nullcontext():
            if job.in_steps:
                return self.drained(place, job, job.do(place))
            try:
                return text_of(job.do(place), place.folder)
            except (mp.PatchError, Planned) as error:
                return text_of(error, place.folder)
            except Exception as error:
                if not self.alone.get(job.name):
                    error.add_note(f"in {job.name}")
                    raise
                return text_of(error, place.folder)

    def drained(self, place: Place, job: Job, steps: Generator) -> str:
        while (text := self.step(place, job, steps)) is None:
            pass
        return text

    def step(self, place: Place, job: Job, steps: Generator) -> str | None:
        """Go on by a step: the contents of what the job gives or raises where it ends, and None before."""
        try:
            place.name = job.model
            next(steps)
        except StopIteration as stopped:
            return text_of(stopped.value, place.folder)
        except Exception as error:
            return text_of(error, place.folder)
        return None

    def check(self, job: Job, text: str, worker: str) -> None:
        """Compare a job's contents with those that it has alone."""
        with self.counting:
            if text != self.alone[job.name] and len(self.record.wrong) < 50:
                difference = first_difference(text, self.alone[job.name])
                self.record.wrong.append(Wrong(job.name, self.record.n_jobs, worker, difference))
            self.record.done[job.name] += 1
            self.record.n_jobs += 1

    @contextlib.contextmanager
    def noted_if_it_ends(self, name: str) -> Iterator[None]:
        """A block whose errors are of the soak itself: it must not seem that a worker had nothing to say."""
        try:
            yield
        except BaseException as error:
            self.record.wrong.append(Wrong("a worker", self.record.n_jobs, name, f"ended with {error!r}"))
            traceback.print_exc()
            raise
        finally:
            self.gate.ended.add(name)
