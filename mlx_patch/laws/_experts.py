"""Law 4 for mixtures of experts: weights decide what is added of which experts, chosen by the router or not."""

from collections.abc import Iterator

from mlx_patch.interventions import Replace
from mlx_patch.laws._bench import Bench
from mlx_patch.laws._report import Finding
from mlx_patch.sites import Site


def experts(bench: Bench) -> Iterator[Finding]:
    """Law 4. Experts that are given the weights that they would have if they had been chosen add the same."""
    if not bench.has("router_logits", "expert_weights", "mlp_out"):
        return
    own, donor = bench.own[1], bench.donor[1]
    held = [Replace(own).at(name) for name in ("resid_pre", "resid_mid") if bench.has(name)]
    chosen = bench.inside(("expert_weights", "mlp_out"), *held, Replace(donor).at("router_logits"))
    given = bench.inside("mlp_out", *held, Replace(own).at("router_logits"), Replace(chosen).at("expert_weights"))
    for layer in bench.layers("router_logits", "expert_weights", "mlp_out"):
        site, close = Site("mlp_out", layer), bench.scale.close
        yield bench.scale.finding(4, f"expert_weights alone decide {site}", given[site], chosen[site], close)
