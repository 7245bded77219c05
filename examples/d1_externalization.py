"""The D1 study: which layers decide whether a model reads its notes with a tool, or answers from memory?

A base and an instruct model of one architecture read the same conversation. At each layer in turn the residual stream
of one is put into a run of the other, both ways, and the probability of a tool call is measured:

* instruct to base: where the base begins to call the tool, that layer's stream carries the decision;
* base to instruct: where the instruct model stops calling it, the layers above cannot make the decision alone.

    python examples/d1_externalization.py                               # the embedded demonstration pairs
    python examples/d1_externalization.py --pair smollm2                # a real model, from a wheel of PyPI
    python examples/d1_externalization.py --pair llama8b --layers 25-31
    python examples/d1_externalization.py --base PATH --instruct PATH --positions last
    python examples/d1_externalization.py --plain                       # a base without a chat template

It prints, both ways, at which layer half of the gap between the two models is crossed. It writes
`patching_{pair}_{timestamp}.json` for each pair, `patching_summary.json` over pairs, and figures; where a name is taken
it takes another. `--help` names the pairs, and docs/d1.md says what each number means.
"""

import argparse
import gc
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import mlx.core as mx
import numpy as np
from d1_data import PAIRS as PAIRS  # noqa: PLC0414  # part of what this script offers
from d1_data import Pair, Role
from d1_figures import write_figures
from d1_findings import DONOR, TARGET, finding_of
from d1_models import load
from d1_options import WORDS, parsed
from d1_probe import ANSWER, Probe
from d1_report import layer_line, print_findings, print_heading, result_of, write_pair, write_summary

import mlx_patch as mp
from mlx_patch.files import scratch_folder

__all__ = ["PAIRS", "Probe", "capture", "finding_of", "main", "patch", "study", "write_pair"]  # for use from Python


class Models:
    """The two models of a pair, both in memory or one at a time."""

    def __init__(self, pair: Pair, sequential: bool):
        self.pair, self.sequential = pair, sequential
        self.held: dict[Role, mp.HookedModel] = {}

    def __getitem__(self, role: Role) -> mp.HookedModel:
        if role not in self.held:
            if self.sequential:
                self.held.clear()
                gc.collect()
                mx.clear_cache()
            self.held[role] = load(self.pair, role)
        return self.held[role]


def capture(model: mp.HookedModel, probe: Probe, file: Path | None) -> tuple[dict, mp.ActivationCache]:
    """What a model does by itself, and its stream after every layer, through a file where memory is short."""
    logits, cache = model.run_with_cache(probe.tokens, "resid_post", logits_at=probe.measured, pos=probe.patched)
    if file:
        cache.save(file)
        cache = mp.ActivationCache.load(file)
    return probe(logits), cache


def patch(
    target: mp.HookedModel,
    donor: mp.ActivationCache,
    probe: Probe,
    layers: list[int],
    before: dict,
    alignment: mp.Alignment | None,
) -> tuple[dict, mp.SweepResult]:
    """The measurement for each layer at which the donor's stream is put into the target; a line printed for each.

    All layers run in shared passes, so that no layer has a time of its own: the original's `time_s` is None.
    """
    result = mp.cross_patch(
        target,
        donor,
        probe.tokens,
        over="layer",
        metric=list(probe.metrics.values()),
        alignment=alignment,
        layers=layers,
        positions=probe.patched,
    )
    results = {}
    for layer, numbers in probe.of_layers(result).items():
        effect = round(numbers["tool_call_prob"] - before["tool_call_prob"], 8)
        results[layer] = {**numbers, "effect": effect, "time_s": None}
        print(layer_line(layer, target.n_layers, results[layer]))
    return results, result


