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

It writes `patching_{pair}_{timestamp}.json` for each pair, `patching_summary.json` over pairs, and figures.
docs/d1.md says what each number means.
"""

import argparse
import gc
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import mlx.core as mx
import numpy as np
from d1_data import PAIRS, Pair
from d1_models import Role, load
from d1_probe import ANSWER, Probe
from d1_report import layer_line, print_peaks, result_of, summary_of, write_figures, write_json

import mlx_patch as mp

GROUPS = {"all": ["llama8b", "qwen7b", "mistral7b"], "tiny": ["tiny_ext", "tiny_int"]}


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
    """The measurement for each layer at which the donor's stream is put into the target; a line printed for each."""
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
    each = round((result.seconds or 0.0) / len(layers), 2)
    results = {}
    for layer, numbers in probe.of_layers(result).items():
        effect = round(numbers["tool_call_prob"] - before["tool_call_prob"], 8)
        results[layer] = {**numbers, "effect": effect, "time_s": each}
        print(layer_line(layer, target.n_layers, results[layer]))
    return results, result


Given = tuple[mp.HookedModel, mp.ActivationCache, Probe, list[int]]
"""The target, the donor's stream, the target's probe, and the layers."""


def say(
    target: mp.HookedModel,
    donor: mp.ActivationCache,
    probe: Probe,
    layers: list[int],
    alignment: mp.Alignment | None,
    options: argparse.Namespace,
) -> dict[str, float]:
    """For each layer the rate at which the patched model writes the call, of 1 greedy text or of several; unpatched."""
    source = alignment.source_tokens if alignment else tuple(np.array(probe.tokens)[0].tolist())
    pairs = alignment.pairs if alignment else [(i, i) for i in range(probe.n_tokens)]
    here = mp.Alignment(source, probe.prompt, [pair for pair in pairs if pair[1] < probe.n_tokens])
    metric = mp.metrics.GenerateMatches(ANSWER, max_tokens=options.say, samples=options.samples)
    result = mp.cross_patch(
        target, donor, probe.prompt, metric=metric, alignment=here, layers=layers, positions=probe.patched
    )
    called = {str(layer): float(rate) for layer, rate in zip(layers, result.values[:, 0], strict=True)}
    rates = ", ".join(f"{n}: {rate:g}" for n, rate in called.items() if rate) or "none"
    print(f"  rate of {ANSWER} within {options.say} tokens, by layer, where it is not 0: {rates}")
    return {"unpatched": float(result.baseline[0]), **called}


def study(name: str, pair: Pair, layers: list[int], options: argparse.Namespace) -> dict:
    """Both directions of one pair, printed as they come."""
    print(f"\n{'=' * 70}\nACTIVATION PATCHING: {pair.display} (D1 group {pair.d1_group})\n{'=' * 70}")
    models = Models(pair, options.sequential)
    probes: dict[Role, Probe] = {"instruct": Probe(models["instruct"], options.positions)}
    probes["base"] = Probe(models["base"], options.positions, plain=True) if options.plain else probes["instruct"]
    tokens, tokenizer = {role: probe.tokens for role, probe in probes.items()}, probes["instruct"].tokenizer
    to_base = mp.align(tokens["instruct"], tokens["base"], tokenizer) if options.plain else None
    sizes = " and ".join(str(probe.n_tokens) for probe in dict.fromkeys(probes.values()))
    print(f"Prompt: {sizes} tokens; {len(layers)} layers; patched positions: {options.positions}")
    baselines, caches, n_layers = {}, {}, models["instruct"].n_layers
    with scratch(options) as folder:
        for role in ("instruct", "base"):
            file = folder / f"{role}.safetensors" if folder else None
            baselines[role], caches[role] = capture(models[role], probes[role], file)
            top = [token["token"] for token in baselines[role]["top5"]]
            print(f"{role:>8} by itself: {ANSWER}={baselines[role]['tool_call_prob']:.6f}  top 5: {top}")
        print(f"\n--- Instruct to base ({len(layers)} layers) ---")
        to_instruct = to_base.inverse if to_base else None
        given = (models["base"], caches["instruct"], probes["base"], layers)
        i2b, into_base = patch(*given, baselines["base"], to_base)
        base_says = said_by(given, to_base, options)
        print(f"\n--- Base to instruct ({len(layers)} layers) ---")
        given = (models["instruct"], caches["base"], probes["instruct"], layers)
        b2i, into_instruct = patch(*given, baselines["instruct"], to_instruct)
        instruct_says = said_by(given, to_instruct, options)
    record = result_of(
        name, pair, n_layers, probes["instruct"].n_tokens, options.positions, baselines, i2b, b2i, caches
    )
    crossed = {n: crossed_of(probes["instruct"], n, into_base, into_instruct) for n in ("tool_call_prob", "logprob")}
    return {
        **record,
        "base_prompt": "plain" if options.plain else "chat",
        "base_n_tokens": probes["base"].n_tokens,
        "two_by_two": {n: one.as_dict() for n, one in crossed.items()},
        "writes_the_call": {"instruct_to_base": base_says, "base_to_instruct": instruct_says},
    }


def said_by(given: Given, alignment: mp.Alignment | None, options: argparse.Namespace) -> dict | None:
    """What `say` finds, where it is asked for."""
    return say(*given, alignment, options) if options.say else None


