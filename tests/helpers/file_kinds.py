"""Every kind of file that the library reads: an example of it, and what reading it gives, in values that compare."""

import contextlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any
from unittest import mock

import mlx.core as mx
import numpy as np
from dictionary_files import arrays_of, saelens_folder, without, write_json, write_tensors

import mlx_patch as mp
from mlx_patch import cli
from mlx_patch.circuits import BlockParts, EdgeScores, Graph
from mlx_patch.errors import FileError
from mlx_patch.files import content_digest
from mlx_patch.results import PairResult
from mlx_patch.testing import tiny_model

TINY = str(Path(__file__).parents[2] / "examples" / "models" / "tiny_instruct_ext")
PROMPTS = [[1, 2, 3], [4, 5, 6]]


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: What it is called.
        write: Writes an example into a folder, and returns the file that is damaged.
        read: From that file to its contents; raises what reading raises.
        form: "zip", "json", "safetensors", "yaml", "jsonl" or "text".
        readers: The public parameters, and the arguments of the command, that name such a file.
        sealed: Whether a sum over every byte that counts tells whether it is what was written.
        seal: Puts right sums into altered bytes, as who forges a file would.
        streams: Whether it may be a pipe.
        resumes: Whether reading it goes on with what it began, and writes it.
    """

    name: str
    write: Callable[[Path], Path]
    read: Callable[[Path], Any]
    form: str
    readers: tuple[str, ...]
    sealed: bool = False
    seal: Callable[[bytes], bytes] | None = None
    streams: bool = False
    resumes: bool = False


@cache
def model():
    return mp.HookedModel(tiny_model("llama"))


@cache
def tiny_instruct():
    return mp.HookedModel.load(TINY)


def plain(value):
    """A value whose parts compare with `==`: bits for arrays."""
    if isinstance(value, mx.array):
        bits = value.view(mx.uint16) if value.dtype == mx.bfloat16 else value
        return str(value.dtype), value.shape, np.array(bits).tobytes()
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, dict):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return repr(value)


# The command


def command(*arguments):
    """What the command prints.

    Raises:
        FileError: It ended with status 2 and one line, which the error has.
    """
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(list(map(str, arguments)))
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())
    printed, errors = texts
    if status == 2 and not printed and errors.startswith("error: ") and errors.count("\n") == 1:
        raise FileError(errors)
    assert (status, errors) == (0, ""), f"status {status}, {errors!r}"
    return printed


def show(path):
    return command("show", path)


# Activations


def write_cache(folder):
    arrays = {mp.Site("resid_post", 0): mx.arange(8.0).reshape(1, 2, 4), mp.Site("z", 1): mx.ones((1, 2, 2, 3))}
    arrays[mp.Site("z", 1)] = arrays[mp.Site("z", 1)].astype(mx.bfloat16)
    mp.ActivationCache(arrays, mx.array([[5, 6]]), (0, 1), 2, {"name": "a"}, 2).save(folder / "cache.safetensors")
    return folder / "cache.safetensors"


def cache_contents(held):
    return plain([dict(held.items()), held.tokens, held.positions, held.n_positions, held.model, held.n_layers])


def read_cache(path):
    held = mp.ActivationCache.load(path)
    repr(held)
    return cache_contents(held)


def capture(folder):
    return mp.ActivationStore.capture(model(), PROMPTS, folder, sites="embed", shard_mb=1e-6, pos=[-1])


def store_contents(store):
    repr(store)
    return [plain([store.sites, store.lengths, store.model]), *map(cache_contents, store)]


def write_index(folder):
    capture(folder / "store")
    return folder / "store" / "index.json"


def write_shard(folder):
    capture(folder / "store")
    return folder / "store" / "shard-00001.safetensors"


def read_store(path):
    return store_contents(mp.ActivationStore(path.parent))


def resume_store(path):
    return store_contents(capture(path.parent))


def show_store(path):
    return show(path.parent)


def seal_index(content):
    about = json.loads(content)
    del about["checksum"]
    digest = blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=16).hexdigest()
    return json.dumps({**about, "checksum": digest}).encode()


def seal_tensors(content):
    """With the sum over a safetensors file's metadata and arrays."""
    size = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8 : 8 + size]), content[8 + size :]
    metadata = {name: text for name, text in header["__metadata__"].items() if name != "checksum"}
    arrays = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            kind = {"F32": "<f4", "BF16": "<u2", "I32": "<i4", "F16": "<f2"}[entry["dtype"]]
            array = mx.array(np.frombuffer(body[begin:end], kind).reshape(entry["shape"]))
            arrays[name] = array.view(mx.bfloat16) if entry["dtype"] == "BF16" else array
    metadata["checksum"] = content_digest(metadata, arrays)
    header["__metadata__"] = metadata
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