@dataclass(frozen=True)
class Direction:
    """One way of patching: whose stream goes where, and which position stands for which.

    Attributes:
        target: The model that is patched.
        donor: The other model's stream.
        probe: The target's prompt, and what is measured after it.
        alignment: Of the donor's prompt with the target's; None where they are one prompt.
    """

    target: mp.HookedModel
    donor: mp.ActivationCache
    probe: Probe
    alignment: mp.Alignment | None

    @property
    def of_prompt(self) -> mp.Alignment:
        """The alignment without the tokens of the answer, which the target is to write itself."""
        probe = self.probe
        if self.alignment is None:
            tokens = tuple(np.array(probe.tokens)[0].tolist())
            return mp.Alignment(tokens, probe.prompt, [(i, i) for i in range(probe.n_tokens)])
        pairs = [pair for pair in self.alignment.pairs if pair[1] < probe.n_tokens]
        return mp.Alignment(self.alignment.source_tokens, probe.prompt, pairs)


def written_rates(way: Direction, layers: list[int], options: argparse.Namespace) -> dict[str, float] | None:
    """For each layer, and unpatched, the rate at which the target writes the call; None where `--say` is not given."""
    if not options.say:
        return None
    metric = mp.metrics.GenerateMatches(ANSWER, max_tokens=options.say, samples=options.samples)
    prompt, alignment = way.probe.prompt, way.of_prompt
    result = mp.cross_patch(
        way.target, way.donor, prompt, metric=metric, alignment=alignment, layers=layers, positions=way.probe.patched
    )
    called = {str(layer): float(rate) for layer, rate in zip(layers, result.values[:, 0], strict=True)}
    rates = ", ".join(f"{layer}: {rate:g}" for layer, rate in called.items() if rate) or "none"
    print(f"  rate of {ANSWER} within {options.say} tokens, by layer, where it is not 0: {rates}")
    return {"unpatched": float(result.baseline[0]), **called}


def study(name: str, pair: Pair, layers: list[int], options: argparse.Namespace) -> dict:
    """Both directions of one pair, printed as they come."""
    print_heading(pair)
    models = Models(pair, options.sequential)
    probes: dict[Role, Probe] = {"instruct": Probe(models["instruct"], options.positions)}
    probes["base"] = Probe(models["base"], options.positions, plain=True) if options.plain else probes["instruct"]
    sizes = " and ".join(str(probe.n_tokens) for probe in dict.fromkeys(probes.values()))
    print(f"Prompt: {sizes} tokens; {counted(layers)}; patched positions: {options.positions}")
    alignments = aligned(probes) if options.plain else dict.fromkeys(DONOR)
    baselines, caches, curves, sweeps, rates = {}, {}, {}, {}, {}
    with scratch(options) as folder:
        for role in ("instruct", "base"):
            file = folder / f"{role}.safetensors" if folder else None
            baselines[role], caches[role] = capture(models[role], probes[role], file)
            top = [token["token"] for token in baselines[role]["top5"]]
            print(f"{role:>8} by itself: {ANSWER}={baselines[role]['tool_call_prob']:.6f}  top 5: {top}")
        for way, donor in DONOR.items():
            target = TARGET[way]
            direction = Direction(models[target], caches[donor], probes[target], alignments[way])
            print(f"\n--- {donor.capitalize()} to {target} ({counted(layers)}) ---")
            curves[way], sweeps[way] = patch(
                direction.target, direction.donor, direction.probe, layers, baselines[target], direction.alignment
            )
            print(f"  {counted(layers)} in {sweeps[way].seconds:.1f} seconds, together")
            rates[way] = written_rates(direction, layers, options)
    record = result_of(
        name,
        pair,
        models["instruct"].n_layers,
        probes["instruct"].n_tokens,
        options.positions,
        baselines,
        curves["instruct_to_base"],
        curves["base_to_instruct"],
        caches,
    )
    for way in DONOR:
        print(f"{way.replace('_', ' ')}: {finding_of(record, way).words}")
    crossed = {n: crossed_of(probes["instruct"], n, *sweeps.values()) for n in ("tool_call_prob", "logprob")}
    return {
        **record,
        "base_prompt": "plain" if options.plain else "chat",
        "base_n_tokens": probes["base"].n_tokens,
        "seconds": {way: round(sweep.seconds, 1) for way, sweep in sweeps.items()},
        "two_by_two": {n: cells.as_dict() for n, cells in crossed.items()},
        "writes_the_call": rates,
    }


