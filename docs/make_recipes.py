"""Makes the numbers and figures of docs/recipes: seven experiments of the literature on SmolLM2-135M-Instruct.

python docs/make_recipes.py [recipe ...]     all of them: about four minutes on 2 cores with OpenBLAS
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import mlx.core as mx
import numpy as np

import mlx_patch as mp
from mlx_patch.plot import layer_curve, new_axes
from mlx_patch.testing import smollm2_folder

FIGURES = Path(__file__).parent / "figures"
CAPITALS = {"France": "Paris", "Germany": "Berlin", "Japan": "Tokyo", "England": "London", "Greece": "Athens"}
CAPITALS |= {"Cuba": "Havana", "Portugal": "Lisbon", "Hungary": "Budapest"}
OPPOSITES = {"hot": "cold", "big": "small", "fast": "slow", "up": "down", "happy": "sad", "good": "bad", "old": "new"}
OPPOSITES |= {"light": "dark", "rich": "poor", "hard": "soft", "high": "low", "wet": "dry", "early": "late"}
OPPOSITES |= {"strong": "weak", "black": "white", "long": "short"}
LIKED = (
    "loved every minute of it",
    "laughed and cried with joy",
    "was delighted by the cast",
    "enjoyed the music a lot",
)
LIKED += ("would gladly see it again", "found it beautiful", "was moved by the story", "admired the acting")
LIKED += ("smiled all the way home", "thought it was brilliant")
DISLIKED = ("hated every minute of it", "nearly fell asleep", "was annoyed by the cast", "could not stand the music")
DISLIKED += ("would never see it again", "found it ugly", "was bored by the story", "disliked the acting")
DISLIKED += ("wanted my money back", "thought it was awful")
NOUNS = ("car", "boy", "key", "friend", "dog", "bird", "road", "girl", "book", "tree", "house", "cat", "river", "song")
QUIET = {"progress": False}


def say(text: object) -> None:
    """Print a line."""
    sys.stdout.write(f"{text}\n")


def save(panel, name: str) -> None:
    """Write a figure."""
    panel.figure.savefig(FIGURES / f"{name}_smollm2.png", dpi=80, bbox_inches="tight")
    say(f"wrote {name}_smollm2.png")


def curves(lines: dict[str, np.ndarray], layers: Sequence[object], baseline, label: str, title: str, **how):
    """Some lines over layers, with one baseline."""
    values = np.stack(list(lines.values()))
    names = list(lines)
    return layer_curve(values, layers, labels=names, baseline=baseline, value_label=label, title=title, **how)


def facts(countries: Sequence[str] = tuple(CAPITALS)) -> tuple[list[str], mp.metrics.Prob]:
    """Prompts that ask for capitals, and the probability of each."""
    prompts = [f"The capital of {country} is the city of" for country in countries]
    return prompts, mp.metrics.Prob([f" {CAPITALS[country]}" for country in countries], name="probability")


def causal_tracing(model: mp.HookedModel) -> None:
    """Where four facts are restored, of the stream, of six MLPs and of six attentions."""
    prompts, metric = facts(tuple(CAPITALS)[:4])
    tokens = mx.concatenate([model.tokenize(prompt) for prompt in prompts])
    ask = {"scale": 5.0, "seeds": range(2), "positions": range(2, 8), **QUIET}
    panels = new_axes(15.0, 6.0, 1, 3)
    for panel, (site, width) in zip(panels, (("resid_post", 1), ("mlp_out", 6), ("attn_out", 6)), strict=True):
        trace = mp.recipes.causal_trace(model, tokens, 3, metric, site, width, **ask).averaged("seed")
        say(f"{site}: noised {trace.baseline_mean():.3f}, clean {mp.measure(model, tokens, metric).mean():.3f}")
        for place in ({"pos": 3}, {"pos": 7}):
            say((place, np.round(trace.sel(**place).mean(), 2).tolist()))
        trace.plot(panel)
        panel.set_title(site if width == 1 else f"{site}, {width} layers together")
    save(panels[0], "causal_tracing")


def knockout(model: mp.HookedModel) -> None:
    """What the last position must read, and in which layers."""
    prompts, metric = facts()
    tokens = mx.concatenate([model.tokenize(prompt) for prompt in prompts])
    keys = {"country": 3, "'capital'": 1, "'of'": 2, "'is'": 4, "first position": 0}
    result = mp.recipes.knockout(model, tokens, keys, metric, width=6, **QUIET)
    say(f"unpatched {result.baseline_mean():.3f}")
    lines = {name: result.sel(keys=name).mean() for name in keys}
    for name, line in lines.items():
        say((name, np.round(line, 2).tolist()))
    firsts = [window[0] for window in result.coords["layer"]]
    label = "probability of the capital"
    title = "The last position does not read one key, in 6 layers"
    save(curves(lines, firsts, result.baseline_mean(), label, title, axis_label="first of the layers"), "knockout")


def patchscope(model: mp.HookedModel) -> None:
    """How deep a country's name can be read from the stream at it."""
    countries = tuple(CAPITALS)
    sources = [f"Last year we all went to {country}" for country in countries]
    own = mp.metrics.Prob([f" {country}" for country in countries])
    others = mp.metrics.Prob([f" {country}" for country in (*countries[1:], countries[0])], name="another")
    result = mp.recipes.patchscope(model, sources, [own, others], **QUIET).sel(layer=0)
    lens = mp.lens.logit_lens(model, sources[0], pos=-1).prob(f" {countries[0]}")[:, 0, 0]
    means = result.mean()
    say(f"unpatched {result.baseline_mean()}, lens {np.round(lens, 3).tolist()}")
    lines = {"its own name": means[:, 0], "another's name": means[:, 1]}
    for name, line in lines.items():
        say((name, np.round(line, 2).tolist()))
    title = "What the identity prompt repeats, with the stream put in at layer 0"
    save(
        curves(lines, range(model.n_layers), None, "probability", title, axis_label="layer of the source"), "patchscope"
    )


