"""`Family`: the table of one architecture, saying where each site lives in mlx_lm's module tree."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import mlx.core as mx
import mlx.nn as nn

from mlx_patch.architectures._views import ByHead, View, Whole, attribute_at
from mlx_patch.errors import ArchitectureError

Side = Literal["input", "output", "inside", "next"]
Recipe = Literal[
    "sdpa",
    "fast",
    "softmax",
    "either",
    "capped",
    "sparse",
    "indexed",
    "norms",
    "normed",
    "mixed",
    "fused_sums",
    "experts",
    "select",
    "gate",
    "loop",
    "inputs",
    "given",
    "differentiated",
]
"""How the values that a module computes inside its call are reached.

* `sdpa`: it calls mlx_lm's `scaled_dot_product_attention`.
* `fast`: it calls MLX's.
* `softmax`: it writes attention out and calls `mx.softmax`.
* `either`: one of these two, or in a method.
* `capped`: it calls a function `_softcap_attention` that calls `mx.softmax`.
* `sparse`: it calls DeepSeek V4.1's `_sparse_attention`.
* `indexed`: it attends to what an indexer picks.
* `norms`: a block whose norms are calls of `rms_norm`.
* `normed`: a stack of blocks that so norms the embedding.
* `mixed`: a block that calls `_attn_res_mix` before mixer and MLP.
* `fused_sums`: a block that adds in `norm_add_norm`.
* `experts`: it returns the outputs of the chosen experts, which its caller multiplies with their weights.
* `select`: it calls mlx_lm's `group_expert_select`.
* `gate`: it gives its logits to `mx.softmax` or `mx.sigmoid`, and returns indices and weights.
* `loop`: it runs experts token by token.
* `inputs`: it multiplies what experts read with the `mx.sigmoid` of their logits.
* `given`: it is called with an array, the chosen experts and their weights.
* `differentiated`: it sorts indices out of values, or rounds, while gradients are taken.
"""


@dataclass(frozen=True)
class HasModule:
    """Whether a block has a module: a condition of a `Point`.

    Attributes:
        path: The module's path, from the block.
        class_name: The name of the class that the module must have; None is any.
    """

    path: str
    class_name: str | None = None

    def __call__(self, block: nn.Module) -> bool:
        """Whether the block has it."""
        try:
            module = attribute_at(block, self.path)
        except (ArchitectureError, KeyError):
            return False
        return isinstance(module, nn.Module) and self.class_name in (None, type(module).__name__)


@dataclass(frozen=True)
class Point:
    """The place where one site can be read and written.

    Attributes:
        path: The module's path, from the block (from the model, for sites without a layer); "" is the block itself.
        side: The module's first argument, what it returns, or something that it computes inside its call; `next`:
            what the next layer reads as its `resid_pre`, or behind the last one the final norm.
        view: How the site's array stands in that array.
        call: Which call of the module in a forward pass, for modules that run several times.
        calls: How often it runs in each walk of the blocks, where there are several.
        recipe: For `inside`: which functions of the module's call to stand in for.
        carried: For a stream that a module reads and the skip connection carries on: the site that is added next.
            An edit here is carried on by making the block's output the edited stream plus that.
        item: Which argument, of those that come by position (None is the first), or which part of a tuple that is
            returned (None: what is returned is the array).
        of: The name of the class that the module must have, for blocks of a hybrid that keep different mixers under
            one name.
        given: What must hold of a block besides, for blocks of a hybrid that give one name to modules in different
            places: that it has another module, `HasModule`, or any other function of a block.
        flat: Whether the array has the positions of all rows one after another, `(batch * pos, ...)`.
        part: Which layer of a block that is several, or which walk of a loop, has the site there; None is all.
        boxed: For a stream between two modules of a family with a `Boxing`: an edit is made in the box.
        beside: The path of a module that runs before and whose output is added to this one's, for parts of a block in
            parallel. The site is their sum; an edit is written through this module.
    """

    path: str
    side: Side
    view: View = field(default_factory=Whole)
    call: int | None = None
    calls: int = 1
    recipe: Recipe | None = None
    carried: str | None = None
    item: int | None = None
    of: str | None = None
    given: Callable[[nn.Module], bool] | None = None
    flat: bool = False
    part: int | None = None
    boxed: bool = False
    beside: str | None = None

    def serves(self, block: nn.Module) -> bool:
        """Whether a block has the site here: what is `given` holds, and the module is there."""
        if self.given is not None and not self.given(block):
            return False
        return HasModule(self.path, self.of)(block)


def _plus(stream: mx.array, added: mx.array, block: nn.Module) -> mx.array:
    return stream + added


Combine = Callable[..., mx.array]
"""From the stream, a part's contribution and the block, to the stream afterwards. `Stream.more` comes as `more=`."""


