"""The laws on the zoo, on this machine: a report to paste into an issue.

The models run in a process of their own. On a GPU an error may end the process (Metal reports what fails in a command
buffer from another thread), or leave it waiting: either is a line of the report, and the next model has a new process.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from threading import Timer
from typing import IO, Literal, get_args

from typing_extensions import override

from mlx_patch.errors import UnknownNameError, did_you_mean, listed, shown
from mlx_patch.laws import ALL, Law
from mlx_patch.provenance import machine
from mlx_patch.sweeps import exact_sweeps, independent_in_sweeps
from mlx_patch.testing.zoo import ZOO, Precision

ZooOutcome = Literal["green", "red", "known", "not run"]

EVERY_LAW: tuple[Law, ...] = (*ALL, exact_sweeps, independent_in_sweeps)
"""Every law that can be checked on any model, those of sweeps too."""

_LIMIT = 900.0
"""Seconds that one model may take."""

_WORKER = "mlx_patch.testing._zoo_worker"


@dataclass(frozen=True)
class ZooLine:
    """The result of the laws on one model of the zoo.

    Attributes:
        name: A key of `ZOO`.
        outcome: "green": every law held. "red": one did not, or the run failed. "known": one did not, and `EXCEPTIONS`
            says why. "not run": mlx_lm's model does not run here, with or without mlx_patch.
        checks: How many checks there were.
        nearest: The largest deviation as a fraction of its tolerance, of all checks that may deviate.
        where: The check with that deviation.
        says: The error or the broken checks; empty for green.
    """

    name: str
    outcome: ZooOutcome
    checks: int = 0
    nearest: float = 0.0
    where: str = ""
    says: str = ""


@dataclass(frozen=True)
class ZooReport:
    """The laws on models of the zoo.

    Attributes:
        precision: Of their weights.
        lines: One a model.
        seconds: How long it took.
    """

    precision: str
    lines: tuple[ZooLine, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether no model is red."""
        return not self._of("red")

    def _of(self, outcome: ZooOutcome) -> list[ZooLine]:
        return [line for line in self.lines if line.outcome == outcome]

    @override
    def __str__(self) -> str:
        return "\n".join([where_it_ran(), self._heading, *self._exceptions, *self._totals])

    @property
    def _heading(self) -> str:
        return f"the zoo: tiny models of mlx_lm's classes with random weights, {self.precision}"

    @property
    def _exceptions(self) -> list[str]:
        lines = [*self._of("red"), *self._of("known"), *self._of("not run")]
        return [f"  {line.outcome:<8}{line.name}: {line.says}" for line in lines]

    @property
    def _totals(self) -> list[str]:
        counts = [f"{len(self._of(outcome))} {outcome}" for outcome in get_args(ZooOutcome)]
        n_checks = sum(line.checks for line in self.lines)
        models = f"{len(self.lines)} models: {listed(counts)}"
        totals = [f"{models}; {n_checks} checks in {self.seconds:.0f} seconds"]
        green = self._of("green")
        if green:
            line = max(green, key=lambda line: line.nearest)
            totals.append(f"nearest to its tolerance: {line.nearest:.2g} of it, {line.name}, {line.where}")
        return totals


def where_it_ran() -> str:
    """Versions and machine, two lines."""
    facts = machine()
    software = [f"{name} {facts[name]}" for name in ("mlx_patch", "mlx", "mlx_lm", "python")]
    hardware = [facts[name] for name in ("system", "processor", "memory", "device")]
    return f"{listed(software)}\n{listed(filter(None, hardware))}"


def check_zoo(
    names: Sequence[str] = (),
    precision: Precision = "float32",
    progress: Callable[[ZooLine], None] | None = None,
    limit: float = _LIMIT,
) -> tuple[ZooLine, ...]:
    """Check every law, law 8 among them, on models of the zoo, each in a process that may fail.

    Args:
        names: The models; all by default.
        precision: The precision of their weights.
        progress: Called with each line as it comes.
        limit: Seconds that one model may take.
    Returns:
        A line a model, in the order of `names`.
    Raises:
        UnknownNameError: There is no such model.
    """
    for name in names:
        if name not in ZOO:
            raise UnknownNameError(f"`names` must be models of the zoo. Got {shown(name)}. {did_you_mean(name, ZOO)}")
    lines: list[ZooLine] = []
    models = list(names or ZOO)
    while len(lines) < len(models):
        for line in _run_process(models[len(lines) :], precision, limit):
            lines.append(line)
            if progress:
                progress(line)
    return tuple(lines)


def _run_process(names: Sequence[str], precision: str, limit: float) -> Iterator[ZooLine]:
    """The lines of one process. If it ends early, the last line is of the model that it ended in, and says how."""
    command = [sys.executable, "-m", _WORKER, precision, *names]
    n_lines = 0
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            for text in _lines(process, limit):
                yield ZooLine(**json.loads(text))
                n_lines += 1
        finally:
            process.kill()
        if n_lines < len(names):
            yield ZooLine(names[n_lines], "red", says=_end_of(process, errors))


def _lines(process: subprocess.Popen[str], limit: float) -> Iterator[str]:
    """The lines that a process prints. It is killed if it prints nothing for longer than the limit."""
    assert process.stdout is not None
    while True:
        watch = Timer(limit, process.kill)
        watch.start()
        text = process.stdout.readline()
        watch.cancel()
        if not text:
            return
        yield text


def _end_of(process: subprocess.Popen[str], errors: IO[str]) -> str:
    """Why a process ended: its status, and the last line that it printed to stderr."""
    status = process.wait()
    errors.seek(0)
    messages = errors.read().strip().splitlines() or ["it said nothing"]
    return f"the process ended with status {status}: {messages[-1]}"


def as_json(line: ZooLine) -> str:
    """A line as a worker prints it."""
    return json.dumps(asdict(line))