def counted(layers: list[int]) -> str:
    """How many layers, in words."""
    return "1 layer" if len(layers) == 1 else f"{len(layers)} layers"


def aligned(probes: dict[Role, Probe]) -> dict[str, mp.Alignment]:
    """For each direction which positions of the two prompts belong together, where the base's is plain text."""
    instruct, base = probes["instruct"], probes["base"]
    into_base = mp.align(instruct.tokens, base.tokens, instruct.tokenizer)
    return {"instruct_to_base": into_base, "base_to_instruct": into_base.inverse}


def crossed_of(probe: Probe, name: str, into_base: mp.SweepResult, into_instruct: mp.SweepResult) -> mp.TwoByTwo:
    """The 2 x 2 of earlier state and later layers, of the call's probability or of its log-probability in nats."""
    if name == "tool_call_prob":
        return mp.TwoByTwo.of(into_base.of_metric(ANSWER), into_instruct.of_metric(ANSWER))
    steps = [
        mp.TwoByTwo.of(into_base.of_metric(step), into_instruct.of_metric(step))
        for step in (f"logprob {i}" for i in range(len(probe.answer)))
    ]
    return mp.TwoByTwo(steps[0].layers, np.sum([step.cells for step in steps], axis=0), "log P(<tool_call>)")


@contextmanager
def scratch(options: argparse.Namespace) -> Iterator[Path | None]:
    """A folder for activations where models are loaded one at a time; None where both stay in memory."""
    if not options.sequential:
        yield None
        return
    with scratch_folder(options.results, ".activations-") as folder:
        yield folder


def checked_layers(pair: Pair, wanted: tuple[int, int] | None) -> list[int]:
    """The layers to patch, once the two models are seen to fit each other. No weights are read for it."""
    base, instruct = load(pair, "base", lazy=True), load(pair, "instruct", lazy=True)
    for size in ("n_layers", "d_model", "d_vocab"):
        ours, theirs = getattr(base, size), getattr(instruct, size)
        if ours != theirs:
            raise mp.PatchError(
                f"base and instruct must have one {size}. Got {ours} and {theirs}. Choose models of one architecture."
            )
    first, last = wanted or (0, base.n_layers - 1)
    if last >= base.n_layers:
        raise mp.PatchError(
            f"--layers must lie in 0-{base.n_layers - 1}. Got {first}-{last}. {pair.display} has no more."
        )
    return list(range(first, last + 1))


def writable(folder: Path) -> None:
    """Make the results folder, or say that it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise mp.PatchError(
            f"--results must be a folder that can be written to. Got {folder}: {error.strerror}. Choose another."
        ) from error


def main(arguments: list[str] | None = None) -> int:
    """Run the study and return the exit status: 0, 2 for bad input, 130 when stopped."""
    options, pairs = parsed(arguments)
    stamp, results, paths = datetime.now(UTC).strftime("%Y%m%dT%H%M"), [], []
    summary = None
    try:
        writable(options.results)
        layers = {name: checked_layers(pair, options.layers) for name, pair in pairs.items()}
        print(WORDS)
        for name, pair in pairs.items():
            results.append(study(name, pair, layers[name], options))
            paths.append(write_pair(results[-1], options.results, stamp))
    except mp.PatchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nStopped. Finished pairs are kept: {[r['pair'] for r in results]}", file=sys.stderr)
        return 130
    finally:
        if len(results) > 1:
            summary = write_summary(results, options.results, stamp)
    print_findings(results)
    write_figures(results, paths, summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