# Results


def fields_of_result(n_metrics=1):
    values = np.arange(2.0 * 2 * n_metrics, dtype=np.float32).reshape(2, 2, n_metrics, 1)[
        :, :, 0 if n_metrics == 1 else slice(None)
    ]
    values[1, 1] = np.nan
    coords = {"layer": (0, 1), "pos": ((2, 3), 4), "token": (" a", "b"), "example": (0,)}
    axes = ("layer", "pos", "example")
    metrics = {"logit_diff": "LogitDiff(3, 4)"}
    if n_metrics > 1:
        coords["metric"] = ("kl", "prob")
        axes = ("layer", "pos", "metric", "example")
        metrics = {"kl": "KL()", "prob": "Prob(3)"}
    baseline = np.full(values.shape[2:], 0.25, np.float32)
    provenance = {"metrics": metrics, "executor": "reference", "selected": {"site": "z"}, "versions": {"mlx": "1"}}
    return {"values": values, "axes": axes, "coords": coords, "baseline": baseline, "provenance": provenance}


def sweep_result(n_metrics=1):
    return mp.SweepResult(**fields_of_result(n_metrics))


def estimate():
    fields = fields_of_result()
    return mp.Estimate(**fields, estimated=fields["values"] + 1, exact=np.eye(2) > 0, sampled=np.zeros((2, 2), bool))


def pair_result():
    fields = fields_of_result()
    fields["provenance"] = {**fields["provenance"], "normalised": {"clean": [1.0], "corrupted": [0.0]}}
    denoising = mp.SweepResult(**{**fields, "baseline": np.zeros(1, np.float32)})
    return PairResult(denoising, mp.SweepResult(**{**fields, "baseline": np.ones(1, np.float32)}))


def two_by_two():
    return mp.TwoByTwo((0, 2), np.arange(16, dtype=np.float32).reshape(2, 2, 2, 2), "m")


def read_two_by_two(path):
    result = mp.TwoByTwo.load(path)
    str(result)
    return plain([result.layers, result.cells, result.metric])


def saved(make, name):
    """A function that saves what `make` returns."""

    def write(folder):
        make().save(folder / name)
        return folder / name

    return write


def result_contents(result):
    repr(result)
    arrays = {name: getattr(result, name) for name in result.further_arrays}
    parts = [result.values, result.baseline, result.run_mask, result.axes, result.coords, result.provenance, arrays]
    return plain(parts)


def read_result(kind):
    return lambda path: result_contents(kind.load(path))


def read_pair(path):
    pair = PairResult.load(path)
    repr(pair)
    return [result_contents(pair.denoising), result_contents(pair.noising), repr(pair.summary())]


def sweep(path):
    tokens, edit = mx.array([[1, 2, 3]]), mp.Ablate("zero")
    metric = mp.metrics.LogitDiff(3, 4)
    return mp.sweep(model(), tokens, edit, "resid_post", "layer", metric, checkpoint=path, progress=False)


def write_checkpoint(folder):
    sweep(folder / "checkpoint")
    return folder / "checkpoint"


def write_half_checkpoint(folder):
    """The last of its cells has not been run."""
    path = write_checkpoint(folder)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name, blank in (("values", np.nan), ("done", False)):
        array = np.load(io.BytesIO(members[f"{name}.npy"]))
        array[(-1,) if name == "values" else (0, -1)] = blank
        content = io.BytesIO()
        np.save(content, array)
        members[f"{name}.npy"] = content.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def read_checkpoint(path):
    result = sweep(path)
    return [result_contents(result), str(result.plan)]


# Lenses and graphs


@cache
def lens(kind):
    choices = {"tuned": {"steps": 1, "positions": 4}, "jacobian": {}}[kind]
    fit = {"tuned": mp.lens.fit_tuned_lens, "jacobian": mp.lens.fit_jacobian_lens}[kind]
    return fit(model(), [[1, 2, 3, 4], [5, 6, 7, 8], [9, 8, 7, 6]], "blocks.0.hook_resid_post", **choices)


def read_lens(kind):
    def read(path):
        held = kind.load(path, model())
        repr(held)
        tokens = mx.array([[1, 2, 3]])
        logits = mp.lens.logit_lens(model(), tokens, held.sites, lens=held).logits(held.sites[0])
        biases = getattr(held, "biases", {})
        return plain([held.identity, dict(held.matrices), dict(biases), vars(held.fit), str(held.fit), logits])

    return read


