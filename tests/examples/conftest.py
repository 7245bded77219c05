"""Records of the D1 study that no model was run for."""

import pytest


@pytest.fixture(scope="session")
def record_of(d1):
    """A record as a pair's JSON file has it: by direction the probability of the call by layer.

    `record_of({3: 0.2, 4: 0.7}, {3: 0.1, 4: 0.0}, n_layers=6, base=0.0, instruct=0.9, pair="tiny_ext")`.
    """

    def record(i2b, b2i, n_layers=6, base=0.0, instruct=0.9, pair="tiny_ext", display="Tiny externaliser"):
        crossed = {}
        for layer, into_base in i2b.items():
            into_instruct = b2i[layer]
            early = (into_base + instruct - base - into_instruct) / 2
            late = (into_instruct + instruct - base - into_base) / 2
            both = instruct - into_base - into_instruct + base
            crossed[str(layer)] = {"early": early, "late": late, "interaction": both}
        result = {
            "pair": pair,
            "display": display,
            "d1_group": "A",
            "n_layers": n_layers,
            "layers_tested": list(i2b),
            "positions": "all",
            "base_prompt": "chat",
            "baselines": {"base": {"tool_call_prob": base}, "instruct": {"tool_call_prob": instruct}},
            "instruct_to_base": {str(n): {"tool_call_prob": p, "effect": p - base} for n, p in i2b.items()},
            "base_to_instruct": {str(n): {"tool_call_prob": p, "effect": p - instruct} for n, p in b2i.items()},
            "summary": {f"{w}_peak_{k}": 0 for w in ("i2b", "b2i") for k in ("layer", "depth_pct", "effect")},
            "two_by_two": {"tool_call_prob": crossed},
        }
        ways = ("instruct_to_base", "base_to_instruct")
        findings = {way: d1.finding_of(result, way).as_dict() for way in ways}
        return {**result, "half_of_gap": findings}

    return record
