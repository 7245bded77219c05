"""The check of pairs: what can be known before a forward pass, then one pass of every prompt."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from mlx_patch.errors import PatchError, ValueRefusedError
from mlx_patch.model import HookedModel

from ._pair import PromptPair, metric_of
from ._report import PairCheckRow, PairReport, shortened


def checked(pairs: tuple[PromptPair, ...], name: str, model: HookedModel, strict: bool, unequal: bool) -> PairReport:
    """See `PromptPairs.check`."""
    rows, able = [], {}
    for n, pair in enumerate(pairs):
        row, resolved = _before(pair, model, unequal)
        rows.append(row)
        if resolved is not None:
            able[n] = resolved
    report = PairReport(pairs, tuple(rows), "probability" if any(pair.has_sets for pair in pairs) else "nats", name)
    if strict:
        _refuse(report)
    for (n, _), found in zip(able.items(), _measured(list(able.values()), model), strict=True):
        rows[n] = _judged(rows[n], *found)
    report = replace(report, rows=tuple(rows))
    if strict:
        _refuse(report)
    return report


def _before(pair: PromptPair, model: HookedModel, unequal: bool) -> tuple[PairCheckRow, PromptPair | None]:
    """What is known of a pair without running it, and the pair as token ids where it can be run."""
    row = PairCheckRow(_label(pair, model.tokenizer))
    try:
        resolved = pair.resolved(model)
    except PatchError as error:
        return replace(row, problem=str(error)), None
    length = len(resolved.clean), len(resolved.corrupted)
    return replace(row, length=length, problem="" if unequal else _unequal(*length)), resolved


def _unequal(clean: int, corrupted: int) -> str:
    if clean == corrupted:
        return ""
    return (
        f"`corrupted` must have as many tokens as `clean`, {clean}. Got {corrupted}. "
        "Align them with mp.align(clean, corrupted), and check with unequal=True."
    )


def _measured(pairs: Sequence[PromptPair], model: HookedModel) -> list[tuple[float, float]]:
    """The metric of the clean and of the corrupted prompt of each pair, which holds token ids alone."""
    if not pairs:
        return []
    prompts = [prompt for pair in pairs for prompt in (pair.clean, pair.corrupted)]
    logits = model.run_each(prompts, logits_at=-1)
    metric, n = metric_of(pairs), len(pairs)
    values = [cast("float", metric.for_rows([i // 2], n)(one).item()) for i, one in enumerate(logits)]
    return list(zip(values[::2], values[1::2], strict=True))


def _judged(row: PairCheckRow, clean: float, corrupted: float) -> PairCheckRow:
    reasons = [row.problem] if row.problem else []
    if not clean > 0:
        reasons.append("the clean prompt does not prefer the answer")
    if not corrupted <= 0:
        reasons.append("the corrupted prompt prefers the answer too")
    return replace(row, clean=clean, corrupted=corrupted, problem="; ".join(reasons))


def _refuse(report: PairReport) -> None:
    if report.ok:
        return
    n = len(report.failing)
    reasons = [f"pair {number}: {report.rows[number].problem}" for number in report.failing[:5]]
    more = f" And {n - 5} more." if n > 5 else ""
    raise ValueRefusedError(
        f"`pairs` must all pass the check. Got {n} of {len(report.rows)} that fail. {'. '.join(reasons)}.{more} "
        "Keep the others: pairs.passing(pairs.check(model))."
    )


def _label(pair: PromptPair, tokenizer: Any) -> str:
    shown = (_wanted(one, tokenizer) for one in (pair.answers, pair.foils))
    return f"{_text(pair.clean, tokenizer)} -> {' / '.join(shown)}"


def _text(prompt: Any, tokenizer: Any) -> str:
    if isinstance(prompt, str):
        return shortened(prompt)
    if isinstance(prompt[-1], dict):
        return shortened(f"{prompt[-1].get('role', '')}: {prompt[-1].get('content', '')}")
    return shortened(_decoded(prompt, tokenizer))


def _wanted(answers: tuple[str | int, ...], tokenizer: Any) -> str:
    shown = [shortened(repr(one if isinstance(one, str) else _decoded((one,), tokenizer))) for one in answers[:3]]
    return " ".join(shown) + (f" and {len(answers) - 3} more" if len(answers) > 3 else "")


def _decoded(ids: tuple[int, ...], tokenizer: Any) -> str:
    return str(list(ids)) if tokenizer is None else tokenizer.decode(list(ids[-64:]))
