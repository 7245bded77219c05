"""The tasks with mlx_patch: a sweep each. It runs all cells of a task, whichever are named."""

from typing import Any

from worker import Cells, Tasks, serve


def prepare(setting: dict[str, Any]) -> Tasks:
    """The tasks on one model, with the activations of the other prompts at hand."""
    import mlx.core as mx

    import mlx_patch as mp

    model = mp.HookedModel.load(setting["folder"])
    short, other, long, reversed_ = (mx.array([setting[name]]) for name in ("short", "other", "long", "reversed"))
    answer, foil = setting["answer"], setting["foil"]
    metric = mp.metrics.LogitDiff(answer, foil)
    _, of_other = model.run_with_cache(other, "resid_post", logits_at=-1)
    _, of_reversed = model.run_with_cache(reversed_, ("resid_post", "z"), pos=-1, logits_at=-1)
    ask: dict[str, Any] = {"metric": metric, "progress": False}

    def forward(cells: Cells) -> list[float]:
        logits = model.run(long)
        return logits[0, -1, :8].tolist()

    def grid(cells: Cells) -> list[float]:
        result = mp.sweep(model, short, mp.Replace(of_other), at="resid_post", over=("layer", "pos"), **ask)
        return [result.values[layer, pos, 0] for layer, pos in cells]

    def last(cells: Cells) -> list[float]:
        edit = mp.Replace(of_reversed)
        result = mp.sweep(model, long, edit, at="resid_post", over="layer", positions=-1, **ask)
        return [result.values[layer, 0] for (layer,) in cells]

    def heads(cells: Cells) -> list[float]:
        edit = mp.Replace(of_reversed)
        result = mp.sweep(model, long, edit, at="z", over=("layer", "head"), positions=-1, **ask)
        return [result.values[layer, head, 0] for layer, head in cells]

    return {"forward": forward, "grid": grid, "last": last, "heads": heads}


if __name__ == "__main__":
    serve(prepare)
