"""The model of a command, and the edits of its runs."""

import argparse

from mlx_patch.model import HookedModel


def add_model(parser: argparse.ArgumentParser) -> None:
    """The arguments for a model."""
    parser.add_argument("model", help="a folder or a hub id, as mlx_lm.load takes it")
    parser.add_argument("--adapter-path", metavar="FOLDER", help="a LoRA adapter, as mlx_lm.lora writes it")


def chosen_model(options: argparse.Namespace) -> HookedModel:
    """The model of a command.

    Raises:
        PatchError: As `HookedModel.load`.
    """
    return HookedModel.load(options.model, adapter_path=options.adapter_path)


def add_edits(parser: argparse.ArgumentParser) -> None:
    """The argument for edits of a run."""
    parser.add_argument(
        "--edit",
        action="append",
        metavar="EDIT",
        help="an edit of every run, as in Python: \"Ablate('zero').at('z', layer=3, head=1)\". May repeat",
    )
