"""The check of pairs: first without a forward pass, then with one pass of every prompt."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from mlx_patch.errors import PatchError, ValueRefusedError
from mlx_patch.model import HookedModel

from ._pair import PromptPair, metric_of
from ._report import PairCheckRow, PairReport, shortened


def checked(pairs: tuple[PromptPair, ...], name: str, model: HookedModel, strict: bool, unequal: bool) -> PairReport:
    """The report that `PromptPairs.check` returns."""
    rows, runnable = [], {}
    for number, pair in enumerate(pairs):
        row, resolved = _check_without_run(pair, model, unequal)
        rows.append(row)
        if resolved is not None:
            runnable[number] = resolved
    unit = "nats"
    if any(pair.has_sets for pair in pairs):
        unit = "probability"
    report = PairReport(pairs, tuple(rows), unit, name)
    if strict:
        _refuse_failing(report)
    values = _measure(list(runnable.values()), model)
    for number, (clean, corrupted) in zip(runnable, values, strict=True):
        rows[number] = _with_values(rows[number], clean, corrupted)
    report = replace(report, rows=tuple(rows))
    if strict:
        _refuse_failing(report)
    return report


def _check_without_run(pair: PromptPair, model: HookedModel, unequal: bool) -> tuple[PairCheckRow, PromptPair | None]:
    """The row of a pair before its prompts run, and the pair as token ids; None if it cannot run."""
    row = PairCheckRow(_label(pair, model.tokenizer))
    try:
        resolved = pair.resolved(model)
    except PatchError as error:
        return replace(row, problem=str(error)), None
    clean, corrupted = len(resolved.clean), len(resolved.corrupted)
    problem = ""
    if clean != corrupted and not unequal:
        problem = (
            f"`corrupted` must have as many tokens as `clean`, {clean}. Got {corrupted}. "
            "Align them with mp.align(clean, corrupted), and check with unequal=True."
        )
    return replace(row, length=(clean, corrupted), problem=problem), resolved


def _measure(pairs: Sequence[PromptPair], model: HookedModel) -> list[tuple[float, float]]:
    """The metric of the clean and of the corrupted prompt of each pair of token ids."""
    if not pairs:
        return []
    prompts = [prompt for pair in pairs for prompt in (pair.clean, pair.corrupted)]
    logits = model.run_each(prompts, logits_at=-1)
    metric = metric_of(pairs)
    values = []
    for number in range(len(pairs)):
        pair_metric = metric.for_rows([number], len(pairs))
        clean, corrupted = (
            cast("float", pair_metric(prompt_logits).item()) for prompt_logits in logits[2 * number : 2 * number + 2]
        )
        values.append((clean, corrupted))
    return values


def _with_values(row: PairCheckRow, clean: float, corrupted: float) -> PairCheckRow:
    problems = []
    if row.problem:
        problems.append(row.problem)
    if not clean > 0:  # NaN fails too
        problems.append("the clean prompt does not prefer the answer")
    if not corrupted <= 0:
        problems.append("the corrupted prompt prefers the answer too")
    return replace(row, clean=clean, corrupted=corrupted, problem="; ".join(problems))


def _refuse_failing(report: PairReport) -> None:
    if report.ok:
        return
    n = len(report.failing)
    problems = ". ".join(f"pair {number}: {report.rows[number].problem}" for number in report.failing[:5])
    if n > 5:
        problems = f"{problems}. And {n - 5} more"
    raise ValueRefusedError(
        f"`pairs` must all pass the check. Got {n} of {len(report.rows)} that fail. {problems}. "
        "Keep the others: pairs.passing(pairs.check(model))."
    )


def _label(pair: PromptPair, tokenizer: Any) -> str:
    answers = _answers_text(pair.answers, tokenizer)
    foils = _answers_text(pair.foils, tokenizer)
    return f"{_prompt_text(pair.clean, tokenizer)} -> {answers} / {foils}"


def _prompt_text(prompt: Any, tokenizer: Any) -> str:
    if isinstance(prompt, str):
        return shortened(prompt)
    message = prompt[-1]
    if isinstance(message, dict):
        return shortened(f"{message.get('role', '')}: {message.get('content', '')}")
    return shortened(_decode(prompt, tokenizer))


def _answers_text(answers: tuple[str | int, ...], tokenizer: Any) -> str:
    text = " ".join(_answer_text(answer, tokenizer) for answer in answers[:3])
    if len(answers) > 3:
        return f"{text} and {len(answers) - 3} more"
    return text


def _answer_text(answer: str | int, tokenizer: Any) -> str:
    if isinstance(answer, int):
        answer = _decode((answer,), tokenizer)
    return shortened(repr(answer))


def _decode(ids: tuple[int, ...], tokenizer: Any) -> str:
    if tokenizer is None:
        return str(list(ids))
    return tokenizer.decode(list(ids[-64:]))
