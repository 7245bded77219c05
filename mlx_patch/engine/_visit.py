"""One call of a tapped module: hooks see its arguments, the values computed inside it, and its output."""

from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_patch.engine._box import Box, boxes_in, unbox
from mlx_patch.engine._call_arguments import call_arguments
from mlx_patch.engine._hook import Hook
from mlx_patch.engine._hook_state import HookState
from mlx_patch.engine._recipes import finish, hand_over, stand_in
from mlx_patch.engine._tap import unseen
from mlx_patch.errors import KindError


def visit(
    frames: tuple[HookState, ...], module: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict
) -> Any:
    """Call the module with the hooks of all frames in force, and return its output."""
    roots = [frame for frame in frames if frame.model is module]
    arguments = call_arguments(forward, args, kwargs) if roots else None
    if arguments is None:
        return _call(Visit(frames, module), forward, args, kwargs)
    try:
        for frame in roots:
            frame.begin(arguments)
        out = _call(Visit(frames, module), forward, args, kwargs)
        for frame in roots:
            frame.passed()
        return out
    finally:
        for frame in roots:
            frame.end()


def _call(listener: "Visit", forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict) -> Any:
    boxes = boxes_in((*args, *kwargs.values()))
    if listener.wants("input"):
        args, kwargs = _emit_inputs(listener, args, kwargs)
    args = tuple(unbox(value, boxes) for value in args)
    kwargs = {name: unbox(value, boxes) for name, value in kwargs.items()}
    for recipe in listener.recipes:
        forward, args, kwargs = stand_in(recipe, forward, listener, args, kwargs)
    out = forward(listener.module, *args, **kwargs)
    out = unbox(out, boxes_in((out,)))
    for recipe in listener.recipes:
        out = finish(recipe, listener, (args, kwargs), out)
    if listener.wants("output"):
        out = listener.emit("output", out)
    for recipe in listener.recipes:
        out = hand_over(recipe, listener, (args, kwargs), partial(forward, listener.module), out)
    return out


def _emit_inputs(listener: "Visit", args: tuple[Any, ...], kwargs: dict) -> tuple[tuple[Any, ...], dict]:
    if args:
        return listener.emit("input", args), kwargs
    values = listener.emit("input", tuple(kwargs.values()))
    return args, dict(zip(kwargs, values, strict=True))


class Visit:
    """The hooks that act in one call of a module, over all frames, in their order."""

    def __init__(self, frames: tuple[HookState, ...], module: nn.Module):
        self.module = module
        self.notes: dict[str, Any] = {}
        self.caches = tuple(entry for frame in frames for entry in frame.prompt_cache or ())
        pairs: list[tuple[HookState, Hook]] = []
        for frame in frames:
            if hooks := frame.at.get(id(module)):
                call = frame.count(module)
                pairs += [(frame, hook) for hook in hooks if hook.place.point.call in (None, call)]
        self._pairs = sorted(pairs, key=lambda pair: pair[1].phase)
        self._events = {hook.event for _, hook in pairs}

    def wants(self, event: str) -> bool:
        """Whether a hook waits for an event of this call."""
        return event in self._events

    @property
    def recipes(self) -> tuple[str, ...]:
        """The recipes for the sites of the hooks, each once."""
        return tuple(dict.fromkeys(recipe for _, hook in self._pairs if (recipe := hook.place.point.recipe)))

    def emit(self, event: str, raw: Any) -> Any:
        """The array, the arguments or the outputs, after the hooks that wait for them."""
        for frame, hook in self._pairs:
            if hook.event == event:
                raw = unseen(_change_item, raw, _item(hook), partial(_run_hook, hook, frame))
        return raw


def _item(hook: Hook) -> int | None:
    item = hook.place.point.item
    return 0 if item is None and hook.event == "input" else item


def _change_item(raw: Any, item: int | None, change: Callable[[Any], Any]) -> Any:
    """An array changed, or arguments with one of them changed."""
    if item is None or not isinstance(raw, list | tuple):
        return change(raw)
    return type(raw)((*raw[:item], change(raw[item]), *raw[item + 1 :]))


def _run_hook(hook: Hook, frame: HookState, value: Any) -> mx.array | Box:
    if isinstance(value, Box):
        if hook.place.site.is_raw:  # the module's own argument, and not the stream
            return hook.on(value.array, frame.now)
        new = hook.on(value.array, frame.now)
        value.array = unbox(new, boxes_in((new,)))
        return value
    if not isinstance(value, mx.array):
        raise KindError(
            f"`{hook.place.site}` must be an array to be read or edited. Got {type(value).__name__}. "
            "Choose a module that takes and returns one."
        )
    return hook.on(value, frame.now)
