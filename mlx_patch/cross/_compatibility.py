"""`compatibility`: whether one model's activations fit another model, and what to do if they do not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
        rows: The properties compared: the target's, and the donor's.
        problems: The differences that prevent patching, by kind ("layers", "width", "tokens"), as text.
        notes: Differences that do not prevent it.
    """

    rows: Mapping[str, tuple[str, str]]
    problems: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the donor's activations fit as they are."""
        return not self.problems

    def require(self, solved: Mapping[str, bool] | None = None) -> None:
        """Raise for the first unsolved problem.

        Args:
            solved: Whether each kind of problem is; by default none is.
        Raises:
            ValueRefusedError: There is such a problem; the message names its remedy.
        """
        for kind, problem in self.problems.items():
            if solved is None or not solved.get(kind, False):
                raise ValueRefusedError(f"`donor` must fit the target. Got {problem}. Give {_REMEDIES[kind]}.")

    @override
    def __str__(self) -> str:
        table = [("", "target", "donor")]
        table += [(name, target, donor) for name, (target, donor) in self.rows.items()]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [_table_line(row, widths) for row in table]
        lines += [f"differs: {problem}; give {_REMEDIES[kind]}" for kind, problem in self.problems.items()]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


def _table_line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
    return "  ".join(cells).rstrip()


def compatibility(target: HookedModel, donor: HookedModel) -> Compatibility:
    """Compare two models: layers, width, heads, vocabulary, tokenizer, chat template, dtypes.

    Args:
        target: The model that is patched.
        donor: The model whose activations are put in.
    """
    require_hooked("target", target)
    require_hooked("donor", donor)
    target_properties, donor_properties = _properties(target), _properties(donor)
    rows = {name: (target_properties[name], donor_properties[name]) for name in target_properties}
    problems: dict[str, str] = {}
    if target.n_layers != donor.n_layers:
        problems["layers"] = f"{donor.n_layers} layers for {target.n_layers}"
    if target.d_model != donor.d_model:
        problems["width"] = f"a stream of {donor.d_model} for one of {target.d_model}"
    if not _same_tokens(target, donor):
        problems["tokens"] = "another tokenizer, so equal positions hold different text"
    return Compatibility(rows, problems, tuple(_notes(rows)))


def _properties(model: HookedModel) -> dict[str, str]:
    return {
        "architecture": model.layout.family.name,
        "layers": str(model.n_layers),
        "width": str(model.d_model),
        "heads": _describe_heads(model),
        "vocabulary": str(model.d_vocab),
        "tokenizer": _describe_tokenizer(model),
        "chat template": _describe_template(model),
        "weights": _describe_weights(model),
    }


def _notes(rows: Mapping[str, tuple[str, str]]) -> list[str]:
    notes = []
    if len(set(rows["weights"])) > 1:
        notes.append("the donor's activations are cast to the target's dtype, and its own weights round differently")
    if len(set(rows["heads"])) > 1:
        notes.append("heads differ: patch the stream, not z, q, k, v or patterns")
    if len(set(rows["architecture"])) > 1:
        notes.append("the architectures differ: one name may mean different things")
    if len(set(rows["chat template"])) > 1:
        notes.append("the chat templates differ: tokenize the conversation once, or align the two prompts")
    return notes


def _describe_heads(model: HookedModel) -> str:
    """The number and width of heads, from a run, at the first layer that has any."""
    site = next((site for site in model.sites if site.name == "z"), None)
    if site is None:
        return "-"
    z = model.run_with_cache(mx.zeros((1, 1), mx.int32), sites=(site,), logits_at=-1)[1][site]
    n_layers = sum(site.name == "z" for site in model.sites)
    assert SITES["z"].axes[2] == "head"
    return f"{z.shape[2]} of {z.shape[3]} in {n_layers} layers"


def _describe_tokenizer(model: HookedModel) -> str:
    ids = _probe_tokens(model)
    if ids is None:
        return "-"
    return f"{len(ids)} tokens of the probe text"


def _probe_tokens(model: HookedModel) -> list[int] | None:
    if model.tokenizer is None:
        return None
    return encoded(model.tokenizer, _PROBE, add_special_tokens=True)


def _same_tokens(target: HookedModel, donor: HookedModel) -> bool:
    """Whether both tokenize the probe alike and agree on shared strings; without tokenizers, on vocabulary size."""
    target_probe, donor_probe = _probe_tokens(target), _probe_tokens(donor)
    if target_probe is None or donor_probe is None:
        return target.d_vocab == donor.d_vocab
    if target_probe != donor_probe or target.tokenizer.vocab_size != donor.tokenizer.vocab_size:
        return False
    target_ids, donor_ids = target.tokenizer.get_vocab(), donor.tokenizer.get_vocab()
    shared = target_ids.keys() & donor_ids.keys()
    return all(target_ids[token] == donor_ids[token] for token in shared)


def _describe_template(model: HookedModel) -> str:
    template = getattr(model.tokenizer, "chat_template", None)
    if not template:
        return "none"
    return f"{len(str(template))} characters"


def _describe_weights(model: HookedModel) -> str:
    if bits := model.identity.get("bits"):
        return bits
    dtypes = {str(parameter.dtype).removeprefix("mlx.core.") for parameter in parameters(model.model)}
    return "+".join(sorted(dtypes))
