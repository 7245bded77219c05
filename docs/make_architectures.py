"""Write docs/architectures.md, a page a family, and the site's list of them: `python docs/make_architectures.py`.

A test compares them.
"""

import re
from collections.abc import Iterable
from functools import cache
from itertools import groupby
from pathlib import Path

import mlx.core as mx

from mlx_patch import HookedModel
from mlx_patch.architectures import FAMILIES, Family, Stream
from mlx_patch.sites import SITES
from mlx_patch.testing import EXCEPTIONS, LAWS, ZOO, tiny_model

PAGE = Path(__file__).with_name("architectures.md")
FOLDER = Path(__file__).with_name("architectures")
SITE = Path(__file__).parents[1] / "mkdocs.yml"

HEAD = """# Architectures

This page has every module of mlx_lm that defines a model. A module's link leads to its layers, sites and laws, on the
page of its family. To find out which row is yours, look for `model_type` in the model's `config.json`. To find rows by
words, type them into the field [above the table](#all-of-them), or search the page with your browser.

Every model has `embed`, `final_norm` and, in each layer, `resid_pre` and `resid_post`. A layer with attention has `q`,
`attn_scores`, `pattern`, `z` and `attn_out`; only in olmo, scores and pattern cannot be read. The column "besides" has
the other sites that are there in some layer. A layer whose mixer is no attention (a state space, a recurrence, linear
attention) has `mixer_out` alone. You reach everything else by its raw module path. [sites.md](sites.md) says what a
site means.

The [laws](laws.md) check that sites are what their names say. `tests/laws/test_laws.py` runs them on every model here,
in float32, 4-bit and, where MLX runs it, bfloat16. `tests/laws/test_zoo.py` checks that no module of mlx_lm is
missing, and `tests/laws/test_loading.py` that mlx_lm loads one of each table. To check your own model, call
`model.verify()`.
"""

OF_A_FAMILY = """
These are the tiny models in the zoo (`mlx_patch.testing.ZOO`), which hold every kind of layer. Layers with the same
sites and as many heads stand in one row. Heads are those of the tiny model: of queries (`z`, or `q`, `rot_q`,
`pattern`), and of keys and values (`rot_k`, or `k`, `v`) where these are sites. The column of laws has the
[laws](../laws.md) that hold in float32: `test_laws.py` compares it with what holds, and `test_sweeps.py` holds law 8.
Law 7 is about attention, so a layer without any does not have it. [All architectures](../architectures.md).
"""

NOT_RUN = ("bitnet", "olmo")
BROKEN = {"phi3small": (5, 7, 9)}
"""The laws that do not hold of a model; `EXCEPTIONS` says why."""

LINES = {"gemma": "gemma", "gpt": "gpt", "granite": "granite", "olmo": "olmo", "phi": "phi", "qwen": "qwen"}
LINES |= {"ministral": "mistral", "mixtral": "mistral", "pixtral": "mistral"}
"""Families of modules by what is in their names. Another module's family is the letters that its name begins with."""

TOKENS = mx.array([[11, 48, 85, 26]])
QUERIES = ("z", "q", "rot_q", "pattern")
KEYS = ("rot_k", "k", "v")
ATTENTION = {"q", "attn_scores", "pattern", "z", "attn_out"}
BESIDES = ("k", "v", "rot_q", "rot_k", "resid_mid", "router_logits", "expert_weights", "mlp_post")


def pages() -> dict[Path, str]:
    """The table of all, and the page of each family."""
    families = groupby(sorted(_modules(), key=family_of), key=family_of)
    return {PAGE: _overview()} | {FOLDER / f"{name}.md": _family_page(name, list(of)) for name, of in families}


def in_navigation() -> str:
    """The lines of mkdocs.yml that name the pages of families, with their indents."""
    names = sorted({family_of(module) for module in _modules()})
    return "".join(f"          - {name}: architectures/{name}.md\n" for name in names)


def family_of(module: str) -> str:
    """The family whose page has a module.

    Example:
        >>> family_of("recurrent_gemma"), family_of("deepseek_v3")
        ('gemma', 'deepseek')
    """
    for part, line in LINES.items():
        if part in module:
            return line
    return re.split("[^a-z]", module.lower())[0]


def _modules() -> list[str]:
    return sorted({module for module, _ in ZOO.values()}, key=str.lower)


def _species_of(module: str) -> list[str]:
    return [name for name, (of, _) in ZOO.items() if of == module]