def write_graph(folder):
    graph = Graph(tuple(BlockParts(layer, True, True, 2, 1, False) for layer in range(2)), 8)
    values = np.where(graph.has_edge, np.arange(graph.has_edge.size).reshape(graph.has_edge.shape), np.nan)
    EdgeScores(graph, values[:, :, None, None].astype(np.float32), np.zeros(1, np.float32), {}).to_json(
        folder / "graph.json"
    )
    return folder / "graph.json"


def read_graph(path):
    edges, circuit = EdgeScores.from_json(path, n_kv_heads=1)
    repr(edges)
    edges.to_json(path.parent / "again.json", circuit)
    (path.parent / "again.json").unlink()
    return plain([edges.values, circuit.has_edge, edges.graph])


# Dictionaries


def draw():
    return np.random.default_rng(7)


def saelens(folder):
    metadata = {"sae_lens_version": "6.12.1", "hook_name": "blocks.4.hook_resid_pre"}
    saelens_folder(folder / "sae", without(arrays_of(draw()), "threshold"), {"metadata": metadata})
    return folder / "sae"


def gemma_scope(folder, save=np.savez):
    (folder / "sae").mkdir()
    save(folder / "sae" / "params.npz", **arrays_of(draw()))
    return folder / "sae"


def gemma_scope_2(folder):
    arrays = {name.replace("W", "w"): array for name, array in arrays_of(draw()).items()}
    write_tensors(folder / "sae" / "params.safetensors", arrays)
    end = "model.layers.5.post_feedforward_layernorm.output"
    config = {"hf_hook_point_in": end, "hf_hook_point_out": end, "width": 10, "architecture": "jump_relu", "l0": 20}
    write_json(folder / "sae" / "config.json", {**config, "affine_connection": False, "type": "sae"})
    return folder / "sae"


def llama_scope(folder):
    arrays = arrays_of(draw())
    tensors = {"encoder.weight": arrays["W_enc"].T, "encoder.bias": arrays["b_enc"]}
    tensors |= {"decoder.weight": arrays["W_dec"].T, "decoder.bias": arrays["b_dec"]}
    write_tensors(folder / "sae" / "checkpoints" / "final.safetensors", tensors)
    hook = "blocks.19.hook_resid_post"
    config = {"hook_point_in": hook, "hook_point_out": hook, "d_model": 6, "d_sae": 10, "act_fn": "jumprelu"}
    config |= {"jump_relu_threshold": 0.25, "norm_activation": "dataset-wise", "use_decoder_bias": True}
    config |= {"dataset_average_activation_norm": {"in": 4.0, "out": 4.0}, "sparsity_include_decoder_norm": True}
    write_json(folder / "sae" / "hyperparams.json", config)
    return folder / "sae"


def sparsify(folder):
    arrays = arrays_of(draw())
    tensors = {"encoder.weight": arrays["W_enc"].T, "encoder.bias": arrays["b_enc"]}
    write_tensors(
        folder / "layers.10" / "sae.safetensors", {**tensors, "W_dec": arrays["W_dec"], "b_dec": arrays["b_dec"]}
    )
    config = {"d_in": 6, "k": 3, "num_latents": 10, "expansion_factor": 32, "normalize_decoder": True}
    write_json(folder / "layers.10" / "cfg.json", {**config, "transcode": False, "activation": "topk"})
    return folder / "layers.10"


def circuit_tracer(folder):
    arrays = arrays_of(draw())
    write_tensors(folder / "sae" / "layer_3.safetensors", without(arrays, "threshold") | {"W_enc": arrays["W_enc"].T})
    text = (
        "model_kind: transcoder_set\nfeature_input_hook: hook_resid_mid\nfeature_output_hook: hook_mlp_out\nscan: a\n"
    )
    (folder / "sae" / "config.yaml").write_text(text + "activation: topk\nk: 4\n", encoding="utf-8")
    return folder / "sae"


def file_of(write, name):
    """A function that writes a folder, and returns one of its files."""
    return lambda folder: write(folder) / name


