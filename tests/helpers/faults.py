"""A seeded fault: what the lists of faults in `tests/laws` are made of."""

from collections.abc import Callable
from dataclasses import dataclass

from mlx_patch.laws import Law


@dataclass(frozen=True)
class Fault:
    """A function to put in another's place.

    Attributes:
        what: What is wrong.
        owner: The module, class or dict that has it.
        name: Its name there.
        wrong: What stands in for it.
        seen: What shows it: words of a finding, the number of a law, or the error with which it is refused.
        model: The model that shows it.
        precision: Likewise.
        law: The law that must see it, where a list has several.
    """

    what: str
    owner: object
    name: str
    wrong: Callable | None
    seen: str | int | type
    model: str = "llama"
    precision: str = "float32"
    law: Law | None = None

    def __str__(self):
        return self.what

    def seed(self, monkeypatch):
        """Put it in, until the test ends."""
        put = monkeypatch.setitem if isinstance(self.owner, dict) else monkeypatch.setattr
        put(self.owner, self.name, self.wrong)