def shown(examples: Sequence[tuple[str, str]], query: str) -> str:
    """A prompt of examples. It begins with a line break: the first position is an attention sink, and holds no word."""
    return "\n" + "".join(f"{word} -> {answer}\n" for word, answer in examples) + f"{query} ->"


def opposites() -> tuple[list[tuple[str, str]], list[str], mp.metrics.Prob]:
    """The pairs that examples come from, queries of others, and the probability of their answers."""
    pairs = list(OPPOSITES.items())
    queries = [shown([], word) for word, _ in pairs[10:]]
    return pairs[:10], queries, mp.metrics.Prob([f" {answer}" for _, answer in pairs[10:]])


def task_vector(model: mp.HookedModel) -> None:
    """One activation in place of examples, and that of another task."""
    pairs, queries, metric = opposites()
    capitals = list(CAPITALS.items())
    lines = {}
    for name, examples in (("opposites", pairs), ("capitals: another task", capitals)):
        demonstrations = [shown(examples[start : start + 4], examples[start - 1][0]) for start in range(3)]
        result = mp.recipes.task_vector(model, demonstrations, queries, metric, **QUIET)
        lines[name] = result.mean()
        say((name, f"unpatched {result.baseline_mean():.3f}", np.round(lines[name], 2).tolist()))
    with_examples = [shown(pairs[:4], word) for word in list(OPPOSITES)[10:]]
    say(f"with four examples: {mp.measure(model, with_examples, metric).mean():.3f}")
    title = "The stream behind four examples, put behind a query without any"
    save(
        curves(lines, range(model.n_layers), result.baseline_mean(), "probability of the opposite", title),
        "task_vector",
    )