def read_dictionary(name):
    """A function that reads the folder that the file of a name is in, and computes with it."""

    def read(path):
        folder = Path(str(path).removesuffix(f"/{name}"))
        sae = mp.dictionaries.load(folder)
        repr(sae)
        x = mx.arange(2.0 * sae.d_model).reshape(2, sae.d_model)
        features = sae.encode(x)
        decoded = sae.decode(features, x)
        assert (features.dtype, decoded.dtype) == (mx.float32, mx.float32)
        return plain([sae.identity, sae.site, sae.site_out, sae.settings, features, decoded, sae.directions([0])])

    return read


# What `show` reads


def written(name, content):
    """A function that writes a text, or a JSON value."""

    def write(folder):
        text = content() if callable(content) else content
        if not isinstance(text, str):
            text = json.dumps(text)
        (folder / name).write_text(text, encoding="utf-8")
        return folder / name

    return write


def told(*arguments):
    """A function that gives the JSON of a command on a model."""
    return lambda: command(*arguments, "--json", "-")


REPORT = {
    "format": "mlx_patch.Report.json/1",
    "model": "tiny",
    "ok": True,
    "seconds": 0.5,
    "versions": {},
    "findings": [{"law": 5, "what": "z of layer 0", "deviation": 0.0, "tolerance": 1e-6, "held": True}],
}
ZOO = {
    "format": "mlx_patch.ZooReport.json/1",
    "precision": "float32",
    "seconds": 1.5,
    "lines": [{"name": "llama", "outcome": "green", "checks": 9}, {"name": "olmo", "outcome": "red", "checks": 9}],
}
SUMMARY = {"i2b_peak_layer": 1, "i2b_peak_effect": 0.5, "b2i_peak_layer": 1, "b2i_peak_effect": -0.5}
STUDY = {
    "pair": "tiny",
    "display": "Tiny",
    "n_layers": 2,
    "n_tokens": 9,
    "baselines": {"instruct": {"tool_call_prob": 0.75}, "base": {"tool_call_prob": 0.25}},
    "instruct_to_base": {"0": {"effect": 0.125}, "1": {"effect": 0.5}},
    "base_to_instruct": {"0": {"effect": -0.0625}, "1": {"effect": -0.5}},
    "summary": SUMMARY,
}
STUDIES = {"n_pairs": 1, "pairs": {"tiny": {"display": "Tiny", "n_layers": 2, **SUMMARY}}}
PAIR = {"clean": "Mars is", "corrupted": "Rome is", "right": " red", "wrong": " old"}
PAIRS = f"{json.dumps(PAIR)}\n\n{json.dumps({**PAIR, 'clean': 'Jupiter is'})}\n"
CHAT = json.dumps([{"role": "user", "content": "hi"}])


def both_ways():
    pair = pair_result()
    return {name: json.loads(getattr(pair, name).to_json()) for name in ("denoising", "noising")}


def ask(path):
    """The JSON of a command on the prompt of a file; what the model would write is not of interest."""
    with mock.patch.object(mp.HookedModel, "generate", return_value="written"):
        return command("generate", TINY, "--prompt-file", path, "--json", "-")


SHOW = ("mlx_patch show file",)
PROMPTS_OF_FILES = tuple(
    f"mlx_patch {verb} --prompt-file" for verb in ("sweep", "attribute", "lens", "paths", "generate")
)
PROMPTS_OF_FILES += tuple(
    f"mlx_patch {verb} --source-file" for verb in ("sweep", "attribute", "lens", "paths", "generate")
)
PAIRS_OF_FILES = ("mlx_patch show file", *(f"mlx_patch {verb} --pairs" for verb in ("sweep", "attribute", "paths")))
LOAD_DICTIONARY = ("mlx_patch.dictionaries.load(folder=)",)
CHECKPOINTS = (
    "mlx_patch.sweep(checkpoint=)",
    "mlx_patch.attribute(checkpoint=)",
    "mlx_patch sweep --checkpoint",
    "mlx_patch paths --checkpoint",
)


def dictionary_kinds():
    for write, config, tensors in (
        (saelens, "cfg.json", "sae_weights.safetensors"),
        (gemma_scope, None, "params.npz"),
        (gemma_scope_2, "config.json", "params.safetensors"),
        (llama_scope, "hyperparams.json", "checkpoints/final.safetensors"),
        (sparsify, "cfg.json", "sae.safetensors"),
        (circuit_tracer, "config.yaml", "layer_3.safetensors"),
    ):
        for name in filter(None, (config, tensors)):
            form = {"npz": "zip"}.get(name.rpartition(".")[2], name.rpartition(".")[2])
            title = f"dictionary {write.__name__} {form}"
            yield Kind(title, file_of(write, name), read_dictionary(name), form, LOAD_DICTIONARY)
    compressed = file_of(lambda folder: gemma_scope(folder, np.savez_compressed), "params.npz")
    yield Kind("dictionary gemma_scope compressed", compressed, read_dictionary("params.npz"), "zip", LOAD_DICTIONARY)


