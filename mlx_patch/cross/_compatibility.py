"""`compatibility`: whether the activations of one model can be put into another, and what to do where they cannot."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from typing_extensions import override

from mlx_patch.chats import encoded
from mlx_patch.errors import ValueRefusedError
from mlx_patch.model import HookedModel, require_hooked
from mlx_patch.provenance import parameters
from mlx_patch.sites import SITES

_PROBE = "It's 12:30 - the naïve café at 4879 km costs <tool_call> 日本\n\n  {x}"
"""A text in which tokenisers differ: an apostrophe, digits, accents, a tag, other letters, spaces."""

_REMEDIES = {
    "layers": "layer_map=mp.LayerMap.proportional(target.n_layers, donor.n_layers)",
    "width": "linear_map=mp.cross.fit_maps(target, donor, prompts)",
    "tokens": "alignment=mp.align(donor_prompt, prompt, donor.tokenizer, corrupted_tokenizer=target.tokenizer), with "
    "donor_tokens=",
}


@dataclass(frozen=True)
class Compatibility:
    """What two models have in common. Printed, it is a table.

    Attributes:
        rows: What was compared: the target's, and the donor's.
        problems: What stands in the way, by kind ("layers", "width", "tokens"), in words.
        notes: What does not, and is worth knowing.
    """

    rows: Mapping[str, tuple[str, str]]
    problems: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the donor's activations fit as they are."""
        return not self.problems

    def require(self, solved: Mapping[str, bool] | None = None) -> None:
        """Raise for what stands in the way and is not taken care of.

        Args:
            solved: Which kinds of problem are.
        Raises:
            ValueRefusedError: The first of the others, with its remedy.
        """
        for kind, problem in self.problems.items():
            if not (solved or {}).get(kind, False):
                raise ValueRefusedError(f"`donor` must fit the target. Got {problem}. Give {_REMEDIES[kind]}.")

    @override
    def __str__(self) -> str:
        table = [("", "target", "donor"), *((name, *both) for name, both in self.rows.items())]
        widths = [max(len(row[column]) for row in table) for column in range(3)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
        ]
        said = [f"differs: {problem}; give {_REMEDIES[kind]}" for kind, problem in self.problems.items()]
        return "\n".join([*lines, *said, *(f"note: {note}" for note in self.notes)])


def compatibility(target: HookedModel, donor: HookedModel) -> Compatibility:
    """Compare two models: layers, width, heads, vocabulary, tokenizer, chat template, dtypes.

    Args:
        target: The model that is patched.
        donor: The model whose activations are put in.
    """
    require_hooked("target", target)
    require_hooked("donor", donor)
    rows = {
        "architecture": _both(target, donor, lambda m: m.layout.family.name),
        "layers": _both(target, donor, lambda m: str(m.n_layers)),
        "width": _both(target, donor, lambda m: str(m.d_model)),
        "heads": _both(target, donor, _heads),
        "vocabulary": _both(target, donor, lambda m: str(m.d_vocab)),
        "tokenizer": _both(target, donor, _tokenizer),
        "chat template": _both(target, donor, _template),
        "weights": _both(target, donor, _weights),
    }
    problems: dict[str, str] = {}
    if target.n_layers != donor.n_layers:
        problems["layers"] = f"{donor.n_layers} layers for {target.n_layers}"
    if target.d_model != donor.d_model:
        problems["width"] = f"a stream of {donor.d_model} for one of {target.d_model}"
    if not _same_tokens(target, donor):
        problems["tokens"] = "another tokenizer, so that equal positions hold other texts"
    return Compatibility(rows, problems, tuple(_notes(rows)))


def _both(target: HookedModel, donor: HookedModel, of: Any) -> tuple[str, str]:
    return of(target), of(donor)


def _notes(rows: Mapping[str, tuple[str, str]]) -> list[str]:
    found = []
    if len(set(rows["weights"])) > 1:
        found.append("the donor's activations are cast to the target's dtype, and its own weights round otherwise")
    if len(set(rows["heads"])) > 1:
        found.append("heads differ: patch the stream, and not z, q, k, v or patterns")
    if len(set(rows["architecture"])) > 1:
        found.append("the architectures differ: equal names need not mean equal things")
    if len(set(rows["chat template"])) > 1:
        found.append("the chat templates differ: tokenize the conversation once, or align the two prompts")
    return found


def _heads(model: HookedModel) -> str:
    """Heads by head width, at the first layer that has any."""
    site = next((site for site in model.sites if site.name == "z"), None)
    if site is None:
        return "-"
    z = model.run_with_cache(mx.zeros((1, 1), mx.int32), sites=(site,), logits_at=-1)[1][site]
    n_layers = sum(site.name == "z" for site in model.sites)
    assert SITES["z"].axes[2] == "head"
    return f"{z.shape[2]} of {z.shape[3]} in {n_layers} layers"


def _tokenizer(model: HookedModel) -> str:
    ids = _probe(model)
    return "-" if ids is None else f"{len(ids)} tokens of the probe text"


def _probe(model: HookedModel) -> list[int] | None:
    if model.tokenizer is None:
        return None
    return encoded(model.tokenizer, _PROBE, add_special_tokens=True)


def _same_tokens(target: HookedModel, donor: HookedModel) -> bool:
    """Whether both cut the probe alike, with one id a string; without tokenizers, whether they know as many tokens."""
    one, other = _probe(target), _probe(donor)
    if one is None or other is None:
        return target.d_vocab == donor.d_vocab
    if one != other or target.tokenizer.vocab_size != donor.tokenizer.vocab_size:
        return False
    ours, theirs = target.tokenizer.get_vocab(), donor.tokenizer.get_vocab()
    return all(ours[token] == theirs[token] for token in ours.keys() & theirs.keys())


def _template(model: HookedModel) -> str:
    template = getattr(model.tokenizer, "chat_template", None)
    return "none" if not template else f"{len(str(template))} characters"


def _weights(model: HookedModel) -> str:
    about = model.identity
    dtypes = sorted({str(p.dtype).removeprefix("mlx.core.") for p in parameters(model.model)})
    return about.get("bits") or "+".join(dtypes)