def drawn_prompts(pairs: Sequence[tuple[str, str]], shuffled: bool, rng: Random, n: int) -> tuple[list[str], list[str]]:
    """Prompts of four examples, their answers shuffled or not; and the right answers."""
    prompts, answers = [], []
    for _ in range(n):
        *examples, (query, answer) = rng.sample(list(pairs), 5)
        words, given = map(list, zip(*examples, strict=True))
        if shuffled:
            rng.shuffle(given)
        prompts.append(shown(list(zip(words, given, strict=True)), query))
        answers.append(f" {answer}")
    return prompts, answers


def function_vector(model: mp.HookedModel) -> None:
    """Ten heads that carry the task, and ten others."""
    pairs, queries, metric = opposites()
    rng = Random(0)
    demonstrations, _ = drawn_prompts(pairs, False, rng, 6)
    corrupted, answers = drawn_prompts(pairs, True, rng, 6)
    found = mp.recipes.function_vector(model, demonstrations, corrupted, mp.metrics.Prob(answers), **QUIET)
    say((found.heads, str(found.effects.peak())))
    means = found.means
    rest = [(layer, head) for layer in means for head in range(len(means[layer])) if (layer, head) not in found.heads]
    control = mp.recipes.head_outputs(model, means, rng.sample(rest, 10))
    control = control * mx.linalg.norm(found.vector) / mx.linalg.norm(control)
    lines = {}
    for name, vector in (("ten strongest heads", found.vector), ("ten other heads, same norm", control)):
        ask = {"at": "resid_post", "positions": -1, "metric": metric, **QUIET}
        result = mp.sweep(model, queries, mp.Add(vector), **ask)
        lines[name] = result.mean()
        say((name, f"unpatched {result.baseline_mean():.3f}", np.round(lines[name], 2).tolist()))
    title = "The sum of what ten heads write, added behind a query without examples"
    panel = curves(lines, range(model.n_layers), result.baseline_mean(), "probability of the opposite", title)
    save(panel, "function_vector")


def contrast_direction(model: mp.HookedModel) -> None:
    """A direction of liking, chosen on held-out reviews, against a random one."""
    text = "I saw the film last night. I {}. The film was really"
    liked, disliked = ([text.format(words) for words in group] for group in (LIKED, DISLIKED))
    metric = mp.metrics.LogitDiff(" good", " bad")
    chosen_on, (likes, dislikes) = (liked[4:7], disliked[4:7]), (liked[7:], disliked[7:])
    found = mp.recipes.contrast_direction(model, liked[:4], disliked[:4], metric, chosen_on, **QUIET)
    added, ablated = found.added, found.ablated
    say(f"layer {found.layer}; on reviews that were not used before:")
    plus = mp.measure(model, dislikes, metric, [found.addition()]).mean()
    minus = mp.measure(model, likes, metric, found.ablation(model)).mean()
    say(f"added to disliked: {mp.measure(model, dislikes, metric).mean():.2f} to {plus:.2f}")
    say(f"removed from liked: {mp.measure(model, likes, metric).mean():.2f} to {minus:.2f}")
    by_chance = []
    for seed in range(5):
        random = mx.random.normal(found.vector.shape, key=mx.random.key(seed))
        random = random * mx.linalg.norm(found.vector) / mx.linalg.norm(random)
        addition = mp.Add(random).at("resid_pre", layer=found.layer)
        plus = mp.measure(model, dislikes, metric, [addition]).mean()
        by_chance.append((plus, mp.measure(model, likes, metric, mp.recipes.ablation_of(model, random)).mean()))
    say(f"five random directions, added and removed: {np.round(by_chance, 2).tolist()}")
    for scale in (0.0, 1.0, -1.0, 2.0):
        text = "Yesterday I went to the cinema. The film was"
        say((scale, model.generate(text, edits=[found.addition(scale)], max_tokens=12)))
    lines = {"added to held-out reviews that dislike": added.mean(), "removed from those that like": ablated.mean()}
    baselines = [added.baseline_mean(), ablated.baseline_mean()]
    title = "A difference of means, by the layer that it comes from"
    save(curves(lines, added.coords["layer"], baselines, "logit of ' good' minus ' bad' (nats)", title), "direction")


