"""What a soak does: jobs, and the places where they are done."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hostile.world import World

import mlx_patch as mp


class Planned(Exception):
    """Raised on purpose, by jobs."""


@dataclass(frozen=True)
class Job:
    """Something to do, whose value has the same bits each time.

    Attributes:
        name: The model it is of, and what it does.
        do: From a place to a value; or a generator, which is suspended at each `yield` and returns the value.
        model: The name of the model.
        in_steps: Whether `do` is a generator.
        by_itself: Whether it uses what there is once in a process, as figures are, so that no other such job may run.
        rarely: Whether it takes long, and so is drawn a tenth as often.
    """

    name: str
    do: Callable[["Place"], Any]
    model: str
    in_steps: bool = False
    by_itself: bool = False
    rarely: bool = False


class Place:
    """Where jobs are done, one at a time: a folder, and the values that all places share.

    Args:
        folder: For files; a new one.
        models: The shared models, by name.
        shared: A world for each model, whose values are used in every place at once; None for values of its own.
    """

    def __init__(self, folder: Path, models: dict[str, mp.HookedModel], shared: dict[str, World] | None = None):
        self.folder, self.models, self.shared = folder, models, shared
        self.worlds: dict[str, World] = {}
        self.name = ""
        (folder / "work").mkdir(parents=True)

    @property
    def model(self) -> mp.HookedModel:
        """The model of the job that is done now."""
        return self.models[self.name]

    @property
    def world(self) -> World:
        """Valid values for it."""
        if self.name not in self.worlds:
            folder = self.folder / f"world {len(list(self.folder.iterdir()))}"
            (folder / "out").mkdir(parents=True)
            if self.shared is None:
                self.worlds[self.name] = World(folder, self.model)
            else:
                self.worlds[self.name] = self.shared[self.name].with_folder(folder)
        return self.worlds[self.name]

    @property
    def work(self) -> Path:
        """A folder that jobs leave empty."""
        return self.folder / "work"


def named(prefix: str, model: str, jobs: dict[str, Callable], **how: bool) -> list[Job]:
    """Jobs of one model, of functions by name."""
    return [Job(f"{model}: {prefix} {name}", do, model, **how) for name, do in jobs.items()]


def of(function: Callable, *args: Any) -> Callable[[Place], Any]:
    """A job's function, with further arguments bound."""
    return partial(_with_place, function, args)


def _with_place(function: Callable, args: tuple, place: Place) -> Any:
    return function(place, *args)
