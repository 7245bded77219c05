"""A valid call of everything public, and what is left out with the reason."""

from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

import mlx_patch as mp
from hostile.world import HELD_OUT, A, B, World
from mlx_patch import plot, sweeps, testing

NOT_FOR_USERS = {
    "*.__call__": "an intervention is called by a run, with the part of an activation that it changes",
    "*.check": "called by a sweep, with the sites of its cells",
    "*.find": "called by `resolve`, with the prompt",
    "*.holds": "called by a generation, with the moment",
    "*.measure": "called by the readout, with the logits of a run",
    "*.measure_row": "called by the readout, with the logits of a position",
    "*.measure_rows": "called by the readout, with the logits of positions",
    "*.combine": "called by the readout, with log-probabilities",
    "*.resolve": "called by a run, with its tokenizer",
    "metrics.GenerateMatches.*": "called by the readout, with a text",
    "*.reads": "called by the plan, with the length of a prompt",
    "*.positions": "called by the readout, with the length of a prompt",
    "*.absolute": "called by the readout, with the length of a prompt",
    "*.of_rows": "called by the readout",
    "*.on_tokens": "called by a sweep, with the tokens",
    "*.for_rows": "called by the readout, with the rows of a pass",
    "*.with_seed": "called by the axis `seed`, which has checked it",
    "*.with_strength": "called by the axis `alpha`, which has checked it",
    "*.with_features": "called by the axis `feature`",
    "metrics.Metric": "a class to derive from",
    "metrics.RowMetric": "a class to derive from",
    "metrics.MultiPositionMetric": "a class to derive from",
    "metrics.SequenceMetric": "a class to derive from",
    "metrics.Tokenizer*": "a protocol",
    "metrics.as_answers": "for authors of metrics, as is all beside the metrics",
    "metrics.for_examples": "for authors of metrics",
    "metrics.log_softmax_at": "for authors of metrics",
    "metrics.single_tokens": "for authors of metrics",
    "metrics.token_ids": "for authors of metrics",
    "metrics.refuse_same_names": "called by a sweep",
    "metrics.TopToken": "a record that TopK returns",
    "Edit": "made by `Intervention.at`",
    "Edit.apply": "called by a run",
    "Edit.change": "called by a run",
    "Edit.picks": "called by a run",
    "Compatibility*": "a record that `compatibility` returns",
    "PairReport": "a record that `check` returns",
    "Path.with_edit": "called by a sweep",
    "circuits.BlockParts": "a record that a graph holds",
    "circuits.FaithfulnessCurve": "a record that `faithfulness` returns",
    "circuits.HeadEffects": "a record that `head_effects` returns",
    "circuits.Minimality": "a record that `minimality` returns",
    "circuits.Reader": "a record that a graph holds",
    "circuits.Writer": "a record that a graph holds",
    "circuits.Pruning": "a record that `prune` returns",
    "circuits.Graph": "made of a model by `edges`",
    "circuits.Graph.edge_name": "for authors of methods",
    "circuits.Graph.first_reader": "for authors of methods",
    "circuits.Graph.kv_head_of": "for authors of methods",
    "dictionaries.Dictionary": "made by `load`",
    "dictionaries.Dictionary.flat": "called by `encode`",
    "dictionaries.Dictionary.encode_flat": "called by `encode`",
    "dictionaries.Dictionary.encode_with": "called by `encode`",
    "dictionaries.Dictionary.decoder_rows": "called by `directions`",
    "dictionaries.Dictionary.scale_of": "called by `encode`",
    "dictionaries.TopFeatures": "a record that `top` returns",
    "lens.AttentionSummary": "a record that `attention_summary` returns",
    "lens.DirectLogits": "a record that `direct_logits` returns",
    "lens.ExpertParts": "a record that `expert_parts` returns",
    "lens.FitRecord": "a record that a fit returns",
    "lens.FittedLens*": "a class to derive from",
    "lens.*.translated": "called by `logit_lens`",
    "lens.HeadParts": "a record that `head_parts` returns",
    "lens.JacobianLens": "made by `fit_jacobian_lens` and `load`",
    "lens.TunedLens": "made by `fit_tuned_lens` and `load`",
    "lens.LogitLens": "made by `logit_lens`",
    "lens.TopTokens": "a record that `top` returns",
    "paths.ResolvedPaths": "made by `resolve_paths`",
    "paths.resolve_paths": "called by a sweep",
    "paths.has_paths": "called by a sweep",
    "plot.Network*": "made by `EdgeScores.plot` and `HeadEffects.plot`, which are called here",
    "plot.network*": "drawn by `EdgeScores.plot`, which is called here",
    "plot.html_*": "pieces of pages, which `to_html` puts together",
    "plot.PageAxis*": "a piece of pages, which `to_html` puts together",
    "plot.cells_*": "pieces of pages, which `to_html` puts together",
    "plot.points_data": "a piece of pages, which `to_html` puts together",
    "plot.frame_height": "called by `_repr_html_`",
    "plot.plain_numbers": "called by `to_html`",
    "plot.limit_of": "called by `heatmap`",
    "plot.size_of_heatmap": "called by `heatmap`",
    "plot.axes_of": "called by every figure",
    "plot.new_axes": "called by every figure",
    "plot.visible": "called by every figure",
    "pos.Matching": "made by `pos.where`",
    "pos.OfRole": "made by `pos.role`",
    "pos.OfTurn": "made by `pos.turn`",
    "pos.Text": "made by `pos.text`",
    "pos.Token": "made by `pos.token`",
    "pos.Pieces*": "made by `resolve`",
    "pos.Shown": "a record that `pos.show` returns",
    "pos.shown": "the repr of a value in a message",
    "pos.checked_*": "called by `pos.text` and `pos.token`",
    "pos.prompt_ids": "called by `pos.show`",
    "recipes.ContrastDirection": "a record that `contrast_direction` returns",
    "recipes.FunctionVector": "a record that `function_vector` returns",
    "recipes.*Axis": "made by the recipes; a sweep checks its choices",
    "recipes.*.where": "called by a sweep",
    "recipes.*.changed": "called by a sweep",
    "steps.Both": "made by `&`",
    "steps.When": "made by `steps.when`",
    "steps.EveryNth": "made by `steps.every`",
    "steps.Moment*": "made by a generation",
    "sweeps.Peak": "a record that `peak` returns",
    "sweeps.PairRow": "a record that `summary` returns",
    "sweeps.PairSummary": "a record that `summary` returns",
    "sweeps.Plan*": "a record that `plan` returns",
    "sweeps.StoredPlan": "a record that `load` returns",
    "sweeps.SweepAxis*": "a class to derive from",
    "sweeps.Variation": "made by the verbs",
    "sweeps.batches_of": "called by the verbs",
    "sweeps.choices_of": "called by the verbs",
    "sweeps.make_experiment": "called by the verbs",
    "sweeps.pieces_of": "for tests",
    "sweeps.exact_sweeps": "a law, which `verify` calls",
    "sweeps.independent_in_sweeps": "a law, which `verify` calls",
    "testing.Draw": "a record that `draw` returns",
    "testing.FuzzReport": "a record that `fuzz_sweeps` returns",
    "testing.Report": "a record that `check_laws` returns",
    "testing.Zoo*": "a record that `check_zoo` returns",
    "testing.check_zoo": "starts processes",
    "testing.smollm2_folder": "fetches a file",
    "testing.drawn_model": "its names are those of `tiny_model`",
}


