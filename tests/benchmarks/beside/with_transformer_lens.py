"""The tasks with TransformerLens: its own `generic_activation_patch`; the grid also by hooks on 16 rows a run."""

from typing import Any

from worker import Cells, Tasks, serve


def prepare(setting: dict[str, Any]) -> Tasks:
    """The tasks on one model, with the activations of the other prompts at hand."""
    import pandas as pd
    import torch
    from transformer_lens import patching
    from transformer_lens.model_bridge import TransformerBridge

    torch.set_num_threads(setting["threads"])
    torch.set_grad_enabled(False)
    model = TransformerBridge.boot_transformers(setting["folder"], device="cpu", dtype=torch.float32)
    model.eval()
    short, other, long, reversed_ = (torch.tensor([setting[name]]) for name in ("short", "other", "long", "reversed"))
    answer, foil = setting["answer"], setting["foil"]
    _, of_other = model.run_with_cache(other, names_filter=lambda name: name.endswith("hook_resid_post"))
    sites = ("hook_resid_post", "attn.hook_z")
    _, of_reversed = model.run_with_cache(reversed_, names_filter=lambda name: name.endswith(sites))

    def difference(logits: Any) -> Any:
        return logits[0, -1, answer] - logits[0, -1, foil]

    def at_last(corrupted: Any, index: list[int], clean: Any) -> Any:
        corrupted[:, -1] = clean[:, -1]
        return corrupted

    def head_at_last(corrupted: Any, index: list[int], clean: Any) -> Any:
        corrupted[:, -1, index[1]] = clean[:, -1, index[1]]
        return corrupted

    def patched(tokens: Any, cache: Any, setter: Any, site: str, cells: Cells, axes: tuple[str, ...]) -> list[float]:
        frame = pd.DataFrame(cells, columns=list(axes))
        patch = patching.generic_activation_patch
        return patch(model, tokens, cache, difference, setter, site, index_df=frame).tolist()

    def by_rows(cells: Cells) -> list[float]:
        found: dict[tuple[int, int], float] = {}
        for layer in sorted({layer for layer, _ in cells}):
            positions = [pos for of, pos in cells if of == layer]

            def hook(stream: Any, hook: Any, positions: Any = positions, layer: int = layer) -> Any:
                stream[range(len(positions)), positions] = of_other["resid_post", layer][0, positions]
                return stream

            rows = short.repeat(len(positions), 1)
            logits = model.run_with_hooks(rows, fwd_hooks=[(f"blocks.{layer}.hook_resid_post", hook)])[:, -1]
            values = (logits[:, answer] - logits[:, foil]).tolist()
            found |= {(layer, pos): value for pos, value in zip(positions, values, strict=True)}
        return [found[layer, pos] for layer, pos in cells]

    pos_setter = patching.layer_pos_patch_setter
    return {
        "forward": lambda cells: model(long)[0, -1, :8].tolist(),
        "grid": lambda cells: patched(short, of_other, pos_setter, "resid_post", cells, ("layer", "pos")),
        "grid by rows": by_rows,
        "last": lambda cells: patched(long, of_reversed, at_last, "resid_post", cells, ("layer",)),
        "heads": lambda cells: patched(long, of_reversed, head_at_last, "z", cells, ("layer", "head")),
    }


if __name__ == "__main__":
    serve(prepare)
