"""The tasks with nnsight: a trace a cell, and the grid with the positions of a layer as rows of one trace."""

from typing import Any

from worker import Cells, Tasks, serve


def prepare(setting: dict[str, Any]) -> Tasks:
    """The tasks on one model, with the activations of the other prompts at hand."""
    import nnsight
    import torch
    from nnsight.modeling.transformers import TransformersModel

    torch.set_num_threads(setting["threads"])
    torch.set_grad_enabled(False)
    how = {"dtype": torch.float32, "device_map": "cpu", "dispatch": True}
    model = TransformersModel(setting["folder"], task="text-generation", **how)
    layers = model.model.layers
    short, other, long, reversed_ = (torch.tensor([setting[name]]) for name in ("short", "other", "long", "reversed"))
    answer, foil, width = setting["answer"], setting["foil"], setting["d_head"]
    with model.trace(other):
        of_other = nnsight.save([layer.output for layer in layers])
    with model.trace(reversed_):
        both = nnsight.save([(layer.self_attn.o_proj.input, layer.output) for layer in layers])
    heads_of_reversed, of_reversed = zip(*both, strict=True)

    def forward(cells: Cells) -> list[float]:
        with model.trace(long):
            logits = model.output.logits.save()
        return logits[0, -1, :8].tolist()

    def grid(cells: Cells) -> list[float]:
        found: dict[tuple[int, int], float] = {}
        for layer in sorted({layer for layer, _ in cells}):
            positions = [pos for of, pos in cells if of == layer]
            with model.trace(short.repeat(len(positions), 1)):
                layers[layer].output[range(len(positions)), positions] = of_other[layer][0, positions]
                logits = model.output.logits[:, -1].save()
            values = (logits[:, answer] - logits[:, foil]).tolist()
            found |= {(layer, pos): value for pos, value in zip(positions, values, strict=True)}
        return [found[layer, pos] for layer, pos in cells]

    def last(cells: Cells) -> list[float]:
        values = []
        for (layer,) in cells:
            with model.trace(long, logits_to_keep=1):
                layers[layer].output[:, -1] = of_reversed[layer][:, -1]
                logits = model.output.logits[0, -1].save()
            values.append((logits[answer] - logits[foil]).item())
        return values

    def heads(cells: Cells) -> list[float]:
        values = []
        for layer, head in cells:
            of_head = slice(head * width, (head + 1) * width)
            with model.trace(long, logits_to_keep=1):
                layers[layer].self_attn.o_proj.input[:, -1, of_head] = heads_of_reversed[layer][:, -1, of_head]
                logits = model.output.logits[0, -1].save()
            values.append((logits[answer] - logits[foil]).item())
        return values

    return {"forward": forward, "grid": grid, "last": last, "heads": heads}


if __name__ == "__main__":
    serve(prepare)
