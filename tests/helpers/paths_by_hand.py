"""Path patching by brute force, on the modules of mlx_lm itself: all is frozen by hand but for one path.

Nothing of mlx_patch is used. A module is replaced by one that calls it and changes what goes in or comes out. A path
takes three runs of the whole model: one with the sender, to see what its module adds; one in which every attention (and
MLP) gives what it gave for the host, but for the sender's; one with what the receiver made of that.
"""

from contextlib import contextmanager
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn


@dataclass(frozen=True)
class Names:
    """Where parts are in a block, and how wide one head is in what the projections return.

    Attributes:
        attention: The attention.
        heads: The output projection, whose input has the heads side by side.
        mlp: The MLP or the mixture of experts.
        q: The projections to queries, keys and values.
        k: As `q`.
        v: As `q`.
        router: What chooses experts; none where empty.
        fused: Whether the three projections are one, whose output has q, k and v of a head side by side.
        embed: The embedding, from the model.
        norm: The norm before the unembedding, from the model.
        n_heads: The number of query heads.
        n_kv_heads: The number of heads of keys and values.
    """

    attention: str = "self_attn"
    heads: str = "self_attn.o_proj"
    mlp: str = "mlp"
    q: str = "self_attn.q_proj"
    k: str = "self_attn.k_proj"
    v: str = "self_attn.v_proj"
    router: str = ""
    fused: bool = False
    embed: str = "model.embed_tokens"
    norm: str = "model.norm"
    n_heads: int = 4
    n_kv_heads: int = 2


class Stand(nn.Module):
    """A module that calls another, and changes the array that goes in or what comes out."""

    def __init__(self, inner, before, after):
        super().__init__()
        self["inner"] = inner
        self["change"] = (before, after)

    def __getattr__(self, name):
        if name in ("inner", "change"):
            return self[name]
        return getattr(self["inner"], name)

    def __call__(self, first, *args, **keywords):
        before, after = self["change"]
        if before is not None:
            first = before(first)
        returned = self["inner"](first, *args, **keywords)
        return returned if after is None else after(returned)


def _holder(root, path):
    """The module that has the last part of a path, and that part."""
    *parents, name = path.split(".")
    for parent in parents:
        root = getattr(root, parent)
    return root, name


@contextmanager
def _standing(model, changes):
    """The model with modules replaced: by layer (None for the model) and path, functions of input and of output."""
    replaced = []
    try:
        # Outer modules last: they are looked up by paths that lead through them.
        for (layer, path), (before, after) in sorted(changes.items(), key=lambda item: -item[0][1].count(".")):
            holder, name = _holder(model if layer is None else model.layers[layer], path)
            inner = getattr(holder, name)
            replaced.append((holder, name, inner))
            setattr(holder, name, Stand(inner, before, after))
        yield
    finally:
        for holder, name, inner in reversed(replaced):
            setattr(holder, name, inner)


def _run(model, tokens, changes):
    with _standing(model, changes):
        logits = model(tokens)
        mx.eval(logits)
    return logits


def _put(array):
    return lambda _: array


