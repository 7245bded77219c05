"""Write docs/architectures.md from tables and zoo: `python docs/make_architectures.py`. A test compares them."""

import re
from collections.abc import Iterable
from pathlib import Path

import mlx.core as mx

from mlx_patch import HookedModel
from mlx_patch.architectures import FAMILIES, Family, Stream
from mlx_patch.sites import SITES
from mlx_patch.testing import EXCEPTIONS, LAWS, ZOO, tiny_model

PAGE = Path(__file__).with_name("architectures.md")

HEAD = """# Architectures

This page has every module of mlx_lm that defines a model, and the table with which it is read. It lists the sites of
the tiny models in the zoo (`mlx_patch.testing.ZOO`), which hold every kind of layer. [sites.md](sites.md) says what a
site means. `embed`, `final_norm` and everything with a raw module path are there on all of them.

Layers with the same sites and as many heads stand in one row. Heads are those of the tiny model: of queries (`z`, or
`q`, `rot_q`, `pattern`), and of keys and values (`rot_k`, or `k`, `v`) where these are sites.

The [laws](laws.md) check that these sites are what their names say. `tests/laws/test_laws.py` runs them on every model
here, in float32, 4-bit and, where MLX runs it, bfloat16. `tests/laws/test_zoo.py` checks that no module of mlx_lm is
missing, and `tests/laws/test_loading.py` that mlx_lm loads one of each table. To check your own model, call
`model.verify()`.

The column of laws has those that hold in float32, and `test_laws.py` compares it with what it finds. Law 7 is about
attention: a layer without `z` or `pattern` has none. Law 8 is about sweeps: `tests/laws/test_sweeps.py`.
"""

NOT_RUN = ("bitnet", "olmo")
BROKEN = {"phi3small": (5, 7, 9)}
"""The laws that do not hold of a model; `EXCEPTIONS` says why."""

TOKENS = mx.array([[11, 48, 85, 26]])
QUERIES = ("z", "q", "rot_q", "pattern")
KEYS = ("rot_k", "k", "v")


def page() -> str:
    """The whole page."""
    modules = sorted({module for module, _ in ZOO.values()}, key=str.lower)
    return "\n".join([HEAD, *_exceptions(), *(line for module in modules for line in _section(module))])


def _exceptions() -> list[str]:
    rows = [f"* {name}: {reason}." for name, reason in EXCEPTIONS.items()]
    return [f"## Exceptions\n\nThe laws do not hold, or cannot be checked everywhere, on {len(rows)}:\n", *rows, ""]


def _section(module: str) -> Iterable[str]:
    yield f"## {module}\n"
    for name in (name for name, (of, _) in ZOO.items() if of == module):
        yield from _without_running(name) if name in NOT_RUN else _species(name)


def _without_running(name: str) -> Iterable[str]:
    (family,) = (family for family in FAMILIES if name in family.modules)
    yield f"Table `{_label(family)}`, whose model is not run here, so no law is held: {EXCEPTIONS[name]}.\n"
    yield f"Sites: {_listed(site for site in SITES if site in family.block)}.\n"
    yield from _reasons(family, family.absent)


def _species(name: str) -> Iterable[str]:
    model = HookedModel(tiny_model(name))
    layout, kinds = model.layout, _kinds(model)
    yield f"`{name}`, table `{_label(layout.family)}`\n"
    yield "| layers | heads (queries / keys and values) | sites | laws |\n|---|---|---|---|"
    for (sites, heads), layers in kinds.items():
        yield f"| {', '.join(map(str, layers))} | {heads} | {_listed(sites)} | {_laws(name, sites)} |"
    yield ""
    there = {site for sites, _ in kinds for site in sites}
    yield from _reasons(layout.family, [site for site, kind in SITES.items() if kind.layered and site not in there])


def _kinds(model: HookedModel) -> dict[tuple[tuple[str, ...], str], list[int]]:
    """Layers by what sites they have, and how many heads."""
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
    """The laws that the page has for each layer of a model of the zoo, read from the page itself."""
    _, found, rest = PAGE.read_text(encoding="utf-8").partition(f"\n`{name}`, table ")
    rows = re.findall(r"^\| ([\d, ]+) \|.*\| ([\d ]+) \|$", rest.split("\n`", 1)[0], re.MULTILINE)
    assert found, f"{name} is not in {PAGE.name}"
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


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