@dataclass
class Call:
    """A call with valid arguments.

    Attributes:
        function: What is called.
        args: Arguments by position.
        kwargs: Arguments by keyword.
    """

    function: Callable
    args: list[Any]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __call__(self) -> Any:
        return self.function(*self.args, **self.kwargs)


def call(function: Callable, *args: Any, **kwargs: Any) -> Call:
    return Call(function, list(args), kwargs)


def reason_left_out(name: str) -> str | None:
    """Why a public callable has no example; None where it must have one."""
    if name in EXAMPLES:
        return None
    for pattern, reason in NOT_FOR_USERS.items():
        if fnmatchcase(name, pattern):
            return reason
    return None


EXAMPLES: dict[str, Callable[[World], Call]] = {
    # edits
    "Ablate": lambda w: call(mp.Ablate, "noise", seed=1, scale=2.0, over="batch_pos", skip=0),
    "Add": lambda w: call(mp.Add, w.vector, scale=2.0),
    "Apply": lambda w: call(mp.Apply, lambda x, site: 2 * x, name="twice"),
    "Clamp": lambda w: call(mp.Clamp, -1.0, 1.0),
    "Edit.during": lambda w: call(w.edit.during, mp.steps.generated),
    "Edit.via": lambda w: call(mp.Replace(w.cache).at("z", layer=0, head=1).via, "q", layer=1, head=0),
    "Features": lambda w: call(mp.Features, w.dictionary, mp.Scale(0.0), features=[1, 3]),
    "Features.aligned": lambda w: call(mp.Features(w.dictionary, w.replace).aligned, w.alignment),
    "Interpolate": lambda w: call(mp.Interpolate, w.cache, 0.5, positions=w.alignment),
    "Interpolate.aligned": lambda w: call(mp.Interpolate(w.cache, 0.5).aligned, w.alignment),
    "Intervention.aligned": lambda w: call((w.replace | mp.Scale(2.0)).aligned, w.alignment),
    "Intervention.at": lambda w: call(mp.Scale(2.0).at, "z", layer=1, pos=2, head=1, batch=0),
    "Intervention.__or__": lambda w: call(mp.Scale(2.0).__or__, mp.Add(1.0)),
    "Path": lambda w: call(mp.Path, w.replace.at("z", layer=0, head=1), (mp.Receiver("q", 1, 0),)),
    "Path.via": lambda w: call(
        w.replace.at("z", layer=0, head=1).via("q", layer=1, head=0).via, "v", layer=2, head=1
    ),
    "Project": lambda w: call(mp.Project, w.vector, onto=True),
    "Receiver": lambda w: call(mp.Receiver, "q", layer=1, head=0),
    "Replace": lambda w: call(mp.Replace, w.cache, positions=w.alignment),
    "Replace.aligned": lambda w: call(mp.Replace(w.cache).aligned, w.alignment),
    "Scale": lambda w: call(mp.Scale, 2.0),
    "Site": lambda w: call(mp.Site, "resid_post", 1),
    "Site.parse": lambda w: call(mp.Site.parse, "blocks.1.hook_resid_post"),
    "Swap": lambda w: call(mp.Swap, mx.eye(w.model.d_model)[0], mx.eye(w.model.d_model)[1]),
    "orthonormal": lambda w: call(mp.orthonormal, mx.eye(w.model.d_model)[:2]),
    "steps.every": lambda w: call(mp.steps.every, 2),
    "steps.when": lambda w: call(mp.steps.when, lambda moment: moment.step > 1),
    "steps.Steps.__and__": lambda w: call(mp.steps.generated.__and__, mp.steps.every(2)),
    # positions
    "align": lambda w: call(mp.align, A, B, w.tokenizer, corrupted_tokenizer=w.tokenizer, changed="ends"),
    "Alignment": lambda w: call(mp.Alignment, A, B, [(0, 0), (2, 2)]),
    "Alignment.source_of": lambda w: call(w.alignment.source_of, 2),
    "pos.role": lambda w: call(mp.pos.role, "user"),
    "pos.turn": lambda w: call(mp.pos.turn, -1),
    "pos.show": lambda w: call(mp.pos.show, [1, 2], A, w.tokenizer),
    "pos.text": lambda w: call(mp.pos.text, "w48", nth=0),
    "pos.token": lambda w: call(mp.pos.token, 48, nth=0),
    "pos.where": lambda w: call(mp.pos.where, lambda position, token, text: position == 1),
    "pos.Selector.resolve": lambda w: call(mp.pos.token(48).resolve, A, w.tokenizer),
    "pos.Selector.__or__": lambda w: call(mp.pos.last.__or__, mp.pos.token(48)),
    "pos.Selector.__add__": lambda w: call(mp.pos.token(48).__add__, 1),
    "pos.Selector.__sub__": lambda w: call(mp.pos.last.__sub__, 1),
    # caches and stores
    "ActivationCache": lambda w: call(
        mp.ActivationCache, {mp.Site("resid_post", 1): w.cache["resid_post", 1]}, mx.array([B]), range(6), 6
    ),
    "ActivationCache.__getitem__": lambda w: call(w.cache.__getitem__, ("resid_post", 1)),
    "ActivationCache.__contains__": lambda w: call(w.cache.__contains__, ("resid_post", 1)),
    "ActivationCache.aligned": lambda w: call(w.cache.aligned, w.alignment),
    "ActivationCache.layers": lambda w: call(w.cache.layers, "resid_post"),
    "ActivationCache.stack": lambda w: call(w.cache.stack, "resid_post", layers=[0, 1]),
    "ActivationCache.save": lambda w: call(w.cache.save, w.new("a.safetensors")),
    "ActivationCache.load": lambda w: call(mp.ActivationCache.load, w.saved(w.cache, "cache.safetensors")),
    "ActivationStore": lambda w: call(mp.ActivationStore, w.store_folder),
    "ActivationStore.capture": lambda w: call(
        mp.ActivationStore.capture,
        w.model, [A, B, [1, 2, 3]], w.store_folder, sites=("resid_post",), batch_size=8, shard_mb=256.0,
    ),
    "ActivationStore.__getitem__": lambda w: call(w.store.__getitem__, 1),
    "ActivationStore.array": lambda w: call(w.store.array, ("resid_post", 1)),
    "ActivationStore.numpy": lambda w: call(w.store.numpy, ("resid_post", 1)),
    "ActivationStore.batches": lambda w: call(drained(w.store.batches), ("resid_post", 1), 2, seed=3),
    "ActivationStore.mean": lambda w: call(w.store.mean, "batch_pos", sites=[("resid_post", 1)], skip=1),
    # models
    "HookedModel": lambda w: call(mp.HookedModel, w.model.model, w.tokenizer, name="tiny"),
    "HookedModel.load": lambda w: call(mp.HookedModel.load, MODELS / "tiny_base"),
    "HookedModel.with_adapter": lambda w: call(w.model.with_adapter, w.folder / "no_adapter"),
    "HookedModel.tokenize": lambda w: call(w.model.tokenize, "w07 w08", allow_special=False),
    "HookedModel.str_tokens": lambda w: call(w.model.str_tokens, A),
    "HookedModel.final_norm": lambda w: call(w.model.final_norm, w.vector),
    "HookedModel.unembed": lambda w: call(w.model.unembed, w.vector),
    "HookedModel.directions": lambda w: call(w.model.directions, ["w07", 8]),
    "HookedModel.__call__": lambda w: call(w.model.__call__, mx.array([A])),
    "HookedModel.run": lambda w: call(w.model.run, [A], edits=[w.edit], logits_at=-1),
    "HookedModel.run_with_cache": lambda w: call(
        w.model.run_with_cache, [A], sites="resid_post", edits=[w.edit], logits_at=-1, pos=[1, 2]
    ),
    "HookedModel.run_each": lambda w: call(
        w.model.run_each, [A, "w05 w06 w07"], edits=[w.edit], logits_at=-1, batch_size=2
    ),
    "HookedModel.run_each_with_cache": lambda w: call(
        w.model.run_each_with_cache,
        [A, B], sites=["resid_post"], edits=[w.edit], logits_at=-1, pos=[1], batch_size=2,
    ),
    "HookedModel.run_with_hooks": lambda w: call(
        w.model.run_with_hooks, [A], [("blocks.1.hook_resid_post", lambda x, hook: x)], logits_at=-1
    ),
    "HookedModel.editing": lambda w: call(entered(w), w.edit),
    "HookedModel.generate": lambda w: call(w.model.generate, A, edits=[w.edit], max_tokens=2),
    "HookedModel.stream": lambda w: call(drained(w.model.stream), A, edits=[w.edit], max_tokens=2),
    "HookedModel.generate_with_cache": lambda w: call(
        w.model.generate_with_cache, A, sites="resid_post", edits=[w.edit], max_tokens=2, pos="prompt"
    ),
    "HookedModel.verify": lambda w: call(w.model.verify, A),
    # pairs
    "PromptPair": lambda w: call(mp.PromptPair, "w07 w08", "w07 w09", "w40", "w41"),
    "PromptPair.tokens": lambda w: call(w.pair.tokens, w.model),
    "PromptPair.resolved": lambda w: call(w.pair.resolved, w.model),
    "PromptPairs": lambda w: call(mp.PromptPairs, [w.pair], name="words"),
    "PromptPairs.tokens": lambda w: call(w.pairs.tokens, w.model),
    "PromptPairs.by_length": lambda w: call(w.pairs.by_length, w.model),
    "PromptPairs.check": lambda w: call(w.pairs.check, w.model, strict=False, unequal=False),
    "PromptPairs.passing": lambda w: call(w.pairs.passing, w.report),
    "PromptPairs.__getitem__": lambda w: call(w.pairs.__getitem__, 1),
    **{
        f"tasks.{name}": lambda w, name=name: call(getattr(mp.tasks, name), 2, seed=1)
        for name in ("capital", "docstring", "gendered_pronoun", "greater_than", "ioi")
    },
    # metrics
    "metric": lambda w: call(mp.metric, "hostile_metric"),
    "metrics.Entropy": lambda w: call(mp.metrics.Entropy, name="e", pos=-1),
    "metrics.GenerateMatches": lambda w: call(
        mp.metrics.GenerateMatches, "w0", max_tokens=2, samples=1, temperature=1.0, seed=2, name="m"
    ),
    "metrics.KL": lambda w: call(mp.metrics.KL, w.model.run([A]), name="kl", pos=-1),
    "metrics.LogProb": lambda w: call(mp.metrics.LogProb, [7, "w08"], name="l", pos=-1),
    "metrics.LogitDiff": lambda w: call(mp.metrics.LogitDiff, 7, "w30", name="d", pos=-1),
    "metrics.Prob": lambda w: call(mp.metrics.Prob, 7, name="p", pos=-1),
    "metrics.ProbDiff": lambda w: call(mp.metrics.ProbDiff, [7, 8], [30], name="q", pos=-1),
    "metrics.Rank": lambda w: call(mp.metrics.Rank, 7, name="r", pos=-1),
    "metrics.SequenceLogProb": lambda w: call(mp.metrics.SequenceLogProb, [7, 8], name="s"),
    "metrics.SequenceLogitDiff": lambda w: call(mp.metrics.SequenceLogitDiff, [7, 8], "w30 w31", name="t"),
    "metrics.StartsWith": lambda w: call(mp.metrics.StartsWith, ["w07 w08"], variants=False, name="u"),
    "metrics.TokenSetProb": lambda w: call(mp.metrics.TokenSetProb, ["w07", "w08"], reduce="max", name="v", pos=-1),
    "metrics.TopK": lambda w: call(mp.metrics.TopK, 3, pos=-1),
    "metrics.TopK.__call__": lambda w: call(mp.metrics.TopK(3).__call__, w.model.run([A]), w.tokenizer),
    "metrics.as_metric": lambda w: call(mp.metrics.as_metric, w.metric),
    "metrics.metrics_of": lambda w: call(mp.metrics.metrics_of, [w.metric], w.tokenizer),
    "metrics.named": lambda w: call(mp.metrics.named, "no_such"),
    # sweeps
    "attribute": lambda w: call(
        mp.attribute, w.model, [A], w.replace, at="resid_post", over=("layer", "pos"), metric=w.metric,
        layers=[0, 1], positions=[1, 2], method="gradient", confirm=1, sample=1, seed=2,
    ),
    "measure": lambda w: call(mp.measure, w.model, [A], w.metric, edits=[w.edit]),
    "plan": lambda w: call(
        mp.plan, w.model, [A], w.replace, at="z", over=("layer", "head"), metric=w.metric, layers=[0, 1], heads=[0, 1]
    ),
    "sweep": lambda w: call(
        mp.sweep, w.model, [A], w.replace, at="z", over=("layer", "pos", "head"), metric=w.metric,
        layers=[0, 1], positions=[2], heads=[0, 1], edits=[w.edit], executor="auto", memory=2**30,
    ),
    "sweep_pair": lambda w: call(
        mp.sweep_pair, w.model, [A], [B], "resid_post", metric=w.metric, positions=[2], layers=[0, 1], over=("layer",)
    ),
    "cross_patch": lambda w: call(
        mp.cross_patch, w.model, w.model, [A], at="resid_post", metric=w.metric, layers=[0], positions=[1, 2],
        layer_map=mp.LayerMap([(0, 0)]), alpha=0.5,
    ),
    "two_by_two": lambda w: call(mp.two_by_two, w.model, w.model, [A], w.metric, layers=[0, 1]),
    "compatibility": lambda w: call(mp.compatibility, w.model, w.model),
    "sweeps.onwards": lambda w: call(sweeps.onwards, [0, 1, 2]),
    "sweeps.up_to": lambda w: call(sweeps.up_to, [0, 1, 2]),
    "sweeps.windows": lambda w: call(sweeps.windows, [0, 1, 2], 2),
    "sweeps.check_sweeps": lambda w: call(sweeps.check_sweeps, w.model, A),
    # results
    **{
        f"{title}.{method}": lambda w, key=key, method=method, args=args: call(getattr(getattr(w, key), method), *args)
        for title, key in (("Estimate", "estimate"), ("SweepResult", "result"))
        for method, args in {
            "averaged": ("layer",),
            "of_metric": (None,),
            "peak": (),
            "peaks": (2,),
            "plot": (),
            "interval": (0.9, 50, 1),
        }.items()
        if (title, method) != ("SweepResult", "peak")
    },
    "SweepResult.of_metric": lambda w: call(w.result.of_metric, w.result.coords["metric"][0]),
    "SweepResult.peak": lambda w: call(w.result.peak, w.result.coords["metric"][0]),
    "SweepResult.peaks": lambda w: call(w.result.peaks, 2, w.result.coords["metric"][0]),
    "SweepResult.plot": lambda w: call(w.result.plot, metric=w.result.coords["metric"][0]),
    "SweepResult.save": lambda w: call(w.result.save, w.new("r.npz")),
    "SweepResult.load": lambda w: call(mp.SweepResult.load, w.saved(w.result, "result.npz")),
    "SweepResult.to_json": lambda w: call(w.result.to_json, w.new("r.json")),
    "SweepResult.to_html": lambda w: call(w.result.to_html, w.new("r.html")),
    "SweepResult.normalised": lambda w: call(w.result.normalised, clean=np.array(2.0), corrupted=np.array(1.0)),
    "SweepResult": lambda w: call(
        mp.SweepResult, *blank_result()
    ),
    "Estimate": lambda w: call(
        mp.Estimate, *blank_result(),
        
    ),
    "Estimate.plot_agreement": lambda w: call(w.estimate.plot_agreement),
    "Estimate.save": lambda w: call(w.estimate.save, w.new("e.npz")),
    "Estimate.load": lambda w: call(mp.Estimate.load, w.saved(w.estimate, "estimate.npz")),
    "Estimate.to_json": lambda w: call(w.estimate.to_json, w.new("e.json")),
    "Estimate.to_html": lambda w: call(w.estimate.to_html, w.new("e.html")),
    "Estimate.normalised": lambda w: call(w.estimate.normalised, clean=np.array(2.0), corrupted=np.array(1.0)),
    "TwoByTwo": lambda w: call(mp.TwoByTwo, (0, 1), np.zeros((2, 2, 2, 1), np.float32), "m"),
    "TwoByTwo.plot": lambda w: call(two_by_two(w).plot),
    "TwoByTwo.save": lambda w: call(two_by_two(w).save, w.new("b.npz")),
    "TwoByTwo.load": lambda w: call(mp.TwoByTwo.load, w.saved(two_by_two(w), "two.npz")),
    "TwoByTwo.to_html": lambda w: call(two_by_two(w).to_html, w.new("b.html")),
    "TwoByTwo.of": lambda w: call(mp.TwoByTwo.of, *w.into_both),
    "sweeps.PairResult": lambda w: call(sweeps.PairResult, w.pair_result.denoising, w.pair_result.noising),
    "sweeps.PairResult.sufficient": lambda w: call(w.pair_result.sufficient, 0.5),
    "sweeps.PairResult.necessary": lambda w: call(w.pair_result.necessary, 0.5),
    "sweeps.PairResult.of_metric": lambda w: call(w.pair_result.of_metric, None),
    "sweeps.PairResult.summary": lambda w: call(w.pair_result.summary, 0.5),
    "sweeps.PairResult.save": lambda w: call(w.pair_result.save, w.new("p.npz")),
    "sweeps.PairResult.load": lambda w: call(sweeps.PairResult.load, w.saved(w.pair_result, "pair.npz")),
    "sweeps.PairResult.plot": lambda w: call(w.pair_result.plot),
    "sweeps.PairResult.to_html": lambda w: call(w.pair_result.to_html, w.new("p.html")),
    "sweeps.PairSummary.of": lambda w: call(w.pair_result.summary().of, "sufficient only"),
    # across models
    "LayerMap": lambda w: call(mp.LayerMap, [(0, 1), (1, 2)]),
    "LayerMap.proportional": lambda w: call(mp.LayerMap.proportional, 4, 8),
    "LayerMap.donor_of": lambda w: call(mp.LayerMap([(0, 1)]).donor_of, 0),
    "LayerMap.require": lambda w: call(mp.LayerMap([(0, 1)]).require, 2, 2),
    "LinearMap": lambda w: call(mp.LinearMap, np.eye(4), np.zeros(4), 0.5, 10),
    "LinearMap.fit": lambda w: call(
        mp.LinearMap.fit, np.arange(80.0).reshape(40, 2) % 7, np.arange(40.0)[:, None] % 5, held_out=0.2, seed=1
    ),
    "LinearMap.__call__": lambda w: call(w.linear_map.__call__, mx.ones((2, 4))),
    "cross.capture": lambda w: call(
        mp.cross.capture, w.model, [A], w.new("c.safetensors"), sites=("resid_post",), pos=[1]
    ),
    "cross.fit_maps": lambda w: call(
        mp.cross.fit_maps, w.model, w.model, [list(range(i, 60 + i // 2)) for i in range(0, 30, 2)],
        layer_map=mp.LayerMap([(0, 0)]), skip=1, held_out=0.2, seed=1,
    ),
    # circuits
    "circuits.Circuit": lambda w: call(mp.circuits.Circuit, w.edges.graph, w.circuit.has_edge),
    "circuits.Circuit.of_edges": lambda w: call(mp.circuits.Circuit.of_edges, w.edges.graph, list(w.circuit.edges)[:2]),
    "circuits.Circuit.of_nodes": lambda w: call(mp.circuits.Circuit.of_nodes, w.edges.graph, ["a0.h1", "m0"]),
    "circuits.EdgeScores": lambda w: call(
        mp.circuits.EdgeScores, w.edges.graph, w.edges.values, w.edges.baseline, w.edges.provenance
    ),
    "circuits.EdgeScores.top": lambda w: call(w.edges.top, 5, absolute=True, connected=False),
    "circuits.EdgeScores.top_nodes": lambda w: call(w.edges.top_nodes, 5, absolute=True),
    "circuits.EdgeScores.to_json": lambda w: call(w.edges.to_json, w.new("g.json"), circuit=w.circuit),
    "circuits.EdgeScores.from_json": lambda w: call(mp.circuits.EdgeScores.from_json, edges_file(w)),
    "circuits.EdgeScores.plot": lambda w: call(w.edges.plot, w.circuit),
    "circuits.EdgeScores.to_html": lambda w: call(w.edges.to_html, w.new("g.html"), circuit=w.circuit),
    "circuits.FaithfulnessCurve.interval": lambda w: call(w.curve.interval, "signed", 0.9, 50, 1),
    "circuits.HeadEffects.strongest": lambda w: call(w.head_effects.strongest, 2, by="direct"),
    "circuits.FaithfulnessCurve.to_html": lambda w: call(w.curve.to_html, w.new("f.html")),
    "circuits.HeadEffects.to_html": lambda w: call(w.head_effects.to_html, w.new("h.html")),
    "circuits.HeadEffects.plot": lambda w: call(w.head_effects.plot),
    "circuits.edges": lambda w: call(mp.circuits.edges, w.model, [A], w.cache, w.metric, method="gradient"),
    "circuits.faithfulness": lambda w: call(
        mp.circuits.faithfulness, w.model, [A], w.cache, w.metric, w.edges, sizes=[3], by="edge", connected=False
    ),
    "circuits.head_effects": lambda w: call(
        mp.circuits.head_effects, w.model, [A], w.cache, 7, 30, layers=[1], freeze="all"
    ),
    "circuits.minimality": lambda w: call(mp.circuits.minimality, w.model, [A], w.cache, w.metric, w.edges.top(2)),
    "circuits.prune": lambda w: call(mp.circuits.prune, w.model, [A], w.cache, w.metric, w.edges.top(3), 0.1),
    "circuits.run": lambda w: call(mp.circuits.run, w.model, [A], w.cache, w.circuit),
    "circuits.writer_sites": lambda w: call(mp.circuits.writer_sites, w.model),
    "paths.edits_of": lambda w: call(
        mp.paths.edits_of, w.model, [A], w.replace.at("z", layer=0, head=1).via("q", layer=1, head=0), freeze="all"
    ),
    "paths.checked_freeze": lambda w: call(mp.paths.checked_freeze, "all"),
    # dictionaries
    "dictionaries.load": lambda w: call(mp.dictionaries.load, w.dictionary_folder),
    "dictionaries.Dictionary.encode": lambda w: call(w.dictionary.encode, w.vector, features=[1, 2]),
    "dictionaries.Dictionary.decode": lambda w: call(w.dictionary.decode, mx.ones(12)),
    "dictionaries.Dictionary.directions": lambda w: call(w.dictionary.directions, [1, 2]),
    "dictionaries.Dictionary.top": lambda w: call(
        w.dictionary.top, w.cache, k=2, pos=[1, 2], site=mp.Site("resid_post", 1)
    ),
    # lenses
    "lens.AttentionSummary.strongest": lambda w: call(w.summary.strongest, "entropy", 2),
    "lens.DirectLogits.strongest": lambda w: call(w.parts.strongest, 2),
    "lens.DirectLogits.to_html": lambda w: call(w.parts.to_html, w.new("d.html")),
    "lens.FitRecord.plot": lambda w: call(w.tuned.fit.plot),
    "lens.JacobianLens.directions": lambda w: call(w.jacobian.directions, [7, "w08"], mp.Site("resid_post", 1)),
    "lens.JacobianLens.save": lambda w: call(w.jacobian.save, w.new("j.safetensors")),
    "lens.JacobianLens.load": lambda w: call(mp.lens.JacobianLens.load, w.saved(w.jacobian, "j.safetensors"), w.model),
    "lens.TunedLens.save": lambda w: call(w.tuned.save, w.new("t.safetensors")),
    "lens.TunedLens.load": lambda w: call(mp.lens.TunedLens.load, w.saved(w.tuned, "t.safetensors"), w.model),
    "lens.LogitLens.logits": lambda w: call(w.lens.logits, ("resid_post", 1)),
    "lens.LogitLens.top": lambda w: call(w.lens.top, 3),
    "lens.LogitLens.prob": lambda w: call(w.lens.prob, "w07"),
    "lens.LogitLens.rank": lambda w: call(w.lens.rank, "w07"),
    "lens.LogitLens.kl": lambda w: call(w.lens.kl),
    "lens.LogitLens.plot": lambda w: call(w.lens.plot, example=0, token="w07"),
    "lens.LogitLens.plot_kl": lambda w: call(w.lens.plot_kl, example=0),
    "lens.LogitLens.to_html": lambda w: call(w.lens.to_html, w.new("l.html"), example=0, k=2),
    "lens.attention_summary": lambda w: call(mp.lens.attention_summary, w.cache),
    "lens.direct_logits": lambda w: call(
        mp.lens.direct_logits, w.model, [A], 7, 30, by="head", pos=-1, edits=[w.edit]
    ),
    "lens.expert_parts": lambda w: call(mp.lens.expert_parts, w.experts, [A], 1),
    "lens.fit_jacobian_lens": lambda w: call(
        mp.lens.fit_jacobian_lens, w.model, [A, B, [5, 6, 7], [9, 8, 7]],
        rows=8, share=0.5, skip=0, held_out=0.5, seed=1,
    ),
    "lens.fit_tuned_lens": lambda w: call(
        mp.lens.fit_tuned_lens, w.model, [A, B, [5, 6, 7], [9, 8, 7]],
        steps=1, positions=8, batch_size=2, learning_rate=0.1, skip=0, held_out=0.5, seed=1,
    ),
    "lens.head_parts": lambda w: call(mp.lens.head_parts, w.model, w.cache, 1),
    "lens.logit_lens": lambda w: call(mp.lens.logit_lens, w.model, [A], sites="resid_post", pos=[1, 2], edits=[w.edit]),
    "lens.pattern_page": lambda w: call(mp.lens.pattern_page, w.cache, 1, w.new("pattern.html"), example=0),
    "lens.plot_pattern": lambda w: call(mp.lens.plot_pattern, w.cache, 1, 0, example=0, tokens=list("abcdef")),
    # figures
    "plot.heatmap": lambda w: call(plot.heatmap, np.zeros((2, 3)), [0, 1], [0, 1, 2], title="t"),
    "plot.layer_curve": lambda w: call(plot.layer_curve, np.zeros(3), [0, 1, 2], title="t"),
    "plot.pattern_map": lambda w: call(plot.pattern_map, np.eye(3), range(3), range(3)),
    "plot.scatter": lambda w: call(plot.scatter, {"a": (np.zeros(3), np.ones(3))}),
    "plot.token_grid": lambda w: call(plot.token_grid, [["a", "b"]], np.zeros((1, 2)), [0], [0, 1]),
    # recipes
    "recipes.ContrastDirection.addition": lambda w: call(w.contrast.addition, 1.5),
    "recipes.ContrastDirection.ablation": lambda w: call(w.contrast.ablation, w.model),
    "recipes.ablation_of": lambda w: call(mp.recipes.ablation_of, w.model, w.vector),
    "recipes.causal_trace": lambda w: call(
        mp.recipes.causal_trace, w.model, [A], [1, 2], w.metric, at="resid_post", width=1, scale=3.0, seeds=[0],
        positions=[2],
    ),
    "recipes.contrast_direction": lambda w: call(
        mp.recipes.contrast_direction, w.model, [A, B], [[1, 5], [2, 6, 9]], w.raised, HELD_OUT,
        pos=-1, layers=[1],
    ),
    "recipes.function_vector": lambda w: call(
        mp.recipes.function_vector, w.model, [A, B], [A], w.metric, n_heads=2, layers=[1]
    ),
    "recipes.head_outputs": lambda w: call(mp.recipes.head_outputs, w.model, w.mean_z, [(0, 1), (1, 0)]),
    "recipes.interchange": lambda w: call(
        mp.recipes.interchange, w.model, [A], [B], {"x": mp.orthonormal(w.vector)}, w.metric, "resid_post", 1, pos=-1
    ),
    "recipes.knockout": lambda w: call(
        mp.recipes.knockout, w.model, [A], {"subject": [1, 2]}, w.metric, query=-1, width=2
    ),
    "recipes.mean_activations": lambda w: call(mp.recipes.mean_activations, w.model, [A, B], at="resid_post", pos=-1),
    "recipes.patchscope": lambda w: call(
        mp.recipes.patchscope, w.model, [A], w.metric, pos=-2, target=[4, 41, 78], target_pos=-1, source_layers=[0],
        layers=[1],
    ),
    "recipes.read_parts": lambda w: call(mp.recipes.read_parts, w.model, "z", 1, mx.ones((2, 128))),
    "recipes.task_vector": lambda w: call(mp.recipes.task_vector, w.model, [A, B], [A], w.metric, layers=[1]),
    "written_whole": lambda w: call(whole_file, w.new("whole.txt")),
    "testing.check_laws": lambda w: call(testing.check_laws, w.model, A, laws=testing.LAWS and (testing.ALL[0],)),
    "testing.fuzz_sweeps": lambda w: call(testing.fuzz_sweeps, 1, cases=1, models=["llama"], stop_after=1),
    "testing.tiny_model": lambda w: call(testing.tiny_model, "llama", "float32", seed=0),
}  # fmt: skip


MODELS = Path(__file__).parents[3] / "examples" / "models"

REFUSED = ("HookedModel.with_adapter", "metrics.named")
"""Examples that are refused as they are, for want of an adapter and of a registered metric."""


def two_by_two(world):
    """A result over two layers."""
    return mp.TwoByTwo.of(*world.into_both)


def blank_result():
    """The arguments of a result."""
    return (
        np.zeros((2, 3), np.float32),
        ("layer", "example"),
        {"layer": (0, 1), "example": (0, 1, 2)},
        np.zeros(3, np.float32),
        {},
    )


def drained(function: Callable) -> Callable:
    """The function, with what it yields as a list."""
    return lambda *args, **kwargs: list(function(*args, **kwargs))


def entered(w: World) -> Callable:
    def edited(*edits):
        with w.model.editing(*edits):
            return w.model.model(mx.array([A]))

    return edited


def edges_file(w: World):
    path = w.folder / "edges.json"
    if not path.exists():
        w.edges.to_json(path)
    return path


def whole_file(path):
    with mp.written_whole(path) as temporary:
        temporary.write_text("whole", encoding="utf-8")