def _overview() -> str:
    titles = ("module", "table", "layers have", "besides", "to know")
    lines = [HEAD, *_exceptions(), "## All of them\n", f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(_row(module))} |" for module in _modules()), ""])


def _row(module: str) -> Iterable[str]:
    """The cells of a module in the table of all."""
    species = _species_of(module)
    there: set[str] = set()
    layers: list[str] = []
    for name in species:
        kinds = _sites_by_layer(name)
        layers += [_kind(sites) for sites in kinds]
        there |= {site for sites in kinds for site in sites}
    families = [_family(name) for name in species]
    yield f"[{module}](architectures/{family_of(module)}.md#{_anchor(module)})"
    yield ", ".join(dict.fromkeys(f"`{_label(family)}`" for family in families))
    yield "; ".join(dict.fromkeys(layers))
    yield _listed(site for site in BESIDES if site in there)
    remarks = [remark for family in families for remark in _remarks(family)]
    yield ", ".join(dict.fromkeys([*(["[exception](#exceptions)"] if module in EXCEPTIONS else []), *remarks]))


def _family(name: str) -> Family:
    if name not in NOT_RUN:
        return _model(name).layout.family
    (family,) = (family for family in FAMILIES if name in family.modules)
    return family


def _sites_by_layer(name: str) -> list[tuple[str, ...]]:
    if name in NOT_RUN:
        return [tuple(site for site in SITES if site in _family(name).block)]
    for sites, _ in _kinds(name):
        if "attn_out" in sites and not ATTENTION <= {*sites}:
            raise ValueError(f"`HEAD` says that a layer with attention has {ATTENTION}. One of {name} has {sites}.")
    return [sites for sites, _ in _kinds(name)]


def _kind(sites: Iterable[str]) -> str:
    """What is in a layer with some sites: its mixer and its MLP."""
    has = {*sites}
    mixers = {"attention": "attn_out" in has, "another mixer": "mixer_out" in has and "attn_out" not in has}
    mlps = {
        "MLP": bool(has & {"mlp_post", "mlp_out"}) and "router_logits" not in has,
        "experts": "router_logits" in has,
    }
    found = [word for word, there in (mixers | mlps).items() if there]
    if {"router_logits", "mlp_post"} <= has:
        found.append("MLP")
    beside = len(found) > 1 and "resid_mid" not in has
    return (" beside " if beside else ", ").join(found)


def _anchor(module: str) -> str:
    """The anchor of a module's heading, as the site makes it: in small letters."""
    return module.lower()


def _exceptions() -> list[str]:
    rows = [f"* {name}: {reason}." for name, reason in EXCEPTIONS.items()]
    return [f"## Exceptions\n\nThe laws do not hold, or cannot be checked everywhere, on {len(rows)}:\n", *rows, ""]


def _family_page(name: str, modules: list[str]) -> str:
    return "\n".join([f"# {name}", OF_A_FAMILY, *(line for module in modules for line in _section(module))])


def _section(module: str) -> Iterable[str]:
    yield f"## {module}\n"
    for name in _species_of(module):
        yield from _without_running(name) if name in NOT_RUN else _species(name)


def _without_running(name: str) -> Iterable[str]:
    family = _family(name)
    yield f"Table `{_label(family)}`, whose model is not run here, so no law is held: {EXCEPTIONS[name]}.\n"
    yield f"Sites: {_listed(site for site in SITES if site in family.block)}.\n"
    yield from _reasons(family, family.absent)


def _species(name: str) -> Iterable[str]:
    family, kinds = _family(name), _kinds(name)
    yield f"`{name}`, table `{_label(family)}`\n"
    yield "| layers | heads (queries / keys and values) | sites | laws |\n|---|---|---|---|"
    for (sites, heads), layers in kinds.items():
        yield f"| {', '.join(map(str, layers))} | {heads} | {_listed(sites)} | {_laws(name, sites)} |"
    yield ""
    there = {site for sites, _ in kinds for site in sites}
    yield from _reasons(family, [site for site, kind in SITES.items() if kind.layered and site not in there])


@cache
def _model(name: str) -> HookedModel:
    return HookedModel(tiny_model(name))


