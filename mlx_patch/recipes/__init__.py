"""Recipes: experiments of the literature, each a short function of the library's verbs."""

from mlx_patch._presence import shown_names as _shown_names
from mlx_patch.recipes._activations import mean_activations as mean_activations
from mlx_patch.recipes._axes import KeysAxis as KeysAxis
from mlx_patch.recipes._axes import SourceLayerAxis as SourceLayerAxis
from mlx_patch.recipes._axes import SubspaceAxis as SubspaceAxis
from mlx_patch.recipes._causal_trace import causal_trace as causal_trace
from mlx_patch.recipes._contrast_direction import ContrastDirection as ContrastDirection
from mlx_patch.recipes._contrast_direction import ablation_of as ablation_of
from mlx_patch.recipes._contrast_direction import contrast_direction as contrast_direction
from mlx_patch.recipes._function_vector import FunctionVector as FunctionVector
from mlx_patch.recipes._function_vector import function_vector as function_vector
from mlx_patch.recipes._function_vector import head_outputs as head_outputs
from mlx_patch.recipes._interchange import interchange as interchange
from mlx_patch.recipes._interchange import read_parts as read_parts
from mlx_patch.recipes._knockout import knockout as knockout
from mlx_patch.recipes._patchscope import IDENTITY as IDENTITY
from mlx_patch.recipes._patchscope import patchscope as patchscope
from mlx_patch.recipes._task_vector import task_vector as task_vector


def __dir__() -> list[str]:
    """What is meant for the user of the module."""
    return _shown_names(globals())
