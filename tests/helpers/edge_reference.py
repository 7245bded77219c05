"""The metric when one reader reads what one writer would add, with the model's own modules called by hand."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

import mlx_patch as mp

TOKENS = mx.array([[(11 + 37 * i) % 96 for i in range(8)], [(5 + 31 * i) % 96 for i in range(8)]])
OTHER = mx.array([[(3 + 29 * i) % 96 for i in range(8)], [(8 + 11 * i) % 96 for i in range(8)]])
METRIC = mp.metrics.LogitDiff(3, 5)
STEP = 1e-2


@dataclass(frozen=True)
class Names:
    """What the modules of a family are called, and what they do to what they add; written from mlx_lm's code."""

    blocks: str = "model.layers"
    attention: str = "self_attn"
    output: str = "o_proj"
    read_norm: str = "input_layernorm"
    mlp_norm: str = "post_attention_layernorm"
    final_norm: str = "model.norm"
    behind_attention: str | None = None
    mlp_reads: str = "resid_mid"


NAMES = {
    "llama": Names(),
    "qwen3": Names(),
    "granite": Names(),
    "mixtral": Names(),
    "deepseek_v3": Names(),
    "gemma2": Names(mlp_norm="pre_feedforward_layernorm", behind_attention="post_attention_layernorm"),
    "gpt_neox-parallel": Names(
        "model.h", "attention", "dense", final_norm="model.final_layer_norm", mlp_reads="resid_pre"
    ),
}


class Reference:
    """The metric when one reader reads what one writer would add, computed with the model's own modules by hand."""

    def __init__(self, model, name, source):
        self.model, self.names, self.source = model, NAMES[name], source
        _, self.host = model.run_with_cache(TOKENS, sites=model.sites)

    def module(self, layer, path):
        module = self.model.layout.blocks[layer]
        for part in path.split("."):
            module = getattr(module, part)
        return module

    def added(self, writer, step, pos):
        """What a writer adds more, where its own input moves by a step towards the source."""
        sites = {"input": ("embed",), "mlp": ("mlp_out", writer.layer), "mixer": ("mixer_out", writer.layer)}
        if writer.kind == "head":
            return self._share(writer, step, pos)
        site = sites[writer.kind]
        change = step * (self.source[site] - self.host[site])
        return change if pos is None else mx.where(mx.arange(8)[:, None] == pos, change, 0)

    def _share(self, writer, step, pos):
        z, other = self.host["z", writer.layer], self.source["z", writer.layer]
        is_moved = (mx.arange(z.shape[2]) == writer.head)[:, None]
        if pos is not None:
            is_moved = is_moved & (mx.arange(8) == pos)[:, None, None]
        moved = mx.where(is_moved, z + step * (other - z), z)
        return self._attn_out(writer.layer, moved) - self._attn_out(writer.layer, z)

    def added_by_heads(self, layer, heads):
        """What some heads of a block add more together, with the source's `z`."""
        z = self.host["z", layer]
        is_moved = mx.array([head in heads for head in range(z.shape[2])])[:, None]
        moved = mx.where(is_moved, self.source["z", layer], z)
        return self._attn_out(layer, moved) - self._attn_out(layer, z)

    def _attn_out(self, layer, z):
        out = self.module(layer, f"{self.names.attention}.{self.names.output}")(z.flatten(-2))
        if self.names.behind_attention:
            out = self.module(layer, self.names.behind_attention)(out)
        return out * getattr(self.model.layout.blocks[layer], "residual_multiplier", 1.0)

    def metric(self, reader, added):
        """The metric when a reader reads the stream and `added`."""
        return np.array(METRIC(self.model.run(TOKENS, edits=[self._edit(reader, added)])))

    def _edit(self, reader, added):
        layer = reader.layer
        if reader.kind == "logits":
            return mp.Add(added).at(f"{self.names.final_norm}:input")
        block = f"{self.names.blocks}.{layer}"
        if reader.kind == "mlp":
            stream = self.host[self.names.mlp_reads, layer] + added
            return mp.Replace(stream).at(f"{block}.{self.names.mlp_norm}:input")
        stream = self.host["resid_pre", layer] + added
        if reader.kind == "mixer":
            return mp.Replace(stream).at(f"{block}.{self.names.read_norm}:input")
        return mp.Replace(self._projected(reader, stream)).at(reader.kind, layer=layer, head=reader.head)

    def _projected(self, reader, stream):
        """The queries, keys or values of a head, from another stream."""
        normed = self.module(reader.layer, self.names.read_norm)(stream)
        if self.names.attention == "attention":
            joined = self.module(reader.layer, "attention.query_key_value")(normed)
            n_heads = self.host["q", reader.layer].shape[2]
            by_head = joined.reshape(*joined.shape[:2], n_heads, 3, -1)[..., "qkv".index(reader.kind), :]
        else:
            projected = self.module(reader.layer, f"self_attn.{reader.kind}_proj")(normed)
            by_head = projected.reshape(*projected.shape[:2], *self.host[reader.kind, reader.layer].shape[2:])
        return by_head[:, :, reader.head : reader.head + 1]

    def slope(self, writer, reader, pos=None):
        """The derivative of the metric at a step of 0, by a central difference. Shape `(example,)`."""
        ends = [self.metric(reader, self.added(writer, step, pos)) for step in (STEP, -STEP)]
        return (ends[0] - ends[1]) / (2 * STEP)