@cache
def _kinds(name: str) -> dict[tuple[tuple[str, ...], str], list[int]]:
    """Layers by what sites they have, and how many heads."""
    model = _model(name)
    _, cache = model.run_with_cache(TOKENS, sites=[site for site in model.sites if site.name in QUERIES + KEYS])
    kinds: dict[tuple[tuple[str, ...], str], list[int]] = {}
    for layer in range(model.n_layers):
        sites = tuple(site.name for site in model.sites if site.layer == layer)
        shapes = {site.name: (cache[site].shape, site.axes) for site in cache if site.layer == layer}
        kinds.setdefault((sites, _heads(shapes)), []).append(layer)
    return kinds


def _laws(name: str, sites: Iterable[str]) -> str:
    """The laws that hold of layers with some sites."""
    without = () if {"z", "pattern"} <= {*sites} else (7,)
    return " ".join(str(law) for law in LAWS if law not in (*without, *BROKEN.get(name, ())))


def documented(name: str) -> dict[int, set[int]]:
    """The laws that the pages have for each layer of a model of the zoo, read from the pages themselves."""
    page = FOLDER / f"{family_of(ZOO[name][0])}.md"
    _, found, rest = page.read_text(encoding="utf-8").partition(f"\n`{name}`, table ")
    rows = re.findall(r"^\| ([\d, ]+) \|.*\| ([\d ]+) \|$", re.split("\n(?:`|## )", rest)[0], re.MULTILINE)
    assert found, f"{name} is not in {page.name}"
    return {int(layer): {int(law) for law in laws.split()} for layers, laws in rows for layer in layers.split(", ")}


def _heads(shapes: dict[str, tuple[tuple[int, ...], tuple[str, ...]]]) -> str:
    found = [next((shapes[name] for name in names if name in shapes), None) for names in (QUERIES, KEYS)]
    return " / ".join("-" if one is None else str(one[0][one[1].index("head")]) for one in found)


def _reasons(family: Family, names: Iterable[str]) -> Iterable[str]:
    """Why sites are absent, those with one reason together; and the rule of the stream where it is no plain sum."""
    reasons: dict[str, list[str]] = {}
    for name in names:
        reasons.setdefault(family.absent.get(name, "the tiny model has no such layer"), []).append(name)
    lines = [f"* No {_listed(absent)}: {reason}." for reason, absent in reasons.items()]
    if family.stream.says != Stream().says:
        lines.append(f"* The stream: {family.stream.says}.")
    lines += [f"* {reason}" for reason in _notes(family)]
    yield from [*lines, ""] if lines else []


def _remarks(family: Family) -> Iterable[str]:
    """What to know of a family, in a word or two; `_notes` says it in sentences."""
    remarks = {
        "several streams": family.streams,
        "blocks run several times": family.loop,
        "blocks of several layers": family.parts > 1,
        "needs a prompt cache": family.cached,
        "learned positions": family.positions,
        "later blocks read more than the stream": family.shared,
        "the stream is no plain sum": family.stream.says != Stream().says,
    }
    yield from (remark for remark, holds in remarks.items() if holds)


def _notes(family: Family) -> Iterable[str]:
    if family.streams:
        yield "`resid_pre` and `resid_post` have several streams side by side."
    if family.loop:
        yield "The forward pass walks the blocks several times; each time they are layers of their own."
    if family.parts > 1:
        yield f"Each block of mlx_lm is {family.parts} layers, one after the other."
    if family.cached:
        yield (
            "It is itself only over a prompt cache. `model.run` without one makes one. A plain call makes none "
            "and gives other logits: `model(tokens)` warns of that (`UncachedWarning`)."
        )
    if family.positions:
        yield "Its positions are learned: prompts, and texts that would grow, beyond the table are refused."
    if family.shared:
        yield f"Later blocks read {_listed(family.shared)} besides the stream."
    if family.heads.further:
        yield "`key_pos` has further keys behind the positions, which stand for several of them."
    if family.heads.mixed_in:
        yield "`z` is `pattern @ v` mixed with what another attention gathers."


def _listed(names: Iterable[str]) -> str:
    return " ".join(f"`{name}`" for name in names)


def _label(family: Family) -> str:
    return f"{family.name} ({family.variant})" if family.variant else family.name


def main() -> None:
    """Write all pages, and remove those of families that are no more."""
    written = pages()
    for path in {*FOLDER.glob("*.md")} - {*written}:
        path.unlink()
    FOLDER.mkdir(exist_ok=True)
    for path, text in written.items():
        path.write_text(text, encoding="utf-8")
    site = re.sub(r"(?: +- \w+: architectures/.*\n)+", in_navigation(), SITE.read_text(encoding="utf-8"))
    SITE.write_text(site, encoding="utf-8")


if __name__ == "__main__":
    main()
