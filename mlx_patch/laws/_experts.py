"""Law 4 for mixtures of experts: `expert_weights` alone decide their output, whichever experts the router chose."""

from collections.abc import Iterator

from mlx_patch.interventions import Replace
from mlx_patch.laws._bench import Bench
from mlx_patch.laws._report import Finding
from mlx_patch.sites import Site


def experts(bench: Bench) -> Iterator[Finding]:
    """Law 4. Patching the weights of another choice of experts gives that choice's output."""
    if not bench.has("router_logits", "expert_weights", "mlp_out"):
        return
    unpatched, donor = bench.captured_run[1], bench.donor[1]
    inputs = [Replace(unpatched).at(name) for name in ("resid_pre", "resid_mid") if bench.has(name)]
    other_choice = bench.inside(("expert_weights", "mlp_out"), *inputs, Replace(donor).at("router_logits"))
    unpatched_router = Replace(unpatched).at("router_logits")
    patched = bench.inside("mlp_out", *inputs, unpatched_router, Replace(other_choice).at("expert_weights"))
    for layer in bench.layers("router_logits", "expert_weights", "mlp_out"):
        site = Site("mlp_out", layer)
        description = f"expert_weights alone decide {site}"
        yield bench.scale.finding(4, description, patched[site], other_choice[site], bench.scale.close)