def json_kinds():
    lens_of = ("lens", TINY, "--prompt", "Mars is", "--right", "4", "--positions", "last")
    for name, content in (
        ("SweepResult", lambda: sweep_result(2).to_json()),
        ("Estimate", lambda: estimate().to_json()),
        ("both ways", both_ways),
        ("Report", REPORT),
        ("ZooReport", ZOO),
        ("LogitLens", told(*lens_of, "--at", "resid_post", "--top", "1")),
        ("DirectLogits", told(*lens_of[:-1], "-1", "--by", "part")),
        ("generation", told("generate", TINY, "--prompt", "Mars is", "--max-tokens", "1")),
        ("sites", told("sites", TINY)),
        ("study", STUDY),
        ("studies", STUDIES),
    ):
        yield Kind(f"show {name}", written("a.json", content), show, "json", SHOW)


def kinds():
    """Every kind, by its name."""
    load = lambda cls: (f"mlx_patch.{cls}.load(path=)",)  # noqa: E731
    result, pair = saved(sweep_result, "a.npz"), saved(pair_result, "a.npz")
    store = ("mlx_patch.ActivationStore(path=)",)
    tuned, jacobian = (saved(lambda kind=kind: lens(kind), "lens.safetensors") for kind in ("tuned", "jacobian"))
    seals = {"sealed": True, "seal": seal_tensors}
    index = {"sealed": True, "seal": seal_index}
    each = [
        Kind("cache", write_cache, read_cache, "safetensors", load("ActivationCache"), **seals),
        Kind("show cache", write_cache, show, "safetensors", SHOW, **seals),
        Kind("store index", write_index, read_store, "json", store, **index),
        Kind("store shard", write_shard, read_store, "safetensors", store, sealed=True),
        Kind(
            "store resumed", write_index, resume_store, "json", ("mlx_patch.ActivationStore.capture(path=)",), **index
        ),
        Kind("show store", write_index, show_store, "json", SHOW, **index),
        Kind("SweepResult", result, read_result(mp.SweepResult), "zip", load("SweepResult"), sealed=True),
        Kind("several metrics", saved(lambda: sweep_result(2), "a.npz"), read_result(mp.SweepResult), "zip", (), True),
        Kind("Estimate", saved(estimate, "a.npz"), read_result(mp.Estimate), "zip", load("Estimate"), sealed=True),
        Kind("PairResult", pair, read_pair, "zip", load("sweeps.PairResult"), sealed=True),
        Kind("TwoByTwo", saved(two_by_two, "a.npz"), read_two_by_two, "zip", load("TwoByTwo"), sealed=True),
        Kind("show TwoByTwo", saved(two_by_two, "a.npz"), show, "zip", SHOW, sealed=True),
        Kind("show SweepResult zip", result, show, "zip", SHOW, sealed=True),
        Kind("show Estimate zip", saved(estimate, "a.npz"), show, "zip", SHOW, sealed=True),
        Kind("show PairResult", pair, show, "zip", SHOW, sealed=True),
        Kind("checkpoint", write_checkpoint, read_checkpoint, "zip", CHECKPOINTS, sealed=True, resumes=True),
        Kind("half a checkpoint", write_half_checkpoint, read_checkpoint, "zip", (), sealed=True, resumes=True),
        Kind("TunedLens", tuned, read_lens(mp.lens.TunedLens), "safetensors", load("lens.TunedLens"), **seals),
        Kind(
            "JacobianLens", jacobian, read_lens(mp.lens.JacobianLens), "safetensors", load("lens.JacobianLens"), **seals
        ),
        Kind("graph", write_graph, read_graph, "json", ("mlx_patch.circuits.EdgeScores.from_json(path=)",)),
        Kind("show graph", write_graph, show, "json", SHOW),
        Kind("show pairs", written("pairs.jsonl", PAIRS), show, "jsonl", PAIRS_OF_FILES),
        Kind("prompt", written("a.txt", "Mars is"), ask, "text", PROMPTS_OF_FILES, streams=True),
        Kind("chat", written("a.jsonl", CHAT), ask, "jsonl", (), streams=True),
        *dictionary_kinds(),
        *json_kinds(),
    ]
    return {kind.name: kind for kind in each}


KINDS = kinds()
