"""Metrics, interventions, edits, positions and receivers, from their texts on the command line."""

import ast
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx_patch.metrics as metrics
from mlx_patch.cli._language import Language, Maker, read_choices
from mlx_patch.errors import UnknownNameError, ValueRefusedError, shown
from mlx_patch.interventions import (
    Ablate,
    Clamp,
    Edit,
    Interpolate,
    Intervention,
    Knockout,
    Receiver,
    Replace,
    Scale,
    steps,
)
from mlx_patch.positions import pos

_METRICS = (
    metrics.LogitDiff,
    metrics.LogProb,
    metrics.Prob,
    metrics.Rank,
    metrics.Entropy,
    metrics.ProbDiff,
    metrics.TokenSetProb,
    metrics.SequenceLogProb,
    metrics.SequenceLogitDiff,
    metrics.StartsWith,
    metrics.GenerateMatches,
)
_SHORT = re.compile(r"\s*([a-z_]+)\s*=\s*([^=].*)")
"""`scale=2`, which is `scale(2)`."""

_RECEIVER = re.compile(r"[a-z]+(\.-?\d+(\+-?\d+)*){0,2}")
"""`q.11.3`, as `str(Receiver("q", layer=11, head=3))` writes it."""

_SELECTORS = {
    "last": pos.last,
    **{name: Maker(getattr(pos, name)) for name in ("token", "text", "role", "turn")},
}


def metric_names() -> tuple[str, ...]:
    """The names of metrics that `--metric` knows, without those of classes."""
    built_in = {_snake(kind) for kind in _METRICS} | {"kl"}
    return tuple(sorted(built_in | set(metrics.registered())))


def read_metric(text: str, reference: Callable[[str], Any]) -> Any:
    """The metric of a text.

    Args:
        text: `logit_diff(' Mary', ' John')`, `entropy`, `kl`, or the same in Python's names.
        reference: The logits that `kl` compares with: of "prompt", or of "source".
    Raises:
        PatchError: It is none.
    """
    names: dict[str, Any] = {name: Maker(_named(name)) for name in metrics.registered()}
    for kind in _METRICS:
        names[_snake(kind)] = names[kind.__name__] = Maker(kind)

    def divergence(prompts: str = "prompt", **keywords: Any) -> metrics.KL:
        return metrics.KL(reference(prompts), **keywords)

    names["kl"] = names["KL"] = Maker(divergence)
    metric = Language("--metric", "a metric", names).read(text)
    if not isinstance(metric, metrics.Metric):
        raise ValueRefusedError(
            f"`--metric` must be a metric. Got {shown(text)}. Write logit_diff(' Mary', ' John'), say."
        )
    return metric


def _named(name: str) -> Callable[[], metrics.Metric]:
    return lambda: metrics.named(name)


