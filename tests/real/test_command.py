"""The command on SmolLM2: its numbers are those of plain runs."""

import json

import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch import cli
from mlx_patch.testing import smollm2_folder

CLEAN = "When John and Mary went to the shops, John gave a bottle of milk to"
CORRUPTED = "When John and Mary went to the shops, Mary gave a bottle of milk to"


@pytest.mark.real
@pytest.mark.slow
def test_a_sweep_of_the_indirect_object(smollm2, monkeypatch, capsys):
    """The giver's name decides early, the last position late, and a cell is a plain run with the patch."""
    folder = str(smollm2_folder("float32"))
    monkeypatch.setattr(mp.HookedModel, "load", lambda path, adapter_path: smollm2 if path == folder else None)
    ask = ("--at", "resid_post", "--over", "layer,pos", "--layers", "0,10,29", "--positions", "9,last")
    answers = ("--right", " Mary", "--wrong", " John", "--normalised", "--json", "-")
    status = cli.main(["sweep", folder, "--prompt", CORRUPTED, "--source", CLEAN, *ask, *answers])
    values = np.array(json.loads(capsys.readouterr().out)["values"])[..., 0]
    assert status == 0
    assert values[0, 0] > 0.9
    assert abs(values[0, 1]) < 0.1
    assert values[2].tolist() == pytest.approx([0, 1], abs=1e-3)
    metric = mp.metrics.LogitDiff(" Mary", " John").resolve(smollm2.tokenizer)
    logits, cache = smollm2.run_with_cache(CLEAN, sites=("resid_post",), logits_at=-1)
    edit = mp.Replace(cache).at("resid_post", layer=10, pos=9)
    patched, corrupted, clean = (
        metric(run).item() for run in (smollm2.run(CORRUPTED, [edit]), smollm2.run(CORRUPTED), logits)
    )
    assert values[1, 0] == pytest.approx((patched - corrupted) / (clean - corrupted), abs=1e-4)
