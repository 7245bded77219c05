"""`edits_of`: paths as edits that any run takes."""

from collections.abc import Iterable
from typing import Any

from mlx_patch import arguments
from mlx_patch.errors import KindError, shown
from mlx_patch.interventions import Edit, Path
from mlx_patch.model import HookedModel, SelectorResolver, as_edits, require_hooked
from mlx_patch.paths._resolve import resolve_paths
from mlx_patch.tokens import tokens_of


def edits_of(
    model: HookedModel, tokens: Any, paths: Path | Iterable[Path], freeze: str = "all", edits: Iterable[Edit] = ()
) -> tuple[Edit, ...]:
    """The edits at the receivers of some paths, for runs of the same prompts.

    Args:
        model: The model.
        tokens: The host: a text, chat messages, or token ids of shape `(batch, pos)` or `(pos,)`.
        paths: What `Edit.via` makes. They act together.
        freeze: What is frozen between sender and receiver: "all" other writers, or "attention", where MLPs are
            recomputed.
        edits: Standing edits, which the host has, and the run of the result needs too.
    Returns:
        Edits that put the receivers' new values in. `model.run(tokens, edits)` is then the patched run.
    Raises:
        KindError: Something is no path.
        PatchError: A path cannot exist, or the model has none; the message says why.
    Source:
        Goldowsky-Dill et al. 2023, https://arxiv.org/abs/2304.05969; Wang et al. 2022,
        https://arxiv.org/abs/2211.00593.
    """
    require_hooked("model", model)
    if isinstance(paths, Path):
        paths = (paths,)
    cell = arguments.entries("paths", paths, "a path, or a list of paths")
    for path in cell:
        if not isinstance(path, Path):
            raise KindError(
                f"`paths` must hold paths, which `.via(...)` makes. Got {shown(path)}. Pass edits to the run."
            )
    ids = tokens_of(tokens, model.tokenizer, model.d_vocab)
    resolver = SelectorResolver(ids, model.tokenizer)
    members = [path.with_edit(*resolver.edits([path.edit])) for path in cell]
    [resolved] = resolve_paths(model.layout, ids, resolver.edits(as_edits(edits)), [members], freeze).cells
    return resolved