def _snake(kind: type) -> str:
    """The name that a metric's label has: `LogitDiff` is `logit_diff`, `ProbDiff` is `prob_diff`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


@dataclass(frozen=True)
class InterventionText:
    """An intervention on the command line, which is made once for each source.

    Attributes:
        text: `zero`, `scale=2`, `replace`, `Ablate('noise', scale=3.0) | Clamp(-1, 1)`.
        option: The option that it came with.
    """

    text: str
    option: str = "--intervention"

    def of(self, source: Any) -> Intervention:
        """The intervention with a source; None is none.

        Raises:
            PatchError: It is none, or needs a source.
        """
        text = self.text
        if short := _SHORT.fullmatch(text):
            text = f"{short[1]}({short[2]})"
        value = Language(self.option, "an intervention", _interventions(self.option, source)).read(text)
        if not isinstance(value, Intervention):
            raise ValueRefusedError(
                f"`{self.option}` must be an intervention. Got {shown(self.text)}. Write zero, say."
            )
        return value


def _interventions(option: str, source: Any) -> dict[str, Any]:
    """The names of interventions. Those that take a source take the one of the command."""

    def required_source() -> Any:
        if source is None:
            raise ValueRefusedError(
                f"`{option}` must have a source for this intervention. Got none. Add --source TEXT."
            )
        return source

    def ablation(kind: str) -> Maker:
        def make(**arguments: Any) -> Ablate:
            if source is not None and kind in ("mean", "resample"):
                arguments["source"] = source
            return Ablate(kind, **arguments)

        return Maker(make)

    names: dict[str, Any] = {kind: ablation(kind) for kind in ("zero", "mean", "resample")}
    names["noise"] = Maker(lambda scale=1.0, **arguments: Ablate("noise", scale=scale, **arguments))
    names["Ablate"] = Maker(lambda kind, **arguments: _made(ablation, kind, arguments))
    for name, kind in {"scale": Scale, "clamp": Clamp, "knockout": Knockout}.items():
        names[name] = names[kind.__name__] = Maker(kind)
    names["source"] = Maker(required_source)
    names["replace"] = Maker(lambda: Replace(required_source()))
    names["interpolate"] = Maker(lambda alpha: Interpolate(required_source(), alpha))
    names["Replace"] = Maker(lambda source=None: Replace(_or(source, required_source)))
    names["Interpolate"] = Maker(lambda source=None, alpha=1.0: Interpolate(_or(source, required_source), alpha))
    return names


def _made(ablation: Callable[[str], Maker], kind: str, arguments: dict[str, Any]) -> Ablate:
    return ablation(kind).function(**arguments)


def _or(value: Any, default: Callable[[], Any]) -> Any:
    if value is None:
        return default()
    return value


def read_edits(texts: Sequence[str] | None, source: Any = None) -> list[Edit]:
    """The edits of `--edit`, as Python writes them: `Ablate('zero').at('z', layer=3)`.

    Raises:
        PatchError: A text is none.
    """
    names = {**_interventions("--edit", source), **_SELECTORS, "range": Maker(range)}
    for name in ("prompt", "generated"):
        names[f"steps.{name}"] = getattr(steps, name)
    names["steps.every"] = Maker(steps.every)
    language = Language("--edit", "an edit", names)
    edits = []
    for text in texts or ():
        edit = language.read(text)
        if not isinstance(edit, Edit):
            raise ValueRefusedError(
                f"`--edit` must be an edit. Got {shown(text)}. Write Ablate('zero').at('z', layer=3)."
            )
        edits.append(edit)
    return edits


def sites_of_edits(texts: Sequence[str] | None) -> list[str]:
    """The sites at which the edits of `--edit` read a source: the first argument of each `.at`, where a source is."""
    sites: dict[str, None] = {}
    for text in texts or ():
        if re.search(r"\b([rR]eplace|[iI]nterpolate|source|mean|resample)\b", text):
            sites |= dict.fromkeys(_sites_in(text))
    return list(sites)


def _sites_in(text: str) -> list[str]:
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError):  # `read_edits` says so
        return []
    sites = []
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="at"), args=[ast.Constant(value=str(site)), *_]):
                sites.append(site)
    return sites


def read_positions(text: str | None) -> list[Any] | None:
    """The positions of a text: `0-3,-1`, `last`, `text('Mary').final`.

    Raises:
        PatchError: They are none.
    """
    return read_choices(Language("--positions", "positions", _SELECTORS), text)


def read_numbers(option: str, text: str | None) -> list[Any] | None:
    """The numbers of a text: `3-7,9`, with groups `3+4+5`.

    Raises:
        PatchError: They are none.
    """
    return read_choices(Language(option, "numbers", {}), text)


def read_receivers(text: str | None) -> list[Any] | None:
    """The receivers of a text: `logits`, `q.11.3,mlp.12`, with groups `q.1.2&mlp.1`.

    Raises:
        PatchError: They are none.
    """
    if text is None:
        return None
    receivers: list[Any] = []
    for member in text.split(","):
        group = tuple(_receiver_of(name.strip()) for name in member.split("&"))
        if len(group) == 1:
            receivers.append(group[0])
        else:
            receivers.append(group)
    return receivers


def _receiver_of(text: str) -> Receiver:
    if not _RECEIVER.fullmatch(text):
        raise UnknownNameError(
            f"`--via` must be a receiver. Got {shown(text)}. Write logits, or a name with its layer and head: q.11.3."
        )
    name, *choices = text.split(".")
    layers, heads = (*choices, None, None)[:2]
    return Receiver(name, _numbers(layers), _numbers(heads))


def _numbers(text: str | None) -> list[int] | int | None:
    if text is None:
        return None
    numbers = [int(number) for number in text.split("+")]
    if len(numbers) == 1:
        return numbers[0]
    return numbers
