"""Circuits: the edges from what writes to the stream to what reads it, their scores, and the circuits they make."""

from mlx_patch._presence import shown_names as _shown_names
from mlx_patch.circuits._circuit import Circuit as Circuit
from mlx_patch.circuits._curve import SHARES as SHARES
from mlx_patch.circuits._curve import FaithfulnessCurve as FaithfulnessCurve
from mlx_patch.circuits._edge_scores import EdgeScores as EdgeScores
from mlx_patch.circuits._edges import edges as edges
from mlx_patch.circuits._edges import writer_sites as writer_sites
from mlx_patch.circuits._faithfulness import faithfulness as faithfulness
from mlx_patch.circuits._graph import BlockParts as BlockParts
from mlx_patch.circuits._graph import Graph as Graph
from mlx_patch.circuits._head_effects import HeadEffects as HeadEffects
from mlx_patch.circuits._head_effects import head_effects as head_effects
from mlx_patch.circuits._nodes import Reader as Reader
from mlx_patch.circuits._nodes import Writer as Writer
from mlx_patch.circuits._pruning import Minimality as Minimality
from mlx_patch.circuits._pruning import Pruning as Pruning
from mlx_patch.circuits._pruning import minimality as minimality
from mlx_patch.circuits._pruning import prune as prune
from mlx_patch.circuits._run import run as run


def __dir__() -> list[str]:
    """What is meant for the user of the module."""
    return _shown_names(globals())
