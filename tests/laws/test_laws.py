"""Every law on every architecture; a test that fails names the precision too, and its report the law.

Each architecture runs in float32; one in eight in 4-bit too, and one in eight in bfloat16. `EVERY_PRECISION=1` runs
every one in all three.
"""

import os
import re
import sys
import warnings
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import mlx.core as mx
import pytest
from mlx_lm.models.switch_layers import SwitchLinear

from mlx_patch import HookedModel
from mlx_patch.errors import ArchitectureError, OutlierPositionWarning
from mlx_patch.laws import bench_of, grounds, independent
from mlx_patch.testing import ALL, EXCEPTIONS, ZOO, Report, tiny_model
from mlx_patch.testing.zoo import CLASSICS

ON_CPU = mx.default_device() == mx.Device(mx.cpu)
RUN = [name for name in ZOO if name not in EXCEPTIONS]
OF_ONE_ROW = tuple(law for law in ALL if law is not independent)
"""Law 10, of several rows, has nothing to do with the precision, and takes a third of the time."""
EVERY = bool(os.environ.get("EVERY_PRECISION"))
IN_4BIT = RUN if EVERY else [name for name in RUN if RUN.index(name) % 8 == 0]
IN_BFLOAT16 = RUN if EVERY else [name for name in RUN if RUN.index(name) % 8 == 4]
NEEDS = {"experts": "expert_weights", "heads": "z"}  # a law that finds nothing where a model has no such site
TOKENS = [(11 + 37 * i) % 96 for i in range(16)]
PROMPTS = {
    "two prompts": [TOKENS[:8], TOKENS[8:]],
    "four windows": [TOKENS],  # the zoo's sliding layers see 4 positions
    "a token again": [[5, 5, 5, 5, 9, 5]],
}


def report_of(model, prompt=None, laws=ALL) -> Report:
    bench = bench_of(HookedModel(model), None if prompt is None else mx.array(prompt))
    with warnings.catch_warnings():  # edits of a gate may leave one position with nearly all of the norm
        warnings.simplefilter("ignore", OutlierPositionWarning)
        findings = {law.__name__: tuple(law(bench)) for law in (grounds, *laws)}
    silent = [name for name, found in findings.items() if not found]
    assert not [name for name in silent if name not in NEEDS or bench.has(NEEDS[name])]
    return Report(repr(bench.model), tuple(finding for found in findings.values() for finding in found))


DOCS = Path(__file__).parents[2] / "docs"
SPEC = spec_from_file_location("make_architectures", DOCS / "make_architectures.py")
make_architectures = module_from_spec(SPEC)
SPEC.loader.exec_module(make_architectures)


def found_by_layer(findings, n_layers) -> dict[int, set[int]]:
    """The laws that held, for each layer; law 7 where a finding of it names the layer."""
    held = {finding.law for finding in findings} - {finding.law for finding in findings if not finding.held}
    named = {int(n) for finding in findings if finding.law == 7 for n in re.findall(r"blocks\.(\d+)\.", finding.what)}
    return {layer: held - (set() if layer in named else {7}) for layer in range(n_layers)}


def error_of(model, *inputs) -> str:
    """What MLX says if it cannot run a model; empty where it can."""
    try:
        mx.eval(model(*inputs))
    except RuntimeError as error:
        return str(error)
    return ""


@cache
def error_of_experts(precision) -> str:
    """What MLX's CPU backend says to a matrix for each expert; empty where it multiplies them."""
    experts, dtype = SwitchLinear(32, 32, 2), getattr(mx, precision)
    experts.set_dtype(dtype)
    return error_of(experts, mx.ones((1, 1, 1, 32), dtype), mx.array([[[0]]]))


def with_law_8(report, model):
    """The laws of each layer, and law 8, which test_sweeps.py finds to hold on the same models."""
    found = found_by_layer(report.findings, HookedModel(model).n_layers)
    return {layer: {*laws, 8} for layer, laws in found.items()}


@pytest.mark.parametrize(
    ("name", "precision"), [*((name, "float32") for name in RUN), *((name, "4bit") for name in IN_4BIT)]
)
def test_the_laws_hold(name, precision):
    model, in_full = tiny_model(name, precision), precision == "float32"
    report = report_of(model, laws=ALL if in_full else OF_ONE_ROW)
    assert report.ok, report
    documented, unchecked = make_architectures.documented(name), set() if in_full else {10}
    assert with_law_8(report, model) == {layer: laws - unchecked for layer, laws in documented.items()}


HALVES = [*((name, "bfloat16") for name in IN_BFLOAT16), *((name, "float16") for name in CLASSICS)]


@pytest.mark.parametrize(("name", "precision"), HALVES)
def test_the_laws_hold_in_half_precision_wherever_the_model_runs(name, precision):
    model = tiny_model(name, precision)
    if error := error_of(model, mx.array([TOKENS])):
        assert ON_CPU
        assert "GatherMM::eval" in error
        assert error == error_of_experts(precision)
        assert any(isinstance(module, SwitchLinear) for module in model.modules())
    else:
        report = report_of(model, laws=OF_ONE_ROW)
        assert report.ok, report


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", CLASSICS if EVERY else list(CLASSICS)[::3])
def test_the_laws_hold_of_other_prompts(name, prompt):
    report = report_of(tiny_model(name), PROMPTS[prompt])
    assert report.ok, report


def test_exceptions_are_few_and_each_is_looked_at_here():
    assert len(EXCEPTIONS) <= 3
    assert set(EXCEPTIONS) == {"bitnet", "olmo", "phi3small"}


def test_bitnet_runs_on_metal_alone():
    model = tiny_model("bitnet")
    if mx.metal.is_available():
        report = report_of(model)
        assert report.ok, report
    else:
        with pytest.raises(RuntimeError, match=r"\[metal_kernel\] No Metal back-end"):
            mx.eval(model(mx.array([TOKENS])))


def test_olmo_takes_a_text_for_its_mask(monkeypatch):
    """Where this fails, mlx_lm has mended it: take olmo out of EXCEPTIONS."""
    monkeypatch.setitem(sys.modules, "hf_olmo", None)
    monkeypatch.delitem(sys.modules, "mlx_lm.models.olmo", raising=False)
    with pytest.raises(ArchitectureError, match="stops Python where ai2-olmo is missing"):
        tiny_model("olmo")
    monkeypatch.setitem(sys.modules, "hf_olmo", ModuleType("hf_olmo"))
    model = tiny_model("olmo")
    assert mx.all(mx.isfinite(model(mx.array([TOKENS[:1]])))).item()
    with pytest.raises(ValueError, match=r"inplace addition on an mlx\.core\.array and str"):
        model(mx.array([TOKENS]))


def test_phi3small_sees_what_comes_later():
    """Where this fails, mlx_lm has mended it: take phi3small out of EXCEPTIONS."""
    model = tiny_model("phi3small")
    first, second = (model(mx.array([[*TOKENS[:8], last]]))[0, 6, :96] for last in (5, 6))
    assert mx.max(mx.abs(first - second)).item() > 1e-3
    report = report_of(model)
    assert {finding.law for finding in report.broken} == {5, 7, 9}
    assert with_law_8(report, model) == make_architectures.documented("phi3small")