@dataclass(frozen=True)
class Stream:
    """The rule by which the parts of a block make the stream, where that is not a plain sum.

    Attributes:
        says: The rule as a clause: "resid_mid = resid_pre + mixer_out".
        mid: `resid_mid` from `resid_pre` and `mixer_out`.
        post: `resid_post` from `resid_mid` and `mlp_out`.
        readers: The paths of more modules that read `resid_mid`, after the one that it is read at.
        last: The path of a module that reads `resid_mid + mlp_out`, where blocks have a part behind the MLP.
        more: The path of the module whose output that part adds; `post` gets it as well.
        kept: Whether later blocks read the `resid_pre` of a block besides the stream; None where none is.
    """

    says: str = "resid_mid = resid_pre + mixer_out, resid_post = resid_mid + mlp_out"
    mid: Combine = _plus
    post: Combine = _plus
    readers: tuple[str, ...] = ()
    last: str | None = None
    more: str | None = None
    kept: Callable[[nn.Module], bool] | None = None


@dataclass(frozen=True)
class Heads:
    """Relations between the heads of an attention, where they differ from llama's.

    Attributes:
        tiled: Query head i reads KV head i modulo their number; otherwise neighbours share one.
        mixed: A norm over all heads at once stands behind `q` and `k`, so one head of theirs reaches all heads' scores.
        gated: `z` is what attention gathers times a gate that is made from the stream.
        normed: What attention gathers is normed by head before it is gated.
        sinks: Where a block keeps a score of each head that takes part in the softmax and attends to nothing; None in
            layers without.
        indexed: Which keys a query may attend to is decided from the stream, so `q` and `k` alone do not decide `z`.
        further: Where attention sees more keys than one for each position, behind those along `key_pos`: from a block
            and a number of positions, the last position that each of them stands for.
        mixed_in: The walk of a loop in which `z` is a mixture, weighed by a gate, of what `pattern` gathers and of an
            attention over keys and values of an earlier walk.
    """

    tiled: bool = False
    mixed: bool = False
    gated: bool = False
    normed: bool = False
    sinks: str | None = None
    indexed: bool = False
    further: Callable[[nn.Module, int], mx.array] | None = None
    mixed_in: int | None = None


@dataclass(frozen=True)
class Loop:
    """Blocks that a forward pass runs several times; each time counts as separate layers.

    Attributes:
        times: How often, from the model.
        normed: Whether the final norm ends each time, from the model; otherwise it ends the last.
    """

    times: Callable[[nn.Module], int]
    normed: Callable[[nn.Module], bool]


@dataclass(frozen=True)
class Boxing:
    """The stream in a box, so that edits reach skip connections whose sums no module returns.

    Attributes:
        start: Where the stream begins: in each block, or in the model.
        readers: The paths, from a block, of the modules that read it.
        whole: Whether it begins in the model and runs through all blocks, to the final norm.
    """

    start: Point
    readers: tuple[str, ...]
    whole: bool = False


def _always(model: nn.Module) -> bool:
    return True


