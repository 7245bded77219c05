"""The vocabulary: every named place of a transformer that can be read or edited.

Names, spelling and shapes are TransformerLens's, and mean what they mean there. One table, `SITES`; a `Site`
is one of its rows at one layer, or a raw module path with a side for whatever has no name.
"""

import re
from dataclasses import dataclass

from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.errors import KindError, SelectionError, UnknownNameError, did_you_mean, shown
from mlx_patch.idioms import SITE_ALIASES, SITE_HINTS

__all__ = ["Site", "SiteKind", "SITES", "short_name", "site_of"]


@dataclass(frozen=True)
class SiteKind:
    """One row of the vocabulary.

    Attributes:
        name: The short name, `resid_post`.
        hook: TransformerLens's spelling, `blocks.{layer}.hook_resid_post`.
        axes: The names of the array's axes, in order.
        meaning: One sentence.
    """

    name: str
    hook: str
    axes: tuple[str, ...]
    meaning: str

    @property
    def layered(self) -> bool:
        """Whether there is one in each block."""
        return "{layer}" in self.hook


_STREAM = ("batch", "pos", "d_model")
_HEADS = ("batch", "pos", "head", "d_head")
_SCORES = ("batch", "head", "query_pos", "key_pos")
_EXPERTS = ("batch", "pos", "expert")

_ROWS = (
    ("embed", "hook_embed", _STREAM, "what enters block 0"),
    ("resid_pre", "blocks.{layer}.hook_resid_pre", _STREAM, "the stream that enters a block"),
    ("q", "blocks.{layer}.attn.hook_q", _HEADS, "queries, before any norm and RoPE"),
    ("k", "blocks.{layer}.attn.hook_k", _HEADS, "keys of the real KV heads, before any norm and RoPE"),
    ("v", "blocks.{layer}.attn.hook_v", _HEADS, "values of the real KV heads"),
    (
        "rot_q",
        "blocks.{layer}.attn.hook_rot_q",
        _HEADS,
        "queries as attention sees them, after norm and RoPE",
    ),
    ("rot_k", "blocks.{layer}.attn.hook_rot_k", _HEADS, "keys as attention sees them, after norm and RoPE"),
    ("attn_scores", "blocks.{layer}.attn.hook_attn_scores", _SCORES, "scaled and masked, before the softmax"),
    ("pattern", "blocks.{layer}.attn.hook_pattern", _SCORES, "attention probabilities, after the softmax"),
    ("z", "blocks.{layer}.attn.hook_z", _HEADS, "what enters the output projection, by query head"),
    ("mixer_out", "blocks.{layer}.hook_mixer_out", _STREAM, "what the token mixer adds to the stream"),
    ("attn_out", "blocks.{layer}.hook_attn_out", _STREAM, "what attention adds to the stream"),
    ("resid_mid", "blocks.{layer}.hook_resid_mid", _STREAM, "the stream between mixer and MLP"),
    (
        "router_logits",
        "blocks.{layer}.mlp.hook_router_logits",
        _EXPERTS,
        "the router's scores, which choose experts",
    ),
    (
        "expert_weights",
        "blocks.{layer}.mlp.hook_expert_weights",
        _EXPERTS,
        "the weight of each expert, 0 if not run",
    ),
    (
        "mlp_post",
        "blocks.{layer}.mlp.hook_post",
        ("batch", "pos", "d_mlp"),
        "neurons: what enters the down projection",
    ),
    ("mlp_out", "blocks.{layer}.hook_mlp_out", _STREAM, "what the MLP adds to the stream"),
    ("resid_post", "blocks.{layer}.hook_resid_post", _STREAM, "the stream that leaves a block"),
    ("final_norm", "ln_final.hook_normalized", _STREAM, "what the unembedding reads"),
)

SITES: dict[str, SiteKind] = {row[0]: SiteKind(*row) for row in _ROWS}
"""Every named site by its short name, in the order in which a forward pass meets them."""

_BY_HOOK = {kind.hook.replace("{layer}", "L"): kind.name for kind in SITES.values()}
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_SHORT = re.compile(r"([a-z_]+)\.(\d+)")
_RAW = re.compile(r"(?P<path>[^:\[\]]*):(?P<side>input|output)(\.(?P<item>\d+))?(\[(?P<call>\d+)\])?")


