"""What a soak was, and what it found."""

from collections import Counter
from dataclasses import dataclass, field

from soaking.meters import LEAST_SAMPLES, Growth, Sample, growths


@dataclass(frozen=True)
class Wrong:
    """A job whose value was not as it is alone.

    Attributes:
        job: Its name.
        number: How many jobs were done before.
        worker: Who did it.
        difference: The first line that differs.
    """

    job: str
    number: int
    worker: str
    difference: str


@dataclass
class Record:
    """What a soak was, and what it found."""

    seconds: float = 0.0
    n_jobs: int = 0
    done: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    wrong: list[Wrong] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)
    hung: bool = False

    def growths(self) -> dict[str, Growth]:
        """How what the process holds went; nothing where there are too few samples to tell."""
        if len(self.samples) < LEAST_SAMPLES:
            return {}
        return growths(self.samples)

    @property
    def verdicts(self) -> dict[str, bool]:
        """Each promise, and whether it held."""
        return {
            f"{LEAST_SAMPLES} measurements or more": len(self.samples) >= LEAST_SAMPLES,
            "no wrong number": not self.wrong,
            "no altered model or setting": not self.altered,
            "nothing hung": not self.hung,
            **{f"no growth of {name}": growth.ok for name, growth in self.growths().items()},
        }
