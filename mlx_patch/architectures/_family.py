"""`Family`: the table of one architecture, saying where each site lives in mlx_lm's module tree."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import mlx.core as mx
import mlx.nn as nn

from mlx_patch.architectures._views import ByHead, View, Whole, attribute

Side = Literal["input", "output", "inside"]
Recipe = Literal["sdpa", "softmax", "experts"]


@dataclass(frozen=True)
class Point:
    """Where one site can be read and written.

    Attributes:
        path: The module's path, from the block (from the model, for sites without a layer); "" is the block itself.
        side: The module's first argument, what it returns, or something that it computes inside its call.
        view: How the site's array stands in that array.
        call: Which call of the module in a forward pass, for modules that run several times.
        recipe: For `inside`: which functions of the module's call to stand in for. `sdpa`: it calls mlx_lm's
            `scaled_dot_product_attention`; `softmax`: it writes attention out and calls `mx.softmax`; `experts`: it
            chooses experts with `mx.take_along_axis` and weighs them with `mx.softmax`.
        carried: For a stream that a module reads and the skip connection carries on: the site that is added next.
            An edit here is carried on by making the block's output the edited stream plus that.
        item: Which argument, of those that come by position (None is the first), or which part of a tuple that is
            returned (None: what is returned is the array).
        of: The name of the class that the module must have, for blocks of a hybrid that keep different mixers under
            one name.
    """

    path: str
    side: Side
    view: View = field(default_factory=Whole)
    call: int | None = None
    recipe: Recipe | None = None
    carried: str | None = None
    item: int | None = None
    of: str | None = None

    def serves(self, block: nn.Module) -> bool:
        """Whether a block has the module."""
        try:
            module = attribute(block, self.path)
        except (AttributeError, IndexError, KeyError):
            return False
        return isinstance(module, nn.Module) and self.of in (None, type(module).__name__)


def _plus(stream: mx.array, added: mx.array, block: nn.Module) -> mx.array:
    return stream + added


Combine = Callable[[mx.array, mx.array, nn.Module], mx.array]
"""From the stream, what a part adds to it and the block, to the stream afterwards."""


@dataclass(frozen=True)
class Stream:
    """How the parts of a block make the stream, where that is not a plain sum.

    Attributes:
        says: The rule as a clause: "resid_mid = resid_pre + mixer_out".
        mid: `resid_mid` from `resid_pre` and `mixer_out`.
        post: `resid_post` from `resid_mid` and `mlp_out`.
    """

    says: str = "resid_mid = resid_pre + mixer_out, resid_post = resid_mid + mlp_out"
    mid: Combine = _plus
    post: Combine = _plus


@dataclass(frozen=True)
class Family:
    """One architecture as data.

    Attributes:
        name: mlx_lm's module, `mlx_lm/models/<name>.py`.
        block: The sites of a block, by short name. Where blocks differ, several points for one site: the first that a
            block has serves it.
        absent: The sites that it does not have, with the reason as a clause ("its attention and MLP run in parallel").
        blocks: The path of the list of blocks that the forward pass walks, which need not be `model.layers`.
        final_norm: The path of the norm before the unembedding.
        width: The path of the width of the stream.
        vocabulary: The path of the number of rows of the unembedding.
        applies: Whether a model of this module is of this table, for modules that hold two.
        variant: What tells this table from the module's other one.
        also: Other modules of mlx_lm that this table reads.
        stream: How the parts of a block make the stream.
    """

    name: str
    block: Mapping[str, Point | tuple[Point, ...]]
    absent: Mapping[str, str] = field(default_factory=dict)
    blocks: str = "model.layers"
    final_norm: str = "model.norm"
    width: str = "args.hidden_size"
    vocabulary: str = "args.vocab_size"
    applies: Callable[[nn.Module], bool] = lambda model: True
    variant: str = ""
    also: tuple[str, ...] = ()
    stream: Stream = field(default_factory=Stream)

    @property
    def modules(self) -> tuple[str, ...]:
        """Every module of mlx_lm that this table reads."""
        return (self.name, *self.also)

    def points(self, name: str) -> tuple[Point, ...]:
        """The points of one site, in the order in which they are tried."""
        found = self.block.get(name, ())
        return found if isinstance(found, tuple) else (found,)


BLOCK_ENDS: Mapping[str, Point] = {"resid_pre": Point("", "input"), "resid_post": Point("", "output")}
"""What every block has."""

DENSE: Mapping[str, str] = {
    "router_logits": "its MLP has no experts",
    "expert_weights": "its MLP has no experts",
}
"""Why a dense model lacks the sites of mixtures of experts."""


def heads_side_by_side(
    attention: str = "self_attn", heads: str = "n_heads", kv_heads: str = "n_kv_heads"
) -> dict[str, Point]:
    """`q`, `k`, `v` and `z` of an attention with four projections of llama's names."""
    query, kv = f"{attention}.{heads}", f"{attention}.{kv_heads}"
    return {
        "q": Point(f"{attention}.q_proj", "output", ByHead(query)),
        "k": Point(f"{attention}.k_proj", "output", ByHead(kv)),
        "v": Point(f"{attention}.v_proj", "output", ByHead(kv)),
        "z": Point(f"{attention}.o_proj", "input", ByHead(query)),
    }


def attention_inside(
    attention: str, names: tuple[str, ...] = ("rot_q", "rot_k", "attn_scores", "pattern")
) -> dict[str, Point]:
    """The sites inside an attention that calls mlx_lm's `scaled_dot_product_attention`."""
    return {name: Point(attention, "inside", recipe="sdpa") for name in names}


def adds(site: Point, *names: str) -> dict[str, Point]:
    """One point under several names: `attn_out` is the `mixer_out` of a block whose mixer is attention."""
    return dict.fromkeys(names, site)


def wrapped(family: Family, name: str, inner: str = "language_model") -> Family:
    """The table of a model that holds one of `family` as its text tower, at a path."""
    holder = family.applies

    def applies(model: nn.Module) -> bool:
        tower = attribute(model, inner)
        module = type(tower).__module__.removeprefix("mlx_lm.models.")
        return module in (*family.modules, name) and holder(tower)

    places = ("blocks", "final_norm", "width", "vocabulary")
    moved = {place: f"{inner}.{getattr(family, place)}" for place in places}
    variant = " ".join(filter(None, (family.name, family.variant)))
    return replace(family, name=name, also=(), variant=variant, applies=applies, **moved)