def crossed_of(probe: Probe, name: str, into_base: mp.SweepResult, into_instruct: mp.SweepResult) -> mp.TwoByTwo:
    """The 2 x 2 of earlier state and later layers, of the call's probability or of its log-probability in nats."""
    if name == "tool_call_prob":
        return mp.TwoByTwo.of(into_base.of_metric(ANSWER), into_instruct.of_metric(ANSWER))
    steps = [
        mp.TwoByTwo.of(into_base.of_metric(step), into_instruct.of_metric(step))
        for step in (f"logprob {i}" for i in range(len(probe.answer)))
    ]
    return mp.TwoByTwo(steps[0].layers, np.sum([one.cells for one in steps], axis=0), "log P(<tool_call>)")


@contextmanager
def scratch(options: argparse.Namespace) -> Iterator[Path | None]:
    """A folder for activations where models are loaded one at a time; None where both stay in memory."""
    if not options.sequential:
        yield None
        return
    with tempfile.TemporaryDirectory(dir=options.results, prefix=".activations-") as folder:
        yield Path(folder)


def checked_layers(pair: Pair, wanted: tuple[int, int] | None) -> list[int]:
    """The layers to patch, once the two models are seen to fit each other. No weights are read for it."""
    base, instruct = load(pair, "base", lazy=True), load(pair, "instruct", lazy=True)
    for what in ("n_layers", "d_model", "d_vocab"):
        ours, theirs = getattr(base, what), getattr(instruct, what)
        if ours != theirs:
            raise mp.PatchError(
                f"base and instruct must have one {what}. Got {ours} and {theirs}. Choose models of one architecture."
            )
    first, last = wanted or (0, base.n_layers - 1)
    if last >= base.n_layers:
        raise mp.PatchError(
            f"--layers must lie in 0-{base.n_layers - 1}. Got {first}-{last}. {pair.display} has no more."
        )
    return list(range(first, last + 1))


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str):
        """Print the message and exit with status 2."""
        self.exit(2, f"error: {message}\n")


def layer_range(text: str) -> tuple[int, int]:
    """First and last layer of '25-31' or '20'."""
    first, dash, last = text.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be a layer or a range. Got {text!r}. Write 20 or 25-31.")
    low, high = int(first), int(last or first)
    if low > high:
        raise argparse.ArgumentTypeError(f"must go up. Got {text!r}. Write {high}-{low}.")
    return low, high


def count(text: str) -> int:
    """A number of tokens or texts; 0 is none."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a number. Got {text!r}. Write 20, or 0 for none.")
    return int(text)


def pair_names(text: str) -> str:
    """A known pair or group."""
    if text not in {*PAIRS, *GROUPS}:
        known = ", ".join([*PAIRS, *GROUPS])
        raise argparse.ArgumentTypeError(f"must be one of {known}. Got {text!r}. For others use --base and --instruct.")
    return text


def parsed(arguments: list[str] | None) -> tuple[argparse.Namespace, dict[str, Pair]]:
    """The options, and the pairs that they name."""
    parser = OneLineParser(description="Activation patching for the D1 externalization boundary.")
    parser.add_argument("--pair", nargs="+", type=pair_names, help="pairs, 'tiny' (default), or 'all' from the hub")
    parser.add_argument("--base", help="a base model of your own: a folder or a hub id")
    parser.add_argument("--instruct", help="the instruct model that goes with --base")
    parser.add_argument("--layers", type=layer_range, help="'25-31' or '20' (default: all)")
    parser.add_argument("--positions", choices=("all", "last"), default="all", help="which positions are patched")
    parser.add_argument(
        "--plain", action="store_true", help="give the base the conversation as plain text, aligned with the chat"
    )
    parser.add_argument("--say", type=count, help="let every patched model write so many tokens")
    parser.add_argument(
        "--samples", type=count, default=0, help="draw so many texts for --say (default: the one greedy text)"
    )
    parser.add_argument("--sequential", action="store_true", help="hold one model in memory at a time")
    parser.add_argument("--results", type=Path, default=Path("results"), help="the folder to write to")
    options = parser.parse_args(arguments)
    if options.samples and not options.say:
        parser.error("--samples must come with --say. Give --say 20, say.")
    if bool(options.base) != bool(options.instruct) or (options.base and options.pair):
        parser.error("--base and --instruct must come together, and without --pair. Give both.")
    if options.base:
        display = f"{Path(options.base).name} and {Path(options.instruct).name}"
        return options, {"custom": Pair(options.base, options.instruct, display, "-")}
    names = [name for given in options.pair or ["tiny"] for name in GROUPS.get(given, [given])]
    return options, {name: PAIRS[name] for name in dict.fromkeys(names)}


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
    stamp, results = datetime.now(UTC).strftime("%Y%m%dT%H%M"), []
    try:
        writable(options.results)
        layers = {name: checked_layers(pair, options.layers) for name, pair in pairs.items()}
        for name, pair in pairs.items():
            results.append(study(name, pair, layers[name], options))
            write_json(results[-1], options.results / f"patching_{name}_{stamp}.json")
    except mp.PatchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nStopped. Finished pairs are kept: {[r['pair'] for r in results]}", file=sys.stderr)
        return 130
    finally:
        if len(results) > 1:
            write_json(summary_of(results), options.results / "patching_summary.json")
    print_peaks(results)
    write_figures(results, options.results, stamp)
    return 0


if __name__ == "__main__":
    sys.exit(main())