@dataclass(frozen=True)
class Family:
    """One architecture as data.

    Attributes:
        name: mlx_lm's module, `mlx_lm/models/<name>.py`.
        block: The sites of a block, by short name. Where blocks differ, several points for one site: the first that a
            block has serves it.
        absent: The sites that it does not have, with the reason as a clause ("its attention and MLP run in parallel").
        blocks: The path of the list of blocks that the forward pass walks, which need not be `model.layers`.
        final_norm: The path of the norm before the unembedding; None where it is unknown, and there is no such site.
        embed: Where the embedding is, from the model, if more than the first block reads it.
        width: The path of the width of the stream, or the width.
        vocabulary: The path of the number of rows of the unembedding, or the number.
        positions: The path of the embedding of the positions, where they are learned, or their number; 0 where a prompt
            may be of any length.
        applies: Whether a model of this module is of this table, for modules that hold two.
        variant: What tells this table from the module's other one.
        also: Other modules of mlx_lm that this table reads.
        stream: How the parts of a block make the stream.
        heads: How the heads of its attention hang together.
        loop: How the forward pass walks its blocks several times.
        streams: The path of the number of streams, where there are several; `resid_pre` and `resid_post` have them
            side by side, `(batch, pos, stream * d_model)`. Empty for one.
        cached: Whether it is itself only over a prompt cache, through which blocks share keys and values. A run without
            one makes one.
        rounds: The dtype that its own code rounds the stream to whatever its weights are, by name; empty for none.
        rereads: Whether blocks read the tokens besides the stream, which then decides nothing for other tokens.
        parts: How many layers each block is, one after the other.
        boxing: How edits between two modules are carried on, where the stream is the model's own variable.
        uncut: Why a prompt that is split over a prompt cache gives other numbers than the whole; empty where it gives
            the same.
        shared: The sites that later blocks read besides the stream, raw ones too: `rot_k` and `v` where blocks share
            keys and values. `{block}` in a raw one is the path of each block.
        read_out: What the final norm reads besides the stream that leaves the last block, as a clause; empty where the
            stream alone decides the logits.
    """

    name: str
    block: Mapping[str, Point | tuple[Point, ...]]
    absent: Mapping[str, str] = field(default_factory=dict)
    blocks: str = "model.layers"
    final_norm: str | None = "model.norm"
    embed: Point | None = None
    width: str | int = "args.hidden_size"
    vocabulary: str | int = "args.vocab_size"
    positions: str | int = 0
    applies: Callable[[nn.Module], bool] = _always
    variant: str = ""
    also: tuple[str, ...] = ()
    stream: Stream = field(default_factory=Stream)
    heads: Heads = field(default_factory=Heads)
    loop: Loop | None = None
    parts: int = 1
    boxing: Boxing | None = None
    uncut: str = ""
    shared: tuple[str, ...] = ()
    streams: str = ""
    cached: bool = False
    rounds: str = ""
    rereads: bool = False
    read_out: str = ""

    @property
    def modules(self) -> tuple[str, ...]:
        """Every module of mlx_lm that this table reads."""
        return (self.name, *self.also)

    def points(self, name: str) -> tuple[Point, ...]:
        """The points of one site, in the order in which they are tried."""
        points = self.block.get(name, ())
        if isinstance(points, tuple):
            return points
        return (points,)


BLOCK_ENDS: Mapping[str, Point] = {"resid_pre": Point("", "input"), "resid_post": Point("", "output")}
"""The sites of every block."""

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
    attention: str,
    names: tuple[str, ...] = ("rot_q", "rot_k", "attn_scores", "pattern"),
    recipe: Recipe = "sdpa",
    of: str | None = None,
) -> dict[str, Point]:
    """The sites inside an attention that calls mlx_lm's `scaled_dot_product_attention`."""
    return {name: Point(attention, "inside", recipe=recipe, of=of) for name in names}


NEURONS_OF_EXPERTS: Mapping[str, str] = {"mlp_post": "its neurons belong to experts, and each token runs other ones"}
"""Why a block with a mixture of experts lacks the neurons of a dense MLP."""


def routed(moe: str = "mlp", router: str = "gate", experts: str = "switch_mlp", flat: bool = False) -> dict[str, Point]:
    """The sites of a mixture of experts with a linear router, whose outputs its caller weighs."""
    return {
        "router_logits": Point(f"{moe}.{router}", "output", flat=flat),
        "expert_weights": Point(f"{moe}.{experts}", "inside", recipe="experts", flat=flat),
    }


def select_kept(module: str = "mlp.gate") -> dict[str, Point]:
    """The sites of a mixture of experts that a module chooses with mlx_lm's `group_expert_select`."""
    return dict.fromkeys(("router_logits", "expert_weights"), Point(module, "inside", recipe="select"))


def adds(site: Point, *names: str) -> dict[str, Point]:
    """One point under several names: `attn_out` is the `mixer_out` of a block whose mixer is attention."""
    return dict.fromkeys(names, site)


def wrapped(family: Family, name: str, inner: str = "language_model") -> Family:
    """The table of a model that holds one of `family` as its text tower, at a path."""

    def applies(model: nn.Module) -> bool:
        tower = attribute_at(model, inner)
        module_name = type(tower).__module__.removeprefix("mlx_lm.models.")
        return module_name in (*family.modules, name) and family.applies(tower)

    fields = ["blocks", "final_norm", "width", "vocabulary"]
    if family.positions:
        fields.append("positions")
    paths = {field_name: f"{inner}.{getattr(family, field_name)}" for field_name in fields}
    variant = " ".join(filter(None, (family.name, family.variant)))
    return replace(family, name=name, also=(), variant=variant, applies=applies, **paths)
