"""`HookState`: the hooks of one run, the forward pass under way, and how often each module was called in it."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import mlx.nn as nn

from mlx_patch.architectures import Place, Point, attribute_at
from mlx_patch.engine._call_arguments import CallArguments
from mlx_patch.engine._fitness import compiles, parts_of, refuse_random
from mlx_patch.engine._hook import ForwardPass, Hook, Phase
from mlx_patch.engine._owner import Owner
from mlx_patch.engine._prompt_cache import note_offset, offset_of
from mlx_patch.errors import KindError, SelectionError


class HookState:
    """The hooks of one run of a model, and the state of its forward pass. `Frame` puts them in force.

    Args:
        model: The model.
        hooks: The hooks.
        on_begin: Called with each forward pass as it begins.

    Raises:
        KindError: The model is in training mode, and draws random numbers.

    Attributes:
        uncompiled: Whether compiling must be off meanwhile, as the model may call modules inside compiled functions.
        owner: The generator, coroutine or thread that put it in force last.
        number: How many contexts had been entered then.
    """

    owner: Owner
    number: int

    def __init__(self, model: nn.Module, hooks: Iterable[Hook], on_begin: Callable[[ForwardPass], None] | None = None):
        modules_and_functions = parts_of(model)
        refuse_random(model, modules_and_functions)
        self.uncompiled = compiles(modules_and_functions)
        self.model = model
        self._on_begin = on_begin
        self.hooks = tuple(_with_readers(hooks))
        self.at: dict[int, list[Hook]] = {}
        for hook in self.hooks:
            self.at.setdefault(id(hook.place.module), []).append(hook)
        hooked_modules = (hook.place.module for hook in self.hooks)
        self.modules = {id(module): module for module in (model, *hooked_modules)}
        self._calls: dict[int, int] = {}
        self._now: ForwardPass | None = None
        self.prompt_cache: Any = None

    @property
    def now(self) -> ForwardPass:
        """The forward pass under way.

        Raises:
            KindError: A part of the model runs, and not the model.
        """
        if self._now is None:
            raise KindError(
                "`model.model` must be called as a whole while edits are active. Got a call of one of its parts, "
                "where positions are unknown. Call `model.model(tokens)`."
            )
        return self._now

    def begin(self, arguments: CallArguments) -> None:
        """Note that the model itself is called."""
        self._calls.clear()
        cache = arguments.prompt_cache
        self.prompt_cache = cache
        self._now = ForwardPass(offset_of(cache), arguments.length, cache is not None, arguments.tokens, cache)
        if self._on_begin is not None:
            self._on_begin(self._now)

    def passed(self) -> None:
        """Note that the model's call went well, so that its prompt cache holds these positions too."""
        note_offset(self.prompt_cache, self.now.offset + self.now.length)

    def end(self) -> None:
        """Note that the model's call is over."""
        self._now = None

    def count(self, module: nn.Module) -> int:
        """The number of this call of a module, from 0, in the forward pass under way."""
        call = self._calls.get(id(module), 0)
        self._calls[id(module)] = call + 1
        if call > 0:
            self._refuse_unnumbered(module, call)
        return call

    def _refuse_unnumbered(self, module: nn.Module, call: int) -> None:
        for hook in self.at.get(id(module), ()):
            if hook.place.point.call is None and hook.phase is not Phase.STOP:
                raise SelectionError(
                    f"`{hook.place.site}` must say which call it means. Got a module that runs {call + 1} times or "
                    f"more in one forward pass. Write {hook.place.site}[0] for the first."
                )


def _with_readers(hooks: Iterable[Hook]) -> Iterator[Hook]:
    """The hooks; before one at a module that runs beside another, a hook that reads the other's output for it."""
    for hook in hooks:
        if path := hook.place.point.beside:
            block = hook.place.block
            place = Place(hook.place.site, attribute_at(block, path), Point(path, "output"), block)
            yield Hook(place, hook.keep_beside, Phase.READ)
        yield hook
