"""Train the LoRA adapter of the D1 study's SmolLM2 pair with mlx_lm's own trainer.

    python examples/train_d1_adapter.py --out examples/models/smollm2_d1_adapter

The adapter teaches SmolLM2-135M-Instruct to look a list up with a tool call where tools are offered, and to go on
answering from memory where they are not. docs/d1.md says what came out.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from d1_adapter_corpus import conversations
from d1_data import ADAPTER, SMOLLM2

from mlx_patch.testing import smollm2_folder

SETTINGS = Path(__file__).with_name("smollm2_d1_adapter.yaml")
SIZES = {"train": 480, "valid": 24}
_PLACES = ("adapter_path", "config", "data", "model")  # true on the machine that trained, and nowhere else


def write_data(folder: Path, seed: int) -> None:
    """Write `train.jsonl` and `valid.jsonl`, one conversation a line."""
    for i, (name, count) in enumerate(SIZES.items()):
        lines = (json.dumps({"messages": messages}) for _, messages in conversations(2 * seed + i, count))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def train(model: Path, data: Path, folder: Path, more: list[str]) -> None:
    """Let mlx_lm write `adapters.safetensors` and `adapter_config.json`."""
    trainer = [sys.executable, "-m", "mlx_lm", "lora", "--train", "--config", str(SETTINGS)]
    places = ["--model", str(model), "--data", str(data), "--adapter-path", str(folder)]
    subprocess.run([*trainer, *places, *more], check=True)


def without_places(path: Path, model: str) -> None:
    """Name the model in an `adapter_config.json`, and no folder of this machine."""
    config = {key: value for key, value in json.loads(path.read_text()).items() if key not in _PLACES}
    path.write_text(json.dumps({"model": model, **config}, indent=2) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Write the data, train, and put the adapter in its place."""
    parser = argparse.ArgumentParser(
        description="Train the adapter of the D1 study's SmolLM2 pair.",
        epilog="Other options go to mlx_lm's trainer, before its settings: --iters 2, to see that everything runs.",
    )
    parser.add_argument("--out", type=Path, default=ADAPTER, help="folder for the adapter")
    parser.add_argument("--model", type=Path, help="folder of another model than SmolLM2")
    parser.add_argument("--seed", type=int, default=0, help="of the data and of the trainer")
    options, more = parser.parse_known_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        data, made = Path(scratch, "data"), Path(scratch, "adapter")
        data.mkdir()
        write_data(data, options.seed)
        train(options.model or smollm2_folder(), data, made, ["--seed", str(options.seed), *more])
        without_places(made / "adapter_config.json", options.model.name if options.model else SMOLLM2)
        for name in ("adapters.safetensors", "adapter_config.json"):
            (options.out / name).write_bytes((made / name).read_bytes())


if __name__ == "__main__":
    main()
