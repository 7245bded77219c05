"""What Tab and `help` show: the names that are meant, and signatures that can be read."""

import inspect
import json
import subprocess
import sys

import pytest

import mlx_patch as mp

MODULES = {
    "mp": mp,
    **{
        name: getattr(mp, name)
        for name in "pos steps metrics lens circuits recipes dictionaries cross paths errors tasks".split()
    },
}
MEANT_MODULES = {"circuits", "cross", "dictionaries", "errors", "interventions", "lens", "metrics", "paths", "pos"} | {
    "recipes",
    "steps",
    "tasks",
}


@pytest.mark.parametrize("name", MODULES)
def test_dir_shows_what_is_there_and_meant(name):
    module = MODULES[name]
    names = [shown for shown in dir(module) if shown != "__version__"]
    values = {shown: getattr(module, shown) for shown in names}
    assert not [shown for shown in names if shown.startswith("_")]
    modules = {shown for shown, value in values.items() if inspect.ismodule(value)}
    assert modules == (MEANT_MODULES if module is mp else set())
    foreign = [shown for shown, value in values.items() if not owner(value).startswith("mlx_patch")]
    assert foreign == []


def owner(value):
    """The module that a class or function is from, or the class of another value is."""
    if inspect.ismodule(value):
        return value.__name__
    if isinstance(value, str | tuple | dict):
        return "mlx_patch"
    return getattr(value, "__module__", type(value).__module__)


def test_dir_shows_the_verbs_and_values():
    assert {"sweep", "attribute", "HookedModel", "Replace", "metrics", "pos", "__version__"} <= set(dir(mp))
    assert dir(mp.pos) == ["Shown", "last", "role", "show", "text", "token", "turn", "where"]
    assert dir(mp.steps) == ["every", "generated", "prompt", "when"]
    assert {"LogitDiff", "KL", "Metric", "metric"} <= set(dir(mp.metrics))
    assert "as_answers" not in dir(mp.metrics)
    assert all(issubclass(getattr(mp.errors, name), Exception) for name in dir(mp.errors))


def test_what_dir_does_not_show_is_still_there():
    assert mp.metrics.as_metric is not None
    assert inspect.ismodule(mp.engine)


SIGNATURES = """
import inspect, json
import mlx_patch as mp
texts = {}
for module in (mp, *(getattr(mp, name) for name in "metrics lens circuits recipes dictionaries cross".split())):
    for shown in dir(module):
        value = getattr(module, shown)
        if inspect.isfunction(value):
            texts[shown] = str(inspect.signature(value))
        elif inspect.isclass(value):
            for name, member in inspect.getmembers(value, inspect.isfunction):
                if not name.startswith("_"):
                    texts[f"{shown}.{name}"] = str(inspect.signature(member))
print(json.dumps(texts))
"""
"""A process of its own: where annotations are checked as tests run, they are not those that were written."""


def test_signatures_in_help_can_be_read():
    done = subprocess.run([sys.executable, "-c", SIGNATURES], capture_output=True, text=True, check=True)
    texts = json.loads(done.stdout)
    assert len(texts) > 250
    assert {name: len(text) for name, text in texts.items() if "collections.abc" in text and len(text) > 480} == {}
    assert "over: 'OverChoice' = ('layer',)" in texts["sweep"]
    assert len(texts["sweep"]) < 700
    assert len(texts["Replace.at"]) < 300
