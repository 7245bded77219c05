"""Lenses: what the stream says at each layer, and how much each part of it adds to a logit."""

from mlx_patch._presence import shown_names as _shown_names
from mlx_patch.lens._attention import AttentionSummary as AttentionSummary
from mlx_patch.lens._attention import attention_summary as attention_summary
from mlx_patch.lens._attention import pattern_page as pattern_page
from mlx_patch.lens._attention import plot_pattern as plot_pattern
from mlx_patch.lens._direct_logits import direct_logits as direct_logits
from mlx_patch.lens._direct_result import DirectLogits as DirectLogits
from mlx_patch.lens._expert_parts import ExpertParts as ExpertParts
from mlx_patch.lens._expert_parts import expert_parts as expert_parts
from mlx_patch.lens._fit_jacobian_lens import fit_jacobian_lens as fit_jacobian_lens
from mlx_patch.lens._fit_record import FitRecord as FitRecord
from mlx_patch.lens._fit_tuned_lens import fit_tuned_lens as fit_tuned_lens
from mlx_patch.lens._fitted_lens import FittedLens as FittedLens
from mlx_patch.lens._head_parts import HeadParts as HeadParts
from mlx_patch.lens._head_parts import head_parts as head_parts
from mlx_patch.lens._jacobian_lens import JacobianLens as JacobianLens
from mlx_patch.lens._lens_result import LogitLens as LogitLens
from mlx_patch.lens._logit_lens import logit_lens as logit_lens
from mlx_patch.lens._top_tokens import TopTokens as TopTokens
from mlx_patch.lens._tuned_lens import TunedLens as TunedLens


def __dir__() -> list[str]:
    """What is meant for the user of the module."""
    return _shown_names(globals())