class ByHand:
    """A model of mlx_lm, and the activations of two prompts of one length.

    A writer is "embed", ("attention", layer) or ("mlp", layer). `changes` are functions of a module's input and output.
    """

    def __init__(self, model, names, host, source):
        self.model, self.names, self.host = model, names, host
        self.host_outputs, self.host_heads = self._record(host)
        self.source_outputs, self.source_heads = self._record(source)

    def _record(self, tokens):
        outputs, heads = {}, {}

        def note(into, key):
            return lambda array: into.update({key: array}) or array

        changes = {(None, self.names.embed): (None, note(outputs, "embed"))}
        for layer in range(len(self.model.layers)):
            changes[layer, self.names.attention] = (None, note(outputs, ("attention", layer)))
            changes[layer, self.names.mlp] = (None, note(outputs, ("mlp", layer)))
            changes[layer, self.names.heads] = (note(heads, layer), None)
        _run(self.model, tokens, changes)
        return outputs, heads

    def _module(self, writer):
        if writer == "embed":
            return None, self.names.embed
        part, layer = writer
        return layer, getattr(self.names, part)

    def head(self, layer, head, pos=slice(None)):
        """The sender that is one head of the source: its writer and changes."""

        def change(heads):
            width = heads.shape[-1] // self.names.n_heads
            columns = slice(head * width, (head + 1) * width)
            new = mx.array(heads)
            new[:, pos, columns] = self.source_heads[layer][:, pos, columns]
            return new

        return ("attention", layer), {(layer, self.names.heads): (change, None)}

    def whole(self, writer, pos=slice(None)):
        """The sender that is all that a module of the source returns."""

        def change(output):
            new = mx.array(output)
            new[:, pos] = self.source_outputs[writer][:, pos]
            return new

        return writer, {self._module(writer): (None, change)}

    def sent(self, senders):
        """What the writers of some senders return, each on the host's stream."""
        outputs = {}
        for writer, changes in senders:
            noted = []
            key = self._module(writer)
            before, after = changes.get(key, (None, None))

            def note(output, after=after, noted=noted):
                noted.append(output if after is None else after(output))
                return noted[0]

            _run(self.model, self.host, {**changes, key: (before, note)})
            outputs[writer] = noted[0]
        return outputs

    def _frozen(self, senders, freeze):
        """Every writer holds what it returned for the host, but for the senders', which hold what they send."""
        held = {
            writer: output
            for writer, output in self.host_outputs.items()
            if writer == "embed" or freeze == "all" or writer[0] == "attention"
        }
        held.update(self.sent(senders))
        return {self._module(writer): (None, _put(output)) for writer, output in held.items()}

    def direct(self, senders, freeze):
        """The logits of a path to them. Shape `(batch, pos, d_vocab)`."""
        return _run(self.model, self.host, self._frozen(senders, freeze))

    def through(self, senders, receiver, layer, head, freeze):
        """The changes of a run in which a receiver reads what the senders change.

        Args:
            senders: What `head` or `whole` return.
            receiver: "q", "k", "v", "mlp", "router" or "attention".
            layer: Its block.
            head: The head that receives; None is all.
            freeze: "all" or "attention".
        """
        path = getattr(self.names, receiver)
        frozen = self._frozen(senders, freeze)
        noted = []
        if receiver not in "qkv":  # it is given the changed input

            def note_input(array):
                noted.append(array)
                return array

            _, held = frozen.get((layer, path), (None, None))
            _run(self.model, self.host, {**frozen, (layer, path): (note_input, held)})
            return {(layer, path): (_put(noted[0]), None)}

        def note(output):
            noted.append(output)
            return output

        frozen.pop((layer, self.names.attention))  # whose projection is read
        _run(self.model, self.host, {**frozen, (layer, path): (None, note)})

        def put(output):
            columns = self._columns(receiver, output.shape[-1], head)
            new = mx.array(output)
            new[..., columns] = noted[0][..., columns]
            return new

        return {(layer, path): (None, put)}

    def _columns(self, receiver, width, head):
        """The entries of one head, or of all, in what a projection returns."""
        n_heads = self.names.n_kv_heads if receiver in "kv" else self.names.n_heads
        heads = range(n_heads) if head is None else [head]
        if self.names.fused:
            n_parts, part = 3, "qkv".index(receiver)
        else:
            n_parts, part = 1, 0
        d_head = width // (n_heads * n_parts)
        starts = [(head * n_parts + part) * d_head for head in heads]
        return mx.array([start + index for start in starts for index in range(d_head)])

    def added_at_the_end(self, senders, freeze):
        """By how much the stream before the final norm differs, if only that reads what senders change."""
        ends = []

        def note(stream):
            ends.append(stream)
            return stream

        for changes in ({}, self._frozen(senders, freeze)):
            _run(self.model, self.host, {**changes, (None, self.names.norm): (note, None)})
        return ends[1] - ends[0]

    def logits(self, changes, added=0.0):
        """The logits of a run of the host with changes, and something added at the end of the stream.

        Shape `(batch, pos, d_vocab)`.
        """
        return _run(self.model, self.host, {**changes, (None, self.names.norm): (lambda stream: stream + added, None)})
