"""Metrics by entry points, from packages written into a folder: found late, and harmless when broken.

tests/contract/test_plugins.py installs a real one.
"""

import sys

import mlx.core as mx
import pytest

from mlx_patch.errors import KindError, MissingExtraError, UnknownNameError, ValueRefusedError
from mlx_patch.metrics import Entropy, _registry, as_metric, metric, named, registered

LOGITS = mx.array([[[0.0, 1.0, 3.0]]])
GOOD = "def first(logits):\n    return logits[:, -1, 0]\n"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Writes a package with one module and its entry points, as an installer leaves them."""
    monkeypatch.setattr(_registry, "_ENTRIES", dict(_registry._ENTRIES))
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(package: str, code: str, **points: str) -> None:
        module = package.replace("-", "_")
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (tmp_path / f"{module}.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {module}:{attribute}" for name, attribute in points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[mlx_patch.metrics]", *lines]))

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_plugin_is_found_by_name_and_imported_only_then(install):
    install("good-plugin", GOOD, plug_first="first")
    assert "plug_first" in registered()
    assert "good_plugin" not in sys.modules
    found = named("plug_first")
    assert (found(LOGITS).tolist(), found.name) == ([0.0], "plug_first")
    assert "good_plugin" in sys.modules
    assert as_metric("plug_first") is found


def test_a_plugin_offers_what_the_decorator_takes(install):
    code = """
from mlx_patch.metrics import Entropy, Prob, metric

second = Prob(1)
made = lambda: Prob(2)

@metric("plug_own")
def own(logits):
    return logits[:, -1, 2]
"""
    install("many-plugin", code, plug_class="Entropy", plug_second="second", plug_made="made", plug_own="own")
    assert named("plug_class")(LOGITS).item() == Entropy()(LOGITS).item()
    assert [named(name).name for name in ("plug_second", "plug_made")] == ["plug_second", "plug_made"]
    assert named("plug_own")(LOGITS).tolist() == [3.0]


def test_a_plugin_s_entry_point_comes_before_what_it_registers(install):
    """It registers its own name, and is found first by entry point."""
    code = "from mlx_patch.metrics import metric\n@metric('plug_own')\n" + GOOD
    install("own-plugin", code, plug_own="first")
    assert named("plug_own")(LOGITS).tolist() == [0.0]


@pytest.mark.parametrize(
    ("code", "attribute", "error"),
    [
        ("import no_such_module_at_all", "x", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("def (", "x", "SyntaxError"),
        ("raise RuntimeError('no GPU')", "x", "RuntimeError: no GPU"),
        ("1 / 0", "x", "ZeroDivisionError: division by zero"),
        (GOOD, "second", "AttributeError: .*second"),
    ],
)
def test_a_broken_plugin_is_named_and_harms_nobody_else(install, code, attribute, error):
    """Named when it is asked for."""
    install("broken-plugin", code, plug_broken=attribute)
    install("good-plugin", GOOD, plug_first="first")
    assert {"entropy", "plug_first", "plug_broken"} <= set(registered())
    assert named("plug_first")(LOGITS).tolist() == [0.0]
    assert named("entropy") == Entropy()
    with pytest.raises(
        MissingExtraError,
        match=rf"`name` must be a metric that can be imported. Got 'plug_broken': broken_plugin:{attribute} of "
        rf"broken-plugin fails with {error}",
    ):
        named("plug_broken")


def test_a_plugin_that_offers_no_metric_is_named(install):
    install("odd-plugin", "three = 3", plug_three="three")
    with pytest.raises(KindError, match=r"Got int: 3. It is odd_plugin:three of the package odd-plugin"):
        named("plug_three")


def test_a_name_that_two_packages_offer_is_refused(install):
    install("one-plugin", GOOD, plug_both="first")
    install("two-plugin", GOOD, plug_both="first")
    with pytest.raises(ValueRefusedError, match=r"Got 'plug_both', offered by one-plugin, two-plugin"):
        named("plug_both")


def test_a_name_that_a_package_offers_is_taken(install):
    install("good-plugin", GOOD, plug_first="first")
    with pytest.raises(ValueRefusedError, match=r"Got 'plug_first', which the package good-plugin offers"):
        metric("plug_first")(lambda logits: logits[:, -1, 0])


def test_a_built_in_name_is_the_built_in(install):
    install("good-plugin", GOOD, entropy="first")
    assert named("entropy") == Entropy()


def test_names_near_an_unknown_one_include_those_of_packages(install):
    install("good-plugin", GOOD, plug_first="first")
    with pytest.raises(UnknownNameError, match=r"Did you mean plug_first\?"):
        named("plug_frist")
