"""`differentiable`: a model in the form in which MLX can take gradients through it.

mlx_lm's code runs as it is, and no value changes by a bit. Four things stand in the way of a gradient:

* Indices that are sorted out of values, to choose experts or keys. They have no gradient, and MLX wants to be told so.
* Values that are rounded, as by a model that was trained with 8-bit keys. Their gradient is 0 wherever there is one,
  which says nothing of what an edit does. A gradient that passes there is refused.
* Metal kernels that have none. Most of their callers take another path in training mode: they are put in it.
* Metal kernels without such a path. These models are refused by name.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import mlx.core as mx
import mlx.nn as nn

from mlx_patch.architectures import Place, Point, refuse_gradients
from mlx_patch.engine._fitness import names_in, own_names, parts_of, refuse_random
from mlx_patch.engine._frame import Frame
from mlx_patch.engine._hook import ForwardPass, Hook, Phase
from mlx_patch.engine._recipes import INDICES, ROUNDING
from mlx_patch.engine._tapped_classes import plain_class
from mlx_patch.errors import ArchitectureError
from mlx_patch.sites import Site

UNLESS_TRAINING = ("gated_delta_update", "_attn_res_mix")
"""Functions of mlx_lm that run a Metal kernel without a gradient, unless they are told that the caller is training."""

_ON_THE_CPU = "Take gradients on the CPU: mx.set_default_device(mx.cpu)."

WITHOUT_GRADIENT: dict[str, tuple[str, str]] = {
    "wkv7_kernel": ("RWKV-7's recurrence is", _ON_THE_CPU),
    "_sinkhorn": ("DeepSeek V4.1's hyper-connections are", _ON_THE_CPU),
    "norm_add_norm": ("Muse Spark's norms and its routing are", "No machine can: its module has no other code."),
    "execute_matmul_kernel": ("BitNet's products are", "No machine can: its module has no other code."),
}
"""Functions that are a Metal kernel without a gradient, in training too: what they are, and what to do."""

_REFUSALS = ("[Primitive::vjp] Not implemented for", "Cannot calculate VJP")
"""What MLX says of an operation that has no gradient."""


@contextmanager
def differentiable(model: nn.Module) -> Iterator[None]:
    """A context inside which gradients flow through a raw model, from a site's array to the logits.

    Values are those of the model outside it. Enter it around `mx.grad` or `mx.vjp`, forward pass and all. Afterwards
    each module is in the mode it was in.

    Args:
        model: The raw model.
    Raises:
        KindError: The model draws random numbers, because it is in training mode.
        ArchitectureError: It runs something that has no gradient, or is split and does not sum gradients over ranks.
    """
    refuse_gradients(model)
    modules = _modules_of(model)
    refuse_random(model)
    _refuse_kernels(model, modules)
    evaluating = [module for module in modules if not module.training and _names(module).intersection(UNLESS_TRAINING)]
    with ExitStack() as stack:
        for module in evaluating:
            stack.callback(module._set_training_mode, False)
            module._set_training_mode(True)
        if hooks := _stop_hooks(model):
            stack.enter_context(Frame(model, hooks))
        try:
            yield
        except (RuntimeError, ValueError) as error:
            if not any(refusal in str(error) for refusal in _REFUSALS):
                raise
            raise ArchitectureError(
                f"`model` must be differentiable. Got {plain_class(model).__module__}, of which MLX says: {error} "
                f"{_ON_THE_CPU}"
            ) from error


def _modules_of(model: nn.Module) -> list[nn.Module]:
    return [module for module in parts_of(model) if isinstance(module, nn.Module)]


def _refuse_kernels(model: nn.Module, modules: Iterable[nn.Module]) -> None:
    """Refuse a model that runs a kernel without a gradient on this machine."""
    if not _runs_metal():
        return
    for module in modules:
        for name in sorted(_names(module).intersection(WITHOUT_GRADIENT)):
            computation, remedy = WITHOUT_GRADIENT[name]
            raise ArchitectureError(
                f"`model` must be differentiable. Got {plain_class(model).__module__}: {computation} a Metal kernel, "
                f"which has no gradient. {remedy}"
            )


def _runs_metal() -> bool:
    return mx.metal.is_available() and mx.default_device() == mx.Device(mx.gpu)


def _names(module: nn.Module) -> set[str]:
    return names_in(plain_class(module), "__call__")


def _stop_hooks(model: nn.Module) -> list[Hook]:
    """A hook at each module whose own code sorts indices out of values, or rounds."""
    hooks = []
    for path, module in model.named_modules():
        if _sorts_or_rounds(plain_class(module)):
            point = Point(path, "inside", recipe="differentiated")
            hooks.append(Hook(Place(Site(f"{path}:input"), module, point, module), _read_nothing, Phase.STOP))
    return hooks


def _sorts_or_rounds(cls: type) -> bool:
    return not own_names(cls, "__call__").isdisjoint((*INDICES, *ROUNDING))


def _read_nothing(value: mx.array, forward_pass: ForwardPass) -> None:
    """Do nothing: the recipe acts on the call, and not on an array."""