def unit(vector: mx.array) -> mx.array:
    """A vector of length 1."""
    return vector / mx.linalg.norm(vector)


def subspaces(model: mp.HookedModel, tokens: Sequence[mx.array], layer: int, metric) -> dict[str, mx.array]:
    """A direction of number at the noun's neurons, its controls, and an illusion made on purpose."""
    caches = [model.run_with_cache(rows, "mlp_post", logits_at=-1)[1] for rows in tokens]
    differences = caches[1]["mlp_post", layer][:, 1] - caches[0]["mlp_post", layer][:, 1]
    real = differences.mean(axis=0)
    read, unread = mp.recipes.read_parts(model, "mlp_post", layer, real)
    labels = mx.array([1.0, -1.0] * (len(differences) // 2))[:, None]

    def moved(vector: mx.array) -> mx.array:
        edit = mp.Add(vector).at("mlp_post", layer=layer, pos=1)
        return metric(model.run(tokens[0], edit, logits_at=-1)).sum()

    slope = unit(mx.grad(moved)(mx.zeros_like(real)))
    idle, _ = mp.recipes.read_parts(model, "mlp_post", layer, slope - unit(real) * (slope * unit(real)).sum())
    illusion = unit(unread) + unit(idle)
    illusion_read, illusion_unread = mp.recipes.read_parts(model, "mlp_post", layer, illusion)
    named = {"difference of means": real, "its read part": read, "its unread part": unread}
    named |= {"random": mx.random.normal(real.shape, key=mx.random.key(1))}
    named |= {"arbitrary labels": (labels * differences).mean(axis=0)}
    named |= {"illusion": illusion, "illusion, read": illusion_read, "illusion, unread": illusion_unread}
    return {name: mp.orthonormal(vector) for name, vector in named.items()}


def interchange(model: mp.HookedModel) -> None:
    """One direction that carries a noun's number, and one that only seems to."""
    singular, plural = (
        mx.concatenate([model.tokenize(f"The {noun}{ending} near the tall tree") for noun in NOUNS])
        for ending in ("", "s")
    )
    metric = mp.metrics.LogitDiff(" are", " is").resolve(model.tokenizer)
    hosts, sources = singular[8:], plural[8:]
    say(f"sources {mp.measure(model, sources, metric).mean():.2f}")
    lines = {}
    for layer in (0, 16):
        bases = subspaces(model, (singular[:8], plural[:8]), layer, metric)
        result = mp.recipes.interchange(model, hosts, sources, bases, metric, "mlp_post", layer, 1, **QUIET)
        lines[f"layer {layer}"] = result.mean() - result.baseline_mean()
        say(
            (
                layer,
                f"hosts {result.baseline_mean():.2f}",
                dict(zip(bases, lines[f"layer {layer}"].round(2), strict=True)),
            )
        )
    values = np.stack(list(lines.values()))
    title = "A noun's number, in the neurons of a layer"
    how = {
        "labels": list(lines),
        "title": title,
        "baseline": 0.0,
        "connected": False,
        "axis_label": "the direction that is exchanged",
    }
    panel = layer_curve(values, list(bases), value_label="effect (nats)", **how)
    panel.set_xticks(range(len(bases)), list(bases), rotation=40, ha="right")
    save(panel, "interchange")


RECIPES: dict[str, Callable[[mp.HookedModel], None]] = {
    recipe.__name__: recipe
    for recipe in (
        causal_tracing,
        knockout,
        patchscope,
        task_vector,
        function_vector,
        contrast_direction,
        interchange,
    )
}


def main(names: Sequence[str]) -> None:
    """Measure and draw."""
    import matplotlib as mpl

    mpl.use("Agg")
    model = mp.HookedModel.load(smollm2_folder("float32"))
    for name in names or RECIPES:
        say(f"== {name}")
        RECIPES[name](model)


if __name__ == "__main__":
    main(sys.argv[1:])
