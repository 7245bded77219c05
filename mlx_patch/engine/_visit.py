"""One call of a tapped module: hooks see what it is given, what it computes inside, and what it returns."""

from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_patch.engine._box import Box, boxes_in, unbox
from mlx_patch.engine._call_arguments import given_to
from mlx_patch.engine._hook import Hook
from mlx_patch.engine._hook_state import HookState
from mlx_patch.engine._recipes import finish, hand_over, stand_in
from mlx_patch.engine._tap import unseen
from mlx_patch.errors import KindError


def visit(
    frames: tuple[HookState, ...], module: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict
) -> Any:
    """What the module returns, with the hooks of all frames in force."""
    roots = [frame for frame in frames if frame.model is module]
    given = given_to(forward, args, kwargs) if roots else None
    if given is None:
        return _call(Visit(frames, module), forward, args, kwargs)
    try:
        for frame in roots:
            frame.begin(given)
        out = _call(Visit(frames, module), forward, args, kwargs)
        for frame in roots:
            frame.passed()
        return out
    finally:
        for frame in roots:
            frame.end()


def _call(now: "Visit", forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict) -> Any:
    boxes = boxes_in((*args, *kwargs.values()))
    if now.wants("input"):
        args, kwargs = _with_inputs(now, args, kwargs)
    args, kwargs = tuple(unbox(value, boxes) for value in args), {k: unbox(v, boxes) for k, v in kwargs.items()}
    for recipe in now.recipes:
        forward, args, kwargs = stand_in(recipe, forward, now, args, kwargs)
    out = forward(now.module, *args, **kwargs)
    out = unbox(out, boxes_in((out,)))
    for recipe in now.recipes:
        out = finish(recipe, now, (args, kwargs), out)
    out = now.emit("output", out) if now.wants("output") else out
    for recipe in now.recipes:
        out = hand_over(recipe, now, (args, kwargs), partial(forward, now.module), out)
    return out


def _with_inputs(now: "Visit", args: tuple[Any, ...], kwargs: dict) -> tuple[tuple[Any, ...], dict]:
    if args:
        return now.emit("input", args), kwargs
    return args, dict(zip(kwargs, now.emit("input", tuple(kwargs.values())), strict=True))


class Visit:
    """The hooks that this call of a module concerns, over all frames, in the order in which they act."""

    def __init__(self, frames: tuple[HookState, ...], module: nn.Module):
        self.module = module
        self.notes: dict[str, Any] = {}
        self.caches = tuple(entry for frame in frames for entry in frame.prompt_cache or ())
        found: list[tuple[HookState, Hook]] = []
        for frame in frames:
            if hooks := frame.at.get(id(module)):
                call = frame.count(module)
                found += [(frame, hook) for hook in hooks if hook.place.point.call in (None, call)]
        self._found = sorted(found, key=lambda pair: pair[1].phase)
        self._events = {hook.event for _, hook in found}

    def wants(self, event: str) -> bool:
        """Whether a hook waits for an event of this call."""
        return event in self._events

    @property
    def recipes(self) -> tuple[str, ...]:
        """How what the hooks want is found inside the module's call."""
        return tuple(dict.fromkeys(recipe for _, hook in self._found if (recipe := hook.place.point.recipe)))

    def emit(self, event: str, raw: Any) -> Any:
        """The array, the arguments or the parts returned, after the hooks that wait for them."""
        for frame, hook in self._found:
            if hook.event == event:
                raw = unseen(_with_part, raw, _item(hook), partial(_after, hook, frame))
        return raw


def _item(hook: Hook) -> int | None:
    item = hook.place.point.item
    return 0 if item is None and hook.event == "input" else item


def _with_part(raw: Any, item: int | None, change: Callable[[Any], Any]) -> Any:
    """An array changed, or arguments with one of them changed."""
    if item is None or not isinstance(raw, list | tuple):
        return change(raw)
    return type(raw)((*raw[:item], change(raw[item]), *raw[item + 1 :]))


def _after(hook: Hook, frame: HookState, part: Any) -> mx.array | Box:
    if isinstance(part, Box):
        if hook.place.site.is_raw:  # what this module is given, and not the stream
            return hook.on(part.array, frame.now)
        new = hook.on(part.array, frame.now)
        part.array = unbox(new, boxes_in((new,)))
        return part
    if not isinstance(part, mx.array):
        raise KindError(
            f"`{hook.place.site}` must be an array to be read or edited. Got {type(part).__name__}. "
            "Choose a module that takes and returns one."
        )
    return hook.on(part, frame.now)