@dataclass(frozen=True)
class Site:
    """A place in a model: a named site at a layer, or a raw module path with a side.

    Args:
        name: A short name (`"resid_post"`), or a raw module path with a side
            (`"model.layers.3.mlp.gate_proj:output"`). Where the module runs several times in one forward pass,
            with the number of the call as well: `"...:output[1]"`; for another argument than the first, or a part of
            a tuple that is returned, with its number: `"...:output.0"`.
        layer: The block, from 0. None for `embed`, `final_norm` and raw paths.

    Raises:
        UnknownNameError: `name` is not in the vocabulary.
        SelectionError: A layer is missing, is negative, or is given to a site that has none.

    Example:
        >>> str(Site("resid_post", 12))
        'blocks.12.hook_resid_post'
        >>> Site.parse("blocks.12.hook_resid_post") == Site.parse("resid_post.12") == Site("resid_post", 12)
        True
    """

    name: str
    layer: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", short_name(arguments.string("name", self.name)))
        if self.layer is not None and not arguments.is_whole(self.layer):
            raise SelectionError(f"`layer` of {self.name!r} must be a block's number, from 0. Got {shown(self.layer)}.")
        if self.layer is not None:
            object.__setattr__(self, "layer", arguments.whole_number("layer", self.layer, error=SelectionError))
        if _RAW.fullmatch(self.name):
            _refuse_layer(self)
            return
        if self.name not in SITES:
            raise UnknownNameError(f"`name` must be a site. Got {shown(self.name)}. {_hint(self.name)}")
        if not SITES[self.name].layered:
            _refuse_layer(self)
        elif self.layer is None or self.layer < 0:
            raise SelectionError(f"`layer` of {self.name!r} must be a block's number, from 0. Got {shown(self.layer)}.")

    @classmethod
    def parse(cls, text: "str | Site") -> "Site":
        """The site that a text names: TransformerLens's spelling, `resid_post.12`, or a raw path with a side.

        Raises:
            UnknownNameError: The text names no site; the message has the nearest names.
            SelectionError: The layer is missing.
            KindError: It is neither a text nor a Site.
        """
        if isinstance(text, Site):
            return text.plain
        if not isinstance(text, str):
            raise KindError(f"`site` must be a name or a Site. Got {shown(text)}.")
        text = str(text)
        if _RAW.fullmatch(text):
            return cls(text)
        if match := _BLOCK.fullmatch(text):
            name = _BY_HOOK.get(f"blocks.L.{match[2]}")
            if name is None:
                raise UnknownNameError(
                    f"`site` must name a site. Got {shown(text)}. {_hint_of_hook(match[1], match[2])}"
                )
            return cls(name, int(match[1]))
        if match := _SHORT.fullmatch(text):
            return cls(match[1], int(match[2]))
        return cls(_BY_HOOK.get(text, text))

    @property
    def plain(self) -> "Site":
        """The site itself, with its short name; of the hook that functions are given, the site that it stands for."""
        return self

    @property
    def is_raw(self) -> bool:
        """Whether this is a raw module path with a side."""
        return self.name not in SITES

    @property
    def raw(self) -> tuple[str, str, int | None]:
        """Path, side and call of a raw site: `("model.norm", "output", None)`."""
        match = _RAW.fullmatch(self.name)
        assert match is not None
        call = None
        if match["call"] is not None:
            call = int(match["call"])
        return match["path"], match["side"], call

    @property
    def item(self) -> int | None:
        """The argument, or the item of a returned tuple, that a raw site names; None where it names none."""
        match = _RAW.fullmatch(self.name)
        if match is None or match["item"] is None:
            return None
        return int(match["item"])

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of the array's axes; empty for a raw site, whose axes are the module's own."""
        if self.is_raw:
            return ()
        return SITES[self.name].axes

    @override
    def __str__(self) -> str:
        if self.is_raw:
            return self.name
        return SITES[self.name].hook.format(layer=self.layer)


def short_name(name: str) -> str:
    """The name of a site here, where TransformerLens has another for it."""
    return SITE_ALIASES.get(name, name)


def _hint(name: str) -> str:
    """What to write in place of a name that is no site."""
    if hint := SITE_HINTS.get(name.removeprefix("hook_")):
        return f"It is not one here: {hint}."
    return f"{did_you_mean(name, SITES)} A raw module path ends in ':input' or ':output'."


def _hint_of_hook(layer: str, hook: str) -> str:
    """What to write in place of a hook that blocks do not have."""
    name = hook.rpartition(".")[2].removeprefix("hook_")
    if name in SITE_HINTS:
        return _hint(name)
    hooks = (known for known in _BY_HOOK if known.startswith("blocks"))
    return did_you_mean(f"blocks.L.{hook}", hooks).replace(".L.", f".{layer}.")


def _refuse_layer(site: Site) -> None:
    if site.layer is not None:
        raise SelectionError(f"`layer` must be None for {site.name!r}, which the model has once. Got {site.layer}.")


def site_of(key: object, n_layers: int | None) -> Site:
    """The site that a key names.

    Args:
        key: As one of `ActivationCache`.
        n_layers: How many blocks the model has, from which negative layers count; None if it is not known.
    Raises:
        UnknownNameError: It names no site.
        SelectionError: A negative layer before the first, or where the number of layers is not known.
    """
    match key:
        case (str(name),):
            return Site(name)
        case (str(name), layer) if arguments.is_whole(layer):
            return Site(name, _from_start(int(layer), n_layers))
        case (str(name), layer, str(part)) if arguments.is_whole(layer) and f".{part}." in str(
            site := site_of((name, layer), n_layers)
        ):
            return site
        case str() | Site():
            return Site.parse(key)
    raise UnknownNameError(f"`site` must be a name, a Site, or (name, layer). Got {shown(key)}.")


def _from_start(layer: int, n_layers: int | None) -> int:
    """A layer that may count from the end, counted from 0."""
    if layer >= 0:
        return layer
    if n_layers is None:
        raise SelectionError(
            f"`layer` must be a block's number. Got {layer} for a cache that does not know how many the model has."
        )
    if layer < -n_layers:
        raise SelectionError(f"`layer` must be a block's number. Got {layer} for a cache that has {n_layers}.")
    return n_layers + layer
